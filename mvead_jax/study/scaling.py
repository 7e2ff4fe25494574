"""How the rate grows with the devices that are there, each with as much to do, and what the first one answers."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mvead_jax.backbones.base import as_function, load_network
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.methods.checks import Job, Workload
from mvead_jax.runtime.sharding import AXIS, on_each_device
from mvead_jax.study.budget import Budget, Item, not_run
from mvead_jax.study.correctness import digest
from mvead_jax.study.throughput import timed

_EACH, _SIDE = 4, 128  # images of a device, and their side
_SECONDS = 8.0


def scaling(budget: Budget) -> list[Item]:
    """Return an item for 1, 2, 4 ... devices of this process, and for all of them."""
    devices = jax.local_devices()
    counts = sorted({2**power for power in range(len(devices).bit_length())} | {len(devices)})
    found = [budget.item("scaling", _name(count), _SECONDS, partial(_of, count)) for count in counts]
    for own, count in zip(found, counts, strict=True):
        if "value" in own and "value" in found[0]:
            own["efficiency"] = own["value"] / (count * found[0]["value"])
    return found if len(devices) > 1 else [*found, not_run("several devices", "this process has one")]


def _name(count: int) -> str:
    return f"backbone on {count} device{'s' * (count > 1)}"


def _of(count: int) -> dict[str, Any]:
    """Return the rate of a backbone on some devices, and the digest of the first device's features."""
    mesh = Mesh(np.array(jax.local_devices()[:count]), (AXIS,), axis_types=(AxisType.Auto,))
    config = BackboneConfig(name="efficientnet-lite0", weights="random")
    forward, state = as_function(load_network(config, ("patches",)).network, ("patches",))
    compiled = jax.jit(on_each_device(forward, mesh))
    images = np.random.default_rng(0).standard_normal((_EACH, _SIDE, _SIDE, 3), np.float32)
    rows = NamedSharding(mesh, PartitionSpec(AXIS))
    placed = jax.device_put(np.tile(images, (count, 1, 1, 1)), rows)
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    workload = Workload(
        "", "images", lambda: Job(lambda: jax.block_until_ready(compiled(state, placed)), count * _EACH), 0
    )
    first = np.asarray(compiled(state, placed)["patches"])[:_EACH]
    return {**timed(workload), "devices": count, "digest": digest(first)}
