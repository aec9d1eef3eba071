"""Trains the components of the embedded model and writes its folder."""
