"""The world: scenes, rendering, captions and rendered datasets."""
