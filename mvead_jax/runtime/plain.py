"""Tracing for a format that knows plain operations only (ONNX).

What adapts itself to the device or to its data asks `is_plain()` while it is traced, and then does without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

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
