"""Reads and writes clips and images."""
