"""Backbones that the jobs of a session share: to load, trace and compile one takes longer than a job of a test."""

from __future__ import annotations

import functools

import pytest

from mvead_jax.jobs import inputs
from mvead_jax.runtime import sharding


@pytest.fixture(scope="session", autouse=True)
def kept_backbones():
    """Every backbone that a job asks for is loaded once; processes and tests/backbones load their own.

    A session's fixture outlasts the folder that asks for it, so a test that changes the mesh gets another backbone.
    """
    load = inputs.load_backbone

    @functools.lru_cache(8)
    def kept(mesh, *arguments):
        return load(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "load_backbone", lambda *arguments: kept(sharding.local_mesh(), *arguments))
        yield
