"""What becomes of memory that the process has freed."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # names of parameters, malloc.h of the GNU C library


def keep_freed_memory() -> None:
    """Let the process keep the memory that it frees, for what it allocates next. Call it before JAX starts.

    By default the GNU C library gives large blocks back to the system at once. A training step on a CPU then
    gets all its gigabytes anew, one page of 4 KiB at a time (docs/results.md has what that costs). The process
    holds its peak until it ends. If the user has set MALLOC_... or GLIBC_TUNABLES, or with another C library,
    nothing happens.
    """
    set_by_user = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if set_by_user or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for name, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):
        mallopt(name, value)
