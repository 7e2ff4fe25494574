"""What outlives a killed run: states of a training, the figures of its steps, and the wish to stop."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from errno import ENOENT
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mvead_jax.config.io import flatten
from mvead_jax.runtime.errors import Stopped, UserError
from mvead_jax.runtime.files import append_line, keep_lines, write_json
from mvead_jax.runtime.sharding import (
    any_process,
    barrier,
    broadcast,
    broadcast_arrays,
    is_first,
    shared_errors,
)
from mvead_jax.training.tensorboard import TensorBoardWriter

log = logging.getLogger(__name__)

_KEPT = 2  # states: the newest, and one to fall back to


class Checkpoints:
    """States of one model's training in <folder>/<step>, by Orbax, and its lines of metrics.jsonl.

    A state that cannot be read back (the disk was full, the run was killed while it wrote, bits have flipped)
    is passed over for the one before it, and kept as <folder>/<step>.unreadable until the run is there again.
    All processes have one and must call it; the first reads and writes.
    """

    def __init__(
        self,
        folder: Path,
        metrics: Path,
        model: str,
        decides: Mapping[str, Any],
        writer: TensorBoardWriter | None = None,
        *,
        replace: bool = False,
    ):
        """
        Args:
          folder: of the states.
          metrics: the workdir's metrics.jsonl. model: its name in there.
          decides: JSON of all that the states depend on.
          writer: that gets the figures too.
          replace: states of anything else may go, for the model that they led to was finished.

        Raises:
          UserError: there are states of anything else, of a training that was not finished; or the disk
            refuses.
        """
        self._metrics, self._model = metrics, model
        self._writer = writer
        self._stop = False
        self._manager = None
        if is_first():
            self._open(folder, decides, replace)

    def _open(self, folder: Path, decides: Mapping[str, Any], replace: bool) -> None:
        origin = folder / "origin.json"
        try:
            earlier = _read_origin(origin)
            if folder.exists() and earlier != decides:
                _say_what_goes(folder, earlier, decides, replace)
                shutil.rmtree(folder)
        except OSError as error:
            raise UserError(
                f"{error.filename or folder}: {error.strerror or error}; mend that and run again"
            ) from error
        write_json(origin, decides)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=True,
            create=False,  # Orbax wants all processes for that
            multiprocessing_options=_first_alone(),
        )
        try:
            self._manager = ocp.CheckpointManager(folder.resolve(), options=options)
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror or error}; mend that and run again") from error

    def restore(self, like: dict[str, Any]) -> dict[str, Any] | None:
        """The newest state that can be read, as NumPy arrays; lines of metrics.jsonl that are later go."""
        state = None
        with shared_errors():
            if self._manager is not None:
                state = self._newest(like)
        if not broadcast(state is not None):
            return None
        return broadcast_arrays(jax.tree.map(np.asarray, like) if state is None else state)

    def _newest(self, like: dict[str, Any]) -> dict[str, Any] | None:
        abstract = jax.tree.map(lambda x: np.empty_like(np.asarray(x)), _sealed(like))
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                with _orbax_silent():
                    found = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
                state = jax.tree.map(np.asarray, found["state"])
                if (_sealed(state)["digest"] != found["digest"]).any():
                    raise ValueError("its numbers are not those that were written")
            except Exception as error:  # Orbax, its drivers and the file system each have their own
                if isinstance(error, MemoryError) or _errno(error) not in (None, ENOENT):
                    raise UserError(
                        f"{self._manager.directory}: state {step} can't be read now ({_first_line(error)}); "
                        "mend that and run again, or delete that state to go back to the one before it"
                    ) from error
                self._pass_over(step, error)
                continue
            log.info("training %s: goes on after step %d", self._model, int(state["step"]) - 1)
            self._forget(int(state["step"]))
            for old in sorted(self._manager.all_steps())[:-_KEPT]:  # of a run killed before it removed them
                self._manager.delete(old)
            return state
        self._forget(0)
        return None

    def _pass_over(self, step: int, error: Exception) -> None:
        """Moves a state that can't be read out of the way: the disk may be at fault, for a while."""
        aside = _aside(self._manager.directory, step)
        log.warning(
            "%s: state %d can't be read (%s); going back to the one before it, and keeping it as %s until "
            "the run is there again",
            *(self._manager.directory, step, _first_line(error), aside.name),
        )
        try:
            shutil.rmtree(aside, ignore_errors=True)
            (self._manager.directory / str(step)).rename(aside)
        except OSError as refused:
            raise UserError(f"{aside}: {refused.strerror or refused}") from refused
        self._manager.reload()

    def save(self, state: dict[str, Any]) -> None:
        """Writes a state under its step; one that is there already stays."""
        step = int(state["step"])
        if self._manager is None or step in self._manager.all_steps():
            return
        try:
            with _orbax_silent():
                self._manager.save(step, args=ocp.args.StandardSave(_sealed(state)))
        except (OSError, ValueError, RuntimeError) as error:  # Orbax's and its drivers' words for a full disk
            raise UserError(
                f"{self._manager.directory}: state {step} can't be written ({_first_line(error)}); mend that "
                "and run again to go on"
            ) from error
        shutil.rmtree(_aside(self._manager.directory, step), ignore_errors=True)

    def record(self, event: dict[str, Any]) -> None:
        """Appends one step's figures to metrics.jsonl, and shows them in TensorBoard."""
        if is_first():
            append_line(self._metrics, json.dumps({"stage": "training", "name": self._model, **event}))
            if self._writer:
                self._writer.add(event)

    def stopping(self) -> bool:
        """Whether SIGTERM came to any process."""
        return any_process(self._stop)

    def close(self) -> None:
        if self._manager is not None:
            self._manager.close()

    @contextlib.contextmanager
    def heeding_sigterm(self) -> Iterator[None]:
        """While it lasts, SIGTERM asks the run to stop after the step it is in.

        Raises:
          Stopped: at the end, if SIGTERM came after the last step: it must not be lost.
        """

        if threading.current_thread() is not threading.main_thread():
            yield  # Python takes signals in the main thread only
            return

        def ask(*_):
            self._stop = True

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
        barrier()  # the first process may still have been at the banks
        if self.stopping():
            raise Stopped(f"training {self._model}: stopped at its end")

    def _forget(self, step: int) -> None:
        """Takes the lines of steps from `step` on out of metrics.jsonl: they are made again."""
        keep_lines(self._metrics, lambda event: not self._is_later(event, step))

    def _is_later(self, event: Mapping[str, Any], step: int) -> bool:
        if event.get("stage") != "training" or event.get("name") != self._model:
            return False
        return not (isinstance(event.get("step"), int) and event["step"] < step)


