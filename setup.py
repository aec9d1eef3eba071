"""Packages of the distribution; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lumiere*"]), "lumiere.assets"],
    package_dir={"lumiere.assets": "assets"},  # stays at the top of the repository
)
