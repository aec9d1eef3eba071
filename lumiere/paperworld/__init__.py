"""The paper world: procedural clips of cut-paper cartoons with known ground truth."""
