"""Adapters to export, each trained when a test first asks for it."""

import functools

import pytest
from trained_adapters import train_adapter


@pytest.fixture(scope="session")
def trained(tiny_base, rows, registry, tmp_path_factory):
    """A function from a name in `trained_adapters.RECIPES` to a packed adapter."""
    folder = tmp_path_factory.mktemp("trained")
    return functools.cache(lambda name: train_adapter(name, folder / name, tiny_base, rows, registry))
