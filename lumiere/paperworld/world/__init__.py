"""The world: scenes, how they are drawn, captions, rendered data."""
