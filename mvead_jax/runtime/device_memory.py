"""How much memory a device has, and how many images, samples or queries go through one call within it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of Linux's control groups, version 2
_TOGETHER = 4  # values of the largest one's size that a compiled function holds at a time, at most
_SHARE = 4  # the part of the device's memory, 1 / _SHARE, that one call may take beside weights and banks


def device_bytes() -> int:
    """Return the bytes of memory of each device of this process; of CPU devices, their part of the machine's."""
    device = jax.local_devices()[0]
    if limit := (device.memory_stats() or {}).get("bytes_limit"):
        return int(limit)
    return _machine_bytes() // jax.local_device_count()


def _machine_bytes() -> int:
    """Return the bytes of main memory, or of the part of it that a container may use."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(_CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return machine


def power_of_two(limit: float, least: int, most: int) -> int:
    """Return the largest power of two up to `limit`, but at least `least` and at most `most`."""
    return int(min(max(2 ** math.floor(math.log2(max(limit, 1))), least), most))


def most_at_a_time(one: Callable[..., Any], *arguments: Any, most: int, devices: int = 1) -> int:
    """Return how many items go through a function at a time within the memory of a device.

    Args:
      one: the function, traced here and not run.
      arguments: of it, arrays or their shapes: one item for each device.
      most: the answer where memory is no limit; below it the answer is a power of two, at least 1.
      devices: over which the items are divided.
    """
    limit = fitting(largest_value(one, *arguments, devices=devices))
    return most if limit >= most else power_of_two(limit, 1, most)


def fitting(size: float) -> float:
    """Return how many items fit in the part of a device's memory that one call may take.

    Args:
      size: bytes of the largest value that is computed of one item.
    """
    return device_bytes() / (_SHARE * _TOGETHER * size)


def largest_value(function: Callable[..., Any], *arguments: Any, devices: int = 1) -> float:
    """Return the bytes that a device holds of the largest value that a function computes on its way, loops and
    branches included. Values outside `jax.shard_map` are taken to be divided over the devices."""
    return max(_largest(jax.make_jaxpr(function)(*arguments).jaxpr, devices), 1)


def _largest(jaxpr: Jaxpr, devices: int) -> float:
    sizes = [0.0]
    for equation in jaxpr.eqns:
        within = 1 if equation.primitive.name == "shard_map" else devices
        for parameter in _lowered_here(equation.params):
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    sizes.append(_largest(getattr(inner, "jaxpr", inner), within))
        values = (value.aval for value in equation.outvars if _is_array(value))
        sizes += [aval.size * aval.dtype.itemsize / devices for aval in values]
    return max(sizes)


def _lowered_here(parameters: dict[str, Any]) -> list[Any]:
    """Return the parameters of an operation; of `jax.lax.platform_dependent` this backend's branch alone."""
    platforms = parameters.get("branches_platforms")
    if platforms is None:
        return list(parameters.values())
    here = (number for number, own in enumerate(platforms) if own is None or jax.default_backend() in own)
    return [parameters["branches"][next(here)]]


def _is_array(value: Any) -> bool:
    return hasattr(value.aval, "dtype") and hasattr(value.aval.dtype, "itemsize")
