"""How fast it is: rates of the parts and of the whole, and the most memory that was held."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvead_jax.backbones.base import as_function, load_network
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.evaluation.pixels import pixel_metrics
from mvead_jax.methods.checks import Job, Workload
from mvead_jax.study.bank_checks import bank_workloads
from mvead_jax.study.budget import MEASURED, Budget, Item, not_run
from mvead_jax.study.method_checks import method_workloads
from mvead_jax.study.repeatability import Repeated

_SHARE = 0.97
_BATCHES = {1: 10.0, 8: 15.0, 32: 40.0}  # and about how long each takes to compile and time
_LEAST_RUNS, _SECONDS = 3, 1.5
_MAPS, _SIDE = 64, 128


def throughput(budget: Budget, kept: Repeated) -> list[Item]:
    """Return an item for each rate; that of a search stands beside the plain matrix product of its size."""
    workloads = [
        Workload(f"backbone dinov2-small at 224, batch {size}", "images", partial(_backbone, size), seconds)
        for size, seconds in _BATCHES.items()
    ]
    workloads += [*bank_workloads(), *method_workloads(), Workload("pixel metrics", "maps", _pixels, 5)]
    found = [
        budget.item("throughput", own.name, own.seconds, partial(timed, own), _SHARE) for own in workloads
    ]
    _as_shares(found)
    if outcome := kept.outcomes.get("float32"):
        whole = Workload(
            "end to end", "images", lambda: _whole(outcome.score_again, kept.folder / "timed"), 8
        )
        found.append(budget.item("throughput", whole.name, whole.seconds, partial(timed, whole), _SHARE))
    else:
        found.append(not_run("end to end", "no trained model to score with"))
    return [*found, budget.item("throughput", "peak memory", 0.1, _memory, 1.0)]


def timed(workload: Workload) -> dict[str, Any]:
    """Return the median rate of some runs, after one that does not count."""
    job = workload.prepare()
    job.run()
    seconds, begin = [], time.monotonic()
    while len(seconds) < _LEAST_RUNS or time.monotonic() - begin < _SECONDS:
        start = time.perf_counter()
        job.run()
        seconds.append(time.perf_counter() - start)
    median = float(np.median(seconds))
    found = {
        "status": MEASURED,
        "value": job.count / median,
        "unit": f"{workload.unit}/s",
        "runs": len(seconds),
    }
    return found | ({"tflops": job.flops / median / 1e12} if job.flops else {})


def _as_shares(items: list[Item]) -> None:
    """Add to each rate of matrix products its share of the plain product that was measured here."""
    plain = next(
        (own["tflops"] for own in items if own["name"] == "matrix product" and "tflops" in own), None
    )
    for own in items:
        if plain and "tflops" in own:
            own["share_of_product"] = own["tflops"] / plain


def _backbone(size: int) -> Job:
    config = BackboneConfig(name="dinov2-small", weights="random")
    forward, state = as_function(load_network(config, ("patches",)).network, ("patches",))
    compiled, state = jax.jit(forward), jax.device_put(state)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((size, 224, 224, 3), np.float32))
    return Job(lambda: jax.block_until_ready(compiled(state, images)), size)


def _pixels() -> Job:
    """Return the pixel metrics of maps with a square defect each; they are computed on the host."""
    random = np.random.default_rng(0)
    masks = np.zeros((_MAPS, _SIDE, _SIDE), bool)
    masks[:, 40:60, 40:60] = True
    maps = random.standard_normal(masks.shape, np.float32) + masks

    def batches():
        return iter([(maps, masks)])

    return Job(lambda: pixel_metrics(batches), _MAPS)


def _whole(score_again: Callable[[Path], int], folder: Path) -> Job:
    """Return reading, features and scores of the test samples, into a new folder each time."""
    numbers = iter(range(10**6))

    def run() -> int:
        return score_again(folder / str(next(numbers)))

    return Job(run, run())


def _memory() -> dict[str, Any]:
    """Return the most bytes that the device says it held, or else the process."""
    told = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if told is not None:
        return {"status": MEASURED, "value": float(told), "unit": "bytes of the first device", "runs": 1}
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"status": MEASURED, "value": float(most), "unit": "bytes of the process", "runs": 1}
