"""Training of the embedded model's parts, and its folder."""
