"""Reading and writing clips and pictures."""
