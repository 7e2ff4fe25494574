"""How long one sample takes, from its images to its scores."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mvead_jax.config.schema import Config
from mvead_jax.jobs.inputs import open_index
from mvead_jax.serving.inspector import Inspector

Trained = tuple[Path, Config]  # a workdir, and the config that it was trained by


class SampleTime(NamedTuple):
    """The time of one sample. of_first: how many times that of the run it was measured in turns with."""

    milliseconds: float
    of_first: float


def sample_time(own: Trained, first: Trained, rounds: int = 9) -> SampleTime:
    """Return the time of the first test sample through the inspector of a run, and of another run in turns.

    It counts decoding, the backbone, the method and the maps, with everything loaded and compiled before. The
    median of the rounds is taken, and the median of their ratios; of a run beside itself the ratio is 1.
    """
    runs = [_inspecting(*one) for one in (own, first)]
    seconds = np.array([[_seconds(run) for run in runs] for _ in range(rounds)])
    ratio = 1.0 if own == first else float(np.median(seconds[:, 0] / seconds[:, 1]))
    return SampleTime(1000 * float(np.median(seconds[:, 0])), ratio)


def _inspecting(workdir: Path, config: Config) -> Callable[[], object]:
    index = open_index(config)
    sample = index.select(split="test").samples[0]
    images = {view.name: index.root / view.image for view in sample.views}
    inspector = Inspector.load(workdir, category=sample.category)
    inspector.inspect(images)
    return lambda: inspector.inspect(images)


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
