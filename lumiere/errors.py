"""Errors whose message is one sentence for the user (standard library only)."""


class GenerationError(RuntimeError):
    """A run failed for a reason that concerns the user; the message is one sentence."""


class UserError(ValueError):
    """A refusal or an expected failure; the message is one sentence for the user."""
