"""Compiled programs are kept on disk, so that the next process compiles nothing anew.

They lie in the user's own folder, $XDG_CACHE_HOME/mvead_jax/programs or ~/.cache/mvead_jax/programs, and in no workdir
or artefact: JAX runs what it finds there as machine code, and workdirs are passed on. JAX finds a program by a digest
of its operations, the versions of JAX and XLA, the flags and the processor, so all models of a user share the folder.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import jax

log = logging.getLogger(__name__)

_MOST_BYTES = 2**30  # of the folder; beyond it the programs that were written first go


def keep_programs() -> None:
    """Let JAX keep what it compiles, unless the user has told JAX where to keep it, or not to.

    The user's words are JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE=0 or the same in jax.config. Nothing
    is kept where the folder can't be written or belongs to somebody else, nor by one of several processes.
    """
    if not jax.config.jax_enable_compilation_cache or jax.config.jax_compilation_cache_dir is not None:
        return
    if jax.process_count() > 1 or (folder := own_folder()) is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs", 0.0
    )  # the many small ones take seconds in all


def own_folder() -> Path | None:
    """Return the folder of compiled programs, made and kept below its limit; None where it can't be used."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    folder = base / "mvead_jax" / "programs"
    if not base.is_absolute():  # the system knows no home folder
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        shared = found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if shared or not os.access(folder, os.W_OK | os.X_OK):
            log.debug("%s: not writable, or not by this user alone: compiled programs are not kept", folder)
            return None
        _forget_oldest(folder)
    except OSError as error:
        log.debug("%s: %s: compiled programs are not kept", folder, error.strerror or error)
        return None
    return folder


def _forget_oldest(folder: Path) -> None:
    """Remove the programs that were written first, until the others take no more than _MOST_BYTES."""
    files = [
        (entry.stat(), entry.path) for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)
    ]
    excess = sum(found.st_size for found, _ in files) - _MOST_BYTES
    for found, path in sorted(files, key=lambda one: one[0].st_mtime_ns):
        if excess <= 0:
            return
        Path(path).unlink(missing_ok=True)
        excess -= found.st_size
