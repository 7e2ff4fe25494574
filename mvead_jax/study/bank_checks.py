"""The search in a memory bank and the distance to a hull, beside slow NumPy in float64; and the time of a search."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvead_jax.bank.hull import hull_distance
from mvead_jax.bank.nearest import k_nearest
from mvead_jax.bank.search.bounds import Precision
from mvead_jax.methods.checks import Check, Job, Workload

_K, _RIDGE = 5, 0.1
_PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
_QUERIES, _ROWS, _WIDTH = 2048, 16384, 384  # of the time


def bank_checks() -> list[Check]:
    """Return the checks: indices must be those of float64."""
    searches = [
        Check(f"search {precision}", partial(_search, precision), _expected_search, 1e-6, 8)
        for precision in _PRECISIONS
    ]
    return [*searches, Check("hull", _hull, _expected_hull, 1e-5, 4)]


def bank_workloads() -> list[Workload]:
    """Return the searches to be timed, and the plain matrix product of the same size."""
    found = [Workload("matrix product", "queries", _product, 10)]
    return found + [
        Workload(f"search {precision}", "queries", partial(_timed, precision), 15)
        for precision in _PRECISIONS
    ]


@cache
def _rows() -> tuple[np.ndarray, np.ndarray]:
    """Return queries [Q,D] and a bank [M,D]: clusters far from the origin, where products alone would err."""
    random = np.random.default_rng(3)
    middles = 100 + 3 * random.standard_normal((20, 32))
    queries, bank = (
        (middles[random.integers(20, size=count)] + random.standard_normal((count, 32))).astype(np.float32)
        for count in (200, 1500)
    )
    return queries, bank


def _search(precision: Precision) -> dict[str, Any]:
    queries, bank = map(jnp.asarray, _rows())
    distance, index, _ = k_nearest(queries, bank, _K, precision=precision)
    return {"distance": distance, "index": index}


def _expected_search() -> dict[str, np.ndarray]:
    queries, bank = (x.astype(np.float64) for x in _rows())
    distance = np.linalg.norm(queries[:, None] - bank[None], axis=2)
    index = np.argsort(distance, axis=1, kind="stable")[:, :_K]
    return {"distance": np.take_along_axis(distance, index, 1), "index": index}


def _hull() -> dict[str, Any]:
    queries, bank = map(jnp.asarray, _rows())
    return {"distance": hull_distance(queries, bank, k=_K, ridge=_RIDGE)}


def _expected_hull() -> dict[str, np.ndarray]:
    queries, bank = (x.astype(np.float64) for x in _rows())
    found = np.empty(len(queries))
    for number, (query, near) in enumerate(zip(queries, _expected_search()["index"], strict=True)):
        away = bank[near] - query
        gram = away @ away.T
        weight = np.linalg.solve(gram + _RIDGE * np.diag(gram).mean() * np.eye(_K), np.ones(_K))
        found[number] = np.linalg.norm(weight / weight.sum() @ away)
    return {"distance": found}


@cache
def _large() -> tuple[jax.Array, jax.Array]:
    random = np.random.default_rng(4)
    bank = random.standard_normal((_ROWS, _WIDTH), np.float32)
    near = bank[random.integers(_ROWS, size=_QUERIES)]
    noise = random.standard_normal((_QUERIES, _WIDTH), np.float32)
    return jnp.asarray(near + np.float32(0.3) * noise), jnp.asarray(bank)


def _timed(precision: Precision) -> Job:
    queries, bank = _large()
    return Job(
        lambda: jax.block_until_ready(k_nearest(queries, bank, 1, precision=precision)),
        _QUERIES,
        2.0 * _QUERIES * _ROWS * _WIDTH,
    )


def _product() -> Job:
    queries, bank = _large()
    multiply = jax.jit(lambda queries, bank: jnp.matmul(queries, bank.T, precision="highest"))
    return Job(
        lambda: jax.block_until_ready(multiply(queries, bank)), _QUERIES, 2.0 * _QUERIES * _ROWS * _WIDTH
    )
