"""Cases of parametrised tests that run only in the soak ring: others prove the same rule each day."""

import pytest


def soak(*cases) -> list:
    """Returns the cases, each a value or a tuple of values, marked for the nightly run."""
    return [pytest.param(*(x if isinstance(x, tuple) else (x,)), marks=pytest.mark.soak) for x in cases]
