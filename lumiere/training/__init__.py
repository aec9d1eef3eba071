"""Training of motion weights."""
