"""How long one sample takes, from its images to its scores."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from mvead_jax.config.schema import Config
from mvead_jax.jobs.inputs import open_index
from mvead_jax.serving.inspector import Inspector


def sample_milliseconds(workdir: Path, config: Config, rounds: int = 5) -> float:
    """Return the time of the first test sample through the inspector of a workdir that was trained by
    this config, median of `rounds`.

    It counts decoding, the backbone, the method and the maps, with everything loaded and compiled before.
    """
    index = open_index(config)
    sample = index.select(split="test").samples[0]
    images = {view.name: index.root / view.image for view in sample.views}
    inspector = Inspector.load(workdir, category=sample.category)
    inspector.inspect(images)
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        inspector.inspect(images)
        seconds.append(time.perf_counter() - begin)
    return 1000 * float(np.median(seconds))
