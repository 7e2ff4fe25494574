"""Samples per second of the banded epipolar attention, beside the dense one with a mask, forward and
gradient, on the lines of the demo rig's five cameras; and the memory that XLA sets aside for each. Needs
no extra; about ten minutes on two cores, most of them the dense one's at 37 x 37 patches.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.timing import alternate, limit_threads, report
from mvead_jax.runtime.errors import UserError

NEEDS = ()
QUICK = ("--grids=16", "--rounds=3")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grids", type=_grids, default=[16, 32, 37], help="patches along a side, comma-separated"
    )
    parser.add_argument("--width", type=int, default=768, help="width of a feature")
    parser.add_argument("--heads", type=int, default=12)


def measure(args: argparse.Namespace) -> list[dict]:
    """The banded epipolar attention against the dense one, on one random sample of five views of the rig."""
    limit_threads(args.threads)
    if args.width % args.heads:
        raise UserError(f"--width={args.width}: must be a multiple of --heads={args.heads}")
    return [_attention_at(side, args, kind) for side in args.grids for kind in ("forward", "gradient")]


def _attention_at(side: int, args: argparse.Namespace, kind: str) -> dict:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mvead_jax.geometry.cameras import fundamental_from_cameras
    from mvead_jax.geometry.epipolar import epipolar_mask
    from mvead_jax.methods.mvead.banded import banded_attention, plan_bands
    from mvead_jax.methods.mvead.dense import masked_attention
    from mvead_jax.rig.cameras import five_cameras

    patch = 14
    rig = five_cameras(side * patch)
    F = fundamental_from_cameras(rig.K, rig.R, rig.t)
    mask = epipolar_mask(F, (side, side), patch)
    plan = plan_bands(np.asarray(mask), F, (side, side), patch)
    shape = (3, len(F), side * side, args.heads, args.width // args.heads)
    qkv = tuple(jax.device_put(np.random.default_rng(0).standard_normal(shape, dtype=np.float32)))

    def compiled(attend: Callable, how: Any) -> Any:
        function = attend
        if kind == "gradient":
            function = jax.grad(lambda q, k, v, how: (attend(q, k, v, how) ** 2).sum(), argnums=(0, 1, 2))
        return jax.jit(function).lower(*qkv, how).compile()

    banded, dense = compiled(banded_attention, plan), compiled(masked_attention, mask)

    def run_ours() -> Any:
        return jax.block_until_ready(banded(*qkv, plan))

    def run_theirs() -> Any:
        return jax.block_until_ready(dense(*qkv, mask))

    both = zip(jax.tree.leaves(run_ours()), jax.tree.leaves(run_theirs()), strict=True)
    difference = max(float(jnp.abs(x - y).max() / jnp.abs(y).max()) for x, y in both)
    if not difference < 1e-5:
        raise RuntimeError(f"the contestants disagree by {difference}: their times mean nothing")
    seconds = alternate({"banded": run_ours, "dense": run_theirs}, args.rounds)
    memory = [program.memory_analysis().temp_size_in_bytes for program in (banded, dense)]
    facts = {
        "patches": f"5 x {side} x {side}",
        "pass": kind,
        "width": args.width,
        "heads": args.heads,
        "keys on lines": f"{float(mask.mean()):.1%}",
        "keys in blocks": f"{plan.mask.size / mask.size:.1%}",
        "precision": "float32",
        "device": jax.devices()[0].platform,
        "threads": args.threads,
        "memory": f"banded {memory[0] / 1e6:.0f} MB and dense {memory[1] / 1e6:.0f} MB",
        "largest difference": f"{difference:.1e} of the largest value",
    }
    return report(f"attention {side} x {side} {kind}", "samples", 1, seconds, facts)


def _grids(text: str) -> list[int]:
    sides = [int(side) for side in text.split(",")]
    if min(sides) < 2:
        raise ValueError(text)
    return sides