def newest_state(folder: Path) -> dict[str, Any] | None:
    """Return the newest state in a folder of states, as it lies there; None without one.

    Of several processes the first calls it alone. Raises FileNotFoundError: there is no such folder.
    """
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    if not steps:
        return None
    reader = ocp.StandardCheckpointer(multiprocessing_options=_first_alone())
    return reader.restore((folder / str(max(steps)) / "default").absolute())["state"]


@contextlib.contextmanager
def _orbax_silent() -> Iterator[None]:
    """Orbax's threads log the traceback of each error that the caller gets too, and here puts into words; and
    what TensorStore still has to say to a loop that such an error has closed is printed, then or later."""
    own = logging.getLogger("absl")
    before = own.level
    own.setLevel(logging.CRITICAL)
    hooks = sys.excepthook, sys.unraisablehook
    sys.excepthook = lambda kind, error, trace: _is_of_closed_loop(error) or hooks[0](kind, error, trace)
    sys.unraisablehook = lambda told: _is_of_closed_loop(told.exc_value) or hooks[1](told)
    try:
        yield
        sys.excepthook, sys.unraisablehook = hooks
    finally:
        own.setLevel(before)


def _is_of_closed_loop(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)


def _aside(folder: Path, step: int) -> Path:
    """Where a state goes that can't be read."""
    return Path(folder) / f"{step}.unreadable"


def _first_alone() -> ocp.options.MultiprocessingOptions:
    """Return Orbax's options for work of the first process: otherwise it waits for all."""
    return ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
    )


def _read_origin(path: Path) -> Any:
    """What the states of a folder depend on; None if that is missing or no JSON. Raises OSError."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        log.warning("%s: not readable as JSON (%s)", path, error)
        return None


def _say_what_goes(folder: Path, earlier: Any, decides: Mapping[str, Any], replace: bool) -> None:
    """Tells of the states of something else that are about to be removed.

    Raises:
      UserError: they may not be.
    """
    count = sum(bool(re.fullmatch(r"\d+(\.unreadable)?", path.name)) for path in folder.iterdir())
    if not count:
        return
    if earlier is None or replace:
        why = "it is not known of what they are" if earlier is None else "they are of other settings or data"
        log.warning("%s: %d states are removed and made again: %s", folder, count, why)
        return
    raise UserError(
        f"{folder}: {count} states of a training with other settings or data "
        f"({_changes(earlier, decides)}); go back to those, take another --workdir, or delete the folder to "
        "start over"
    )


def _changes(earlier: Any, now: Mapping[str, Any]) -> str:
    """What differs, by name, with the values if they are for people."""
    before = dict(flatten(earlier)) if isinstance(earlier, Mapping) else {}
    after = dict(flatten(now))
    words = []
    for key in sorted(key for key in before | after if before.get(key) != after.get(key)):
        values = repr(before.get(key)), repr(after.get(key))
        words.append(f"{key}: {values[0]} is now {values[1]}" if max(map(len, values)) < 30 else key)
    return "; ".join(words)


def _errno(error: BaseException) -> int | None:
    """The number of the system's error, which TensorStore tells in its text."""
    if found := re.search(r"os_error_code='(\d+)'", str(error)):
        return int(found[1])
    return getattr(error, "errno", None)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else repr(error)


def _sealed(state: dict[str, Any]) -> dict[str, Any]:
    """The state as NumPy arrays with a SHA-256 of its numbers: Orbax reads flipped bits without a word."""
    state = jax.tree.map(np.asarray, state)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(leaf.tobytes())
    return {"state": state, "digest": np.frombuffer(digest.digest(), np.uint8).copy()}
