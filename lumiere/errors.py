"""Errors whose message is one sentence for the person who asked (standard library only)."""


class GenerationError(RuntimeError):
    """A run that failed for a reason worth telling the person who asked; the message is one sentence."""
