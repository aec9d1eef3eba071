"""Reads colour, subject, place and motion from pixels."""
