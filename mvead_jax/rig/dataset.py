"""Render the inspection rig to disk in Real-IAD's layout, or find it there.

root/
  realiad_<size>/<category>/{OK,NG/<CODE>}/S0001/*.jpg *.png
  realiad_jsons/<category>.json
  cameras.json          K, R, t and F of every ordered pair, per category
  rig.json              the manifest (manifest.py)
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

from mvead_jax.rig import completeness as manifest
from mvead_jax.rig.camera_file import cameras_json
from mvead_jax.rig.cameras import VIEWS
from mvead_jax.rig.completeness import Records, Settings, key
from mvead_jax.rig.layout import FAMILIES, MOST, SampleName, entry
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import locked
from mvead_jax.runtime.progress import progress

_SIZES = (64, 2048)


@dataclass(frozen=True)
class RigSet:
    """A finished set: its root, how many samples it has, and how many of them this call rendered."""

    root: Path
    samples: int
    rendered: int


def render_rig(
    root: str | Path,
    *,
    families: Sequence[str] = ("flange", "terminal"),
    train: int = 40,
    test_normal: int = 16,
    test_defective: int = 24,
    size: int = 256,
    seed: int = 0,
    workers: int | None = None,
) -> RigSet:
    """Render the inspection rig under `root`, or find it there already.

    A set that is complete is left as it is; of an unfinished one the whole samples are kept.

    Args:
      root: folder of the set; made if missing.
      families: part families, one category each, of layout.FAMILIES.
      train, test_normal, test_defective: samples per category.
      size: images are size x size pixels.
      seed: with the same library versions every pixel is a function of it and the settings above; the
        number of workers changes nothing.
      workers: processes; None: one per usable core.

    Raises:
      UserError: bad values, the extra `rig` is missing, or `root` holds a set of other settings or files that
        the rig did not write. No such file is touched.
    """
    settings = _checked(families, train, test_normal, test_defective, size, seed)
    if workers is not None and workers < 1:
        raise UserError(f"workers {workers}: give at least 1")
    root = Path(root)
    names = list(settings.names())
    try:
        if root.exists() and not root.is_dir():
            raise UserError(f"{root}: is a file; give a folder for the rendered set")
        root.mkdir(parents=True, exist_ok=True)
        with locked(root):
            done = manifest.take_over(root, settings)
            missing = [name for name in names if key(name) not in done]
            if missing:
                _require_renderer()
            if missing or not manifest.is_finished(root):
                manifest.begin(root, settings, done)
                _render(root, settings, missing, workers or _usable_cores(), done)
                manifest.finish(root, settings, done, _texts(settings, done))
    except OSError as error:
        raise UserError(
            f"{error.filename or root}: {error.strerror or error}; choose another --output"
        ) from error
    return RigSet(root, len(names), len(missing))


def _checked(families, train, test_normal, test_defective, size, seed) -> Settings:
    unknown = [family for family in families if family not in FAMILIES]
    if unknown or not families:
        what = f"unknown family {unknown[0]!r}" if unknown else "no family given"
        raise UserError(f"families: {what}; choose from {', '.join(FAMILIES)}")
    for name, count in (("train", train), ("test-normal", test_normal), ("test-defective", test_defective)):
        if not 0 <= count <= MOST:
            raise UserError(f"{name} {count}: give 0 to {MOST} samples")
    if train + test_normal + test_defective == 0:
        raise UserError("train, test-normal and test-defective are all 0: nothing to render")
    if not _SIZES[0] <= size <= _SIZES[1]:
        raise UserError(f"size {size}: give {_SIZES[0]} to {_SIZES[1]} pixels")
    if seed < 0:
        raise UserError(f"seed {seed}: give 0 or more")
    chosen = tuple(family for family in FAMILIES if family in families)
    return Settings(chosen, train, test_normal, test_defective, size, seed)


def _require_renderer() -> None:
    try:
        import mvead_jax.rig.sample  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the rig's renderer is not installed ({error}): pip install -e '.[rig]' in the checkout "
            "(its embreex has no wheel for Linux on ARM)"
        ) from error


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _render(root: Path, settings: Settings, missing: list[SampleName], workers: int, done: Records) -> None:
    """Render `missing` samples, noting each in the journal and in `done` once its files are on disk."""
    if not missing:
        return
    from mvead_jax.rig.sample import write_sample

    jobs = [(str(root), name, settings.seed, settings.size) for name in missing]
    with (
        (root / manifest.JOURNAL).open("a") as journal,
        progress("rendering the rig", len(missing), "samples") as bar,
    ):
        for record in _run(write_sample, jobs, min(workers, len(jobs))):
            journal.write(json.dumps(record) + "\n")
            journal.flush()
            done[record["sample"]] = record
            bar.advance()


def _run(function: Callable[..., dict], jobs: list[tuple], workers: int) -> Iterator[dict]:
    """Results of function(*job) as they come, from `workers` processes (one: this process)."""
    if workers == 1:
        yield from (function(*job) for job in jobs)
        return
    # Spawned, not forked: the caller may run JAX, whose threads do not survive a fork.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_follow_parent)
    try:
        with _ctrl_c_kept_from_children():
            futures = [pool.submit(function, *job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a rendering process died: out of memory (try --workers 1), or the calling script lacks "
            "`if __name__ == '__main__':`"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_kept_from_children() -> Iterator[None]:
    """Processes started in the block leave Ctrl-C to their parent, which ends them without a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow_parent() -> None:
    """Ends this worker as soon as its parent is gone, killed ones included."""

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _texts(settings: Settings, done: Records) -> dict[str, str]:
    """The lists and cameras.json: path under the root -> content."""
    texts = {manifest.CAMERAS: json.dumps(cameras_json(settings.families, settings.size), indent=1) + "\n"}
    for family in settings.families:
        lists: dict[str, list] = {"train": [], "test": []}
        for name in settings.names():
            if name.category == family:
                defective = done[key(name)]["defective"]
                entries = [entry(name, view, defective[view]) for view in range(len(VIEWS))]
                lists["train" if name.split == "train" else "test"] += entries
        content = {"meta": {"prefix": f"{family}/", "normal_class": "OK"}, **lists}
        texts[f"{manifest.LISTS}/{family}.json"] = json.dumps(content, indent=1) + "\n"
    return texts
