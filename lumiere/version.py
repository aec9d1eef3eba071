"""Which clip a request gives, as a number that clips are saved with. Standard library only."""

# Raised by hand whenever the same request gives another clip: weights or sampling changed.
SAMPLING_VERSION = 2
