"""Lumiere: text to video with a space-time model inserted into a frozen text-to-image UNet."""
