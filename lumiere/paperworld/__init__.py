"""The paper world: a procedural world of cut-paper cartoons whose every clip has a known truth."""
