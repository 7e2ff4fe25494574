"""The study of a device, stage after stage, within its minutes."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvead_jax.runtime import progress
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import make_folder
from mvead_jax.runtime.host import computing
from mvead_jax.runtime.sharding import barrier, is_first, shared_errors
from mvead_jax.study.budget import Budget, Item, not_run
from mvead_jax.study.controls import controls
from mvead_jax.study.correctness import correctness
from mvead_jax.study.repeatability import Repeated, repeatability
from mvead_jax.study.report import JSON, STAGES, VERSION, verdict, write_study
from mvead_jax.study.runs import study_config
from mvead_jax.study.scaling import scaling
from mvead_jax.study.surroundings import surroundings
from mvead_jax.study.throughput import throughput

_WORK = ".study-device"  # folder of the runs in the output, which goes at the end


@computing()
def study_device(output: Path, minutes: float, only: Sequence[str] = STAGES) -> dict[str, Any]:
    """Return the study of the devices of this process, and of those that work with it; write it into a folder.

    All processes must call, with a folder that they share; the first writes.

    Args:
      minutes: after which nothing new begins.
      only: the stages to run; the others are listed as not run.

    Raises:
      UserError: the folder holds a study, the disk refuses, or a part of the installation is missing.
    """
    budget, work = Budget(60 * minutes, shown=progress.shown), output / _WORK
    with shared_errors():
        if is_first():
            if (output / JSON).exists():
                raise UserError(f"{output / JSON}: a finished study; name another folder for a new one")
            make_folder(output)
            shutil.rmtree(work, ignore_errors=True)  # of a study that was killed
            make_folder(work)
    barrier()
    kept = Repeated(work)
    with _jobs_silent():
        weights = study_config().backbone.weights
        study = {
            "version": VERSION,
            "minutes": minutes,
            "environment": surroundings(),
            "weights": "trained on ImageNet" if weights == "auto" else weights,
        }
        works: dict[str, Callable[[], list[Item]]] = {
            "correctness": lambda: correctness(budget),
            "repeatability": lambda: repeatability(budget, kept),
            "controls": lambda: controls(budget, kept),
            "throughput": lambda: throughput(budget, kept),
            "scaling": lambda: scaling(budget),
        }
        for stage in STAGES:
            study[stage] = (
                works[stage]() if stage in only else [not_run("all", "it was not asked for (--only)")]
            )
    study |= {"seconds": round(time.monotonic() - budget.begin, 1), "passed": verdict(study) == "PASS"}
    barrier()
    with shared_errors():
        if is_first():
            shutil.rmtree(work, ignore_errors=True)
            write_study(output, study)
    return study


@contextmanager
def _jobs_silent() -> Iterator[None]:
    """While it lasts, the parts of jobs say nothing: the study tells what it does; --verbose hears all."""
    log, level, shown = logging.getLogger("mvead_jax"), logging.getLogger("mvead_jax").level, progress.shown
    if level != logging.DEBUG:
        log.setLevel(logging.ERROR)
        progress.shown = False
    try:
        yield
    finally:
        log.setLevel(level)
        progress.shown = shown
