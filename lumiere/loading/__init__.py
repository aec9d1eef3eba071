"""Loads base models from folders and the hub: model registry, file layout, components, LoRA styles."""
