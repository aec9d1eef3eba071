"""Base models from folders and the hub: the table of models, their files and components, styles."""
