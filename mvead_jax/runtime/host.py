"""What the process around the program decides: which devices JAX has, its default precision, forks, compiled programs.

    @computing()
    def train(...): ...

Scores do not depend on the environment of the process that asks for them: a program that enables float64 for
work of its own (JAX_ENABLE_X64=1) gets the same scores, for whatever is computed here has JAX's usual types.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from mvead_jax.runtime.compiled import keep_programs
from mvead_jax.runtime.errors import UserError

_computes: int | None = None  # the process in which JAX was set to work
_FORK = (
    "JAX was set to work in process {parent}, of which this one, {own}, is a fork; its threads are not here and it "
    'would wait for ever. Start processes by multiprocessing.get_context("spawn"), and load an Inspector in each'
)


@contextmanager
def computing() -> Iterator[None]:
    """While it lasts, JAX may be used: it has devices, 32-bit types, and is not that of another process. What it
    compiles is kept on disk for the next process (compiled.py).

    A decorator too, as every function of contextlib.

    Raises:
      UserError: the process was forked from one that used JAX, or JAX finds no device (`check_devices`).
    """
    global _computes
    check_fork()
    check_devices()
    keep_programs()
    _computes = os.getpid()
    with jax.enable_x64(False):
        yield


def check_fork() -> None:
    """Raise a UserError in a process that was forked from one in which JAX had been set to work."""
    if _computes not in (None, own := os.getpid()):
        raise UserError(_FORK.format(parent=_computes, own=own))


def check_devices() -> None:
    """Raise a UserError unless JAX can start on the platforms that it is told to use."""
    try:
        jax.devices()
    except Exception as error:  # an AssertionError of JAX among others, without a word
        asked = jax.config.jax_platforms
        reason = (str(error) or "no such device, or no plugin of JAX for it").splitlines()[0]
        raise UserError(
            f"JAX_PLATFORMS={asked or ''}: JAX can't start there ({reason}); unset it, or install JAX for that "
            "device as the README says"
        ) from None


def _after_fork() -> None:
    """Note in a forked child that the parent had used JAX, whoever set it to work there."""
    global _computes
    bridge = sys.modules.get("jax._src.xla_bridge")
    if _computes is None and getattr(bridge, "_backends", None):  # JAX has no public question for it
        _computes = os.getppid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
