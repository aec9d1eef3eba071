"""Trains motion weights."""
