"""Tracing for a format that knows plain operations only (ONNX).

What adapts itself to the device or to its data asks `is_plain()` while it is traced, and then does without; `mapped`
writes its loop out, `mapped_on_cpu` has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

_plain: ContextVar[bool] = ContextVar("plain", default=False)


def is_plain() -> bool:
    """Return whether a function is being traced for such a format."""
    return _plain.get()


@contextmanager
def traced_plainly() -> Iterator[None]:
    """While the block runs, `is_plain()`. What was traced before, in either way, is forgotten."""
    jax.clear_caches()
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)
        jax.clear_caches()


def mapped(function: Callable[[Any], Any], rows: Any) -> Any:
    """Return `jax.lax.map`: the function of each row, one after the other."""
    if not is_plain():
        return jax.lax.map(function, rows)
    count = len(jax.tree.leaves(rows)[0])
    found = [function(jax.tree.map(lambda own, at=at: own[at], rows)) for at in range(count)]
    return jax.tree.map(lambda *own: jnp.stack(own), *found)


def mapped_on_cpu(function: Callable[[Any], Any], rows: Any) -> Any:
    """Return the function of each row: one after the other on a CPU, whose cache holds one row's work, else at once."""
    at_once = jax.vmap(function)
    if is_plain():
        return at_once(rows)
    return jax.lax.platform_dependent(rows, cpu=partial(jax.lax.map, function), default=at_once)
