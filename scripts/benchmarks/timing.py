"""Contestants that alternate on one machine: timing, cores, and the report of who was how fast."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from mvead_jax.runtime.environment import cpu_name
from mvead_jax.runtime.errors import UserError

_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "torch",
    "transformers",
    "onnxruntime",
    "openvino",
    "faiss-cpu",
    "scikit-learn",
    "scikit-image",
    "numpy",
)


def alternate(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round of every contestant.

    Each round calls every contestant once, in an order that moves on by one place a round, so that neither the
    first place nor a slow minute of the machine belongs to one of them. One untimed call each goes before
    (compilation, page faults). A contestant returns when its work is done, not when it is queued.
    """
    for contestant in contestants.values():
        contestant()
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            begin = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def limit_threads(threads: int) -> None:
    """Pin this process to `threads` cores: XLA sizes its pool by them, so call it before JAX computes."""
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("--threads: this system cannot pin a process to cores; run the benchmark on Linux")
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cores):
        raise UserError(f"--threads={threads}: this process may use 1 to {len(cores)} cores")
    os.sched_setaffinity(0, cores[:threads])


def report(benchmark: str, unit: str, work: int, seconds: dict[str, list[float]], facts: dict) -> dict:
    """Print and return a benchmark's result; the first name is ours, the others are the peers.

    A ratio is the median over the rounds of a peer's seconds divided by ours.

    Args:
      unit: what is counted, "images".
      work: how many of them one round does.
      facts: what a reader needs to judge the numbers: device, sizes, agreement of the answers.
    """
    ours, *peers = seconds
    ratios = {
        peer: statistics.median(b / a for a, b in zip(seconds[ours], seconds[peer], strict=True))
        for peer in peers
    }
    result = {
        "benchmark": benchmark,
        "ours": ours,
        "ratios": ratios,
        "unit": unit,
        "per_second": {name: work / statistics.median(values) for name, values in seconds.items()},
        "seconds": seconds,
        "facts": facts,
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: version(name) for name in _PACKAGES if _installed(name)},
    }
    print(f"{benchmark}: {', '.join(f'{key} {value}' for key, value in facts.items())}")
    print(f"{result['cpu']}, {result['cores']} cores; python {platform.python_version()}, ", end="")
    print(", ".join(f"{name} {number}" for name, number in result["versions"].items()))
    for name, rate in result["per_second"].items():
        spread = ", ".join(f"{value:.3f}" for value in sorted(seconds[name]))
        print(f"  {name:42s} {rate:9.3f} {unit}/s   (seconds a round: {spread})")
    for peer, ratio in ratios.items():
        print(f"  {ratio:.2f} times {peer}")
    return result


def _installed(package: str) -> bool:
    try:
        version(package)
    except ImportError:
        return False
    return True
