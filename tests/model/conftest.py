"""A small UNet of Stable Diffusion 1.5's layout with an AnimateDiff adapter."""

import pytest

from lumiere.model.animatediff import load_adapter
from tests.model.test_animatediff import shaken_adapter, small_unet


@pytest.fixture(scope="module")
def unet():
    return small_unet("sd")


@pytest.fixture(scope="module")
def adapter(unet):
    return shaken_adapter(unet, middle=True)


@pytest.fixture
def lumiere(unet, adapter):
    return load_adapter(unet, adapter)
