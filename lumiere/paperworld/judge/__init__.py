"""Measures colour, subject, background and motion of a clip from its pixels."""
