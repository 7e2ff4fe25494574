"""Timed contests between this code and its peers, on one machine, in one process, in turns.

    python scripts/benchmark.py features
    python scripts/benchmark.py nearest
    python scripts/benchmark.py attention
    python scripts/benchmark.py epoch

`features`: images per second of the DINOv2 port up to a block, beside transformers' PyTorch Dinov2Model cut
off after the same block. Needs the extra `bench` (torch); about two minutes on two cores.

`nearest`: queries per second of the exact search in a memory bank, beside FAISS's IndexFlatL2. Needs the
extra `bench` (faiss-cpu); under a minute on two cores.

`attention`: samples per second of the banded epipolar attention, beside the dense one with a mask, forward
and gradient, on the lines of the demo rig's five cameras; and the memory that XLA sets aside for each. Needs
no extra; about ten minutes on two cores, most of them the dense one's at 37 x 37 patches.

`epoch`: samples per second of MVEAD's pre-training on cached features, beside the same with the backbone
inside the loop. Needs no extra; about five minutes on two cores.

Contestants take turns round by round and medians are compared, because one machine's rounds differ by more
than contestants do. A contest checks first that both give the same numbers. `ratio` is ours divided by the
peer's, so 1.0 is a draw and more is faster.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mvead_jax.errors import UserError, run


def take_turns(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round of every contestant.

    Each round calls every contestant once, in an order that turns by one place a round, so that neither the
    first place nor a slow minute of the machine belongs to one of them. One untimed call each goes before
    (compilation, page faults). A contestant returns when its work is done, not when it is queued.
    """
    for contestant in contestants.values():
        contestant()
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
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


def report(contest: str, unit: str, work: int, seconds: dict[str, list[float]], facts: dict) -> dict:
    """Print and return a contest's result; the first name is ours, the second the peer it is measured by.

    Args:
      unit: what is counted, "images".
      work: how many of them one round does.
      facts: what a reader needs to judge the numbers: device, sizes, agreement of the answers.
    """
    rates = {name: work / statistics.median(values) for name, values in seconds.items()}
    ours, peer = list(rates)[:2]
    ratio = rates[ours] / rates[peer]
    packages = ("jax", "jaxlib", "flax", "torch", "transformers", "faiss-cpu", "numpy")
    result = {
        "contest": contest,
        "ratio": ratio,
        f"{unit}_per_second": rates,
        "seconds": seconds,
        "facts": facts,
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages if _installed(name)},
    }
    print(f"{contest}: {', '.join(f'{key} {value}' for key, value in facts.items())}")
    print(f"{result['cpu']}, {result['cores']} cores; python {result['python']}, ", end="")
    print(", ".join(f"{name} {number}" for name, number in result["versions"].items()))
    for name, rate in rates.items():
        spread = ", ".join(f"{value:.3f}" for value in sorted(seconds[name]))
        print(f"  {name:42s} {rate:9.3f} {unit}/s   (seconds a round: {spread})")
    print(f"  ratio {ratio:.3f}")
    return result


def _installed(package: str) -> bool:
    try:
        version(package)
    except ImportError:
        return False
    return True


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# ---- features


def features(args: argparse.Namespace) -> dict:
    """Our DINOv2 against transformers' on the same random weights, images, block and threads."""
    _require("features", "torch", "transformers")
    limit_threads(args.threads)
    import jax
    import numpy as np
    import torch
    from flax import nnx
    from transformers import Dinov2Config, Dinov2Model
    from transformers.utils import logging

    from mvead_jax.backbone.dinov2 import DINOV2_SIZES
    from mvead_jax.backbone.weights import load_dinov2

    if args.backbone not in DINOV2_SIZES or args.backbone.endswith("registers"):
        raise UserError(f"--backbone={args.backbone}: choose dinov2-small, -base, -large or -giant")
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    size = DINOV2_SIZES[args.backbone]
    shared = ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "use_swiglu_ffn")
    config = Dinov2Config(**{field: getattr(size, field) for field in shared}, attn_implementation="sdpa")
    theirs = Dinov2Model(config).eval()
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        ours = load_dinov2(directory, num_blocks=args.block)
    theirs.encoder.layer = theirs.encoder.layer[: args.block]

    images = np.random.default_rng(0).standard_normal((args.batch, args.size, args.size, 3), dtype=np.float32)
    graph, state = nnx.split(ours)
    forward = jax.jit(lambda state, x: nnx.merge(graph, state)(x)[f"block{args.block}"])
    jax_images, torch_images = (
        jax.device_put(images),
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
    )

    def run_ours() -> jax.Array:
        return forward(state, jax_images).block_until_ready()

    @torch.inference_mode()
    def run_theirs() -> torch.Tensor:
        # Without the final layer norm, which we do not compute either.
        return theirs.encoder(theirs.embeddings(torch_images)).last_hidden_state

    difference = float(np.abs(np.asarray(run_ours()) - run_theirs().numpy()).max())
    if not difference < 1e-3:
        raise RuntimeError(f"the contestants disagree by {difference}: their times mean nothing")
    seconds = take_turns({"mvead_jax": run_ours, "transformers (PyTorch, sdpa)": run_theirs}, args.rounds)
    facts = {
        "backbone": args.backbone,
        "block": args.block,
        "size": f"{args.size} px",
        "batch": args.batch,
        "precision": "float32",
        "device": jax.devices()[0].platform,
        "threads": args.threads,
        "weights": "random",
        "largest difference": f"{difference:.1e}",
    }
    return report("features", "images", args.batch, seconds, facts)


# ---- nearest


def nearest(args: argparse.Namespace) -> dict:
    """Our exact search against FAISS's on the same random bank, queries and threads."""
    _require("nearest", "faiss")
    limit_threads(args.threads)
    import faiss
    import jax
    import numpy as np

    from mvead_jax.bank.nearest import nearest as search

    faiss.omp_set_num_threads(args.threads)
    random = np.random.default_rng(0)
    bank = random.standard_normal((args.rows, args.width), dtype=np.float32)
    queries = random.standard_normal((args.queries, args.width), dtype=np.float32)
    index = faiss.IndexFlatL2(args.width)
    index.add(bank)
    ours_bank, ours_queries = jax.device_put(bank), jax.device_put(queries)

    def run_ours() -> np.ndarray:
        return np.asarray(search(ours_queries, ours_bank)[1])

    def run_theirs() -> np.ndarray:
        return index.search(queries, 1)[1][:, 0]

    same = float((run_ours() == run_theirs()).mean())
    # Where two rows are equally near in float32, FAISS may name the other one.
    if same < 0.999:
        raise RuntimeError(f"the contestants agree on {same:.2%} of the neighbours: their times mean nothing")
    seconds = take_turns({"mvead_jax": run_ours, "faiss IndexFlatL2": run_theirs}, args.rounds)
    facts = {
        "size": f"{args.queries} x {args.rows} x {args.width}",
        "precision": "float32",
        "device": jax.devices()[0].platform,
        "threads": args.threads,
        "data": "gaussian",
        "same index": f"{same:.3%}",
    }
    return report("nearest", "queries", args.queries, seconds, facts)


# ---- attention


def attention(args: argparse.Namespace) -> dict:
    """The banded epipolar attention against the dense one, on one random sample of five views of the rig."""
    limit_threads(args.threads)
    if args.width % args.heads:
        raise UserError(f"--width={args.width}: must be a multiple of --heads={args.heads}")
    contests = [_attention_at(side, args, kind) for side in args.grids for kind in ("forward", "gradient")]
    return {"contest": "attention", "contests": contests}


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
    seconds = take_turns({"banded": run_ours, "dense": run_theirs}, args.rounds)
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


def epoch(args: argparse.Namespace) -> dict:
    """An epoch of pre-training on cached features against one that computes them."""
    limit_threads(args.threads)
    import jax
    import numpy as np

    from mvead_jax.backbone.extractor import load_backbone
    from mvead_jax.config import BackboneConfig, TrainConfig

    config = TrainConfig()
    backbone = load_backbone(BackboneConfig(name=args.backbone, weights="random"), args.size)
    parts = np.arange(args.steps * config.batch_size).reshape(-1, config.batch_size)
    looked = _Looked(backbone, parts.size)
    cached = np.concatenate([looked[part] for part in parts])
    contestants = {
        name: _epoch_of(features, cached, parts, backbone, config)
        for name, features in (("cached", cached), ("backbone inside", looked))
    }
    losses = [float(run_epoch()["loss"]) for run_epoch in contestants.values()]
    if not abs(losses[0] - losses[1]) <= 1e-4 * abs(losses[0]):
        raise RuntimeError(f"the contestants' losses are {losses}: their times mean nothing")
    seconds = take_turns(contestants, args.rounds)
    facts = {
        "backbone": f"{args.backbone}, random weights, {args.size} x {args.size}",
        "samples": f"{parts.size} of 5 views, {config.batch_size} a step",
        "objective": config.objective,
        "precision": "float32",
        "device": jax.devices()[0].platform,
        "threads": args.threads,
    }
    return report("epoch", "samples", parts.size, seconds, facts)


class _Looked:
    """Features [S,V,N,D] of random images that are computed whenever they are asked for."""

    def __init__(self, backbone: Any, count: int, views: int = 5):
        import numpy as np

        side = backbone.image_size
        random = np.random.default_rng(0)
        self._backbone = backbone
        self._images = random.standard_normal((count, views, side, side, 3), dtype=np.float32)
        self.shape = (count, views, backbone.grid[0] * backbone.grid[1], backbone.width)

    def __getitem__(self, samples: Any) -> Any:
        import numpy as np

        images = self._images[samples]
        return np.asarray(self._backbone(images.reshape(-1, *images.shape[2:]))).reshape(
            len(samples), *self.shape[1:]
        )


def _epoch_of(features: Any, cached: Any, parts: Any, backbone: Any, config: Any) -> Callable[[], Any]:
    """A function that trains on `features` for an epoch of the steps `parts`, along the rig's true lines."""
    import jax
    import numpy as np
    import optax
    from flax import nnx

    from mvead_jax.geometry.cameras import fundamental_from_cameras
    from mvead_jax.geometry.epipolar import epipolar_mask
    from mvead_jax.methods.mvead.attention import AttentionConfig, EpipolarAttention
    from mvead_jax.methods.mvead.banded import plan_bands
    from mvead_jax.methods.mvead.pretrain import NormalSamples, make_batch, make_step
    from mvead_jax.rig.cameras import five_cameras

    rig = five_cameras(backbone.image_size)
    F = fundamental_from_cameras(rig.K, rig.R, rig.t)
    mask = np.asarray(epipolar_mask(F, backbone.grid, backbone.patch_size))
    bands = plan_bands(mask, F, backbone.grid, backbone.patch_size)
    present = np.ones(features.shape[:2], bool)
    names = ("",) * len(present)
    samples = NormalSamples(features, present, (bands,), mask[None], np.zeros(len(present), np.int32), names)
    attention = EpipolarAttention(AttentionConfig(backbone.width, backbone.heads), nnx.Rngs(0))
    graph, parameters = nnx.split(attention)
    parameters = nnx.to_pure_dict(parameters)
    optimizer = optax.adamw(config.learning_rate)
    step = make_step(graph, optimizer, samples, config, jax.random.key(0))
    state = {"parameters": parameters, "optimizer": optimizer.init(parameters)}
    state |= {"centers": cached[:1, :, : config.centers].mean(0), "step": np.int32(0)}
    state = jax.device_put(state)

    def one_epoch() -> Any:
        nonlocal state
        for part in parts:
            state, figures = step(state, make_batch(samples, part, config.batch_size))
        return jax.block_until_ready(figures)

    return one_epoch


def _grids(text: str) -> list[int]:
    sides = [int(side) for side in text.split(",")]
    if min(sides) < 2:
        raise ValueError(text)
    return sides


def _require(contest: str, *packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"{contest}: the peer needs {package}; install the extra with pip install -e .[bench]"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    contests = parser.add_subparsers(dest="contest", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--rounds", type=int, default=9, help="timed rounds; each calls every contestant once"
    )
    shared.add_argument("--threads", type=int, default=2, help="cores that each contestant may use")
    shared.add_argument("--json", type=Path, help="write the result to this file too")

    contest = contests.add_parser("features", parents=[shared], help="backbone against transformers")
    contest.add_argument("--backbone", default="dinov2-base")
    contest.add_argument("--block", type=int, default=7)
    contest.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    contest.add_argument("--batch", type=int, default=10, help="images per call")
    contest.set_defaults(run=features)

    contest = contests.add_parser("nearest", parents=[shared], help="exact search against FAISS")
    contest.add_argument("--queries", type=int, default=2560)
    contest.add_argument("--rows", type=int, default=50_000, help="rows of the bank")
    contest.add_argument("--width", type=int, default=768, help="width of a feature")
    contest.set_defaults(run=nearest)

    contest = contests.add_parser("attention", parents=[shared], help="banded attention against dense")
    contest.add_argument(
        "--grids", type=_grids, default=[16, 32, 37], help="patches along a side, comma-separated"
    )
    contest.add_argument("--width", type=int, default=768, help="width of a feature")
    contest.add_argument("--heads", type=int, default=12)
    contest.set_defaults(run=attention)

    contest = contests.add_parser("epoch", parents=[shared], help="cached features against the backbone")
    contest.add_argument("--backbone", default="dinov2-base")
    contest.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    contest.add_argument("--steps", type=int, default=2, help="of eight samples in an epoch")
    contest.set_defaults(run=epoch, rounds=5)

    args = parser.parse_args()
    for option in ("rounds", "batch", "steps", "queries", "rows", "width", "heads"):
        if getattr(args, option, 1) < 1:
            raise UserError(f"--{option}={getattr(args, option)}: must be at least 1")
    if args.json and not args.json.absolute().parent.is_dir():
        raise UserError(f"--json={args.json}: there is no directory {args.json.parent}; make it first")
    result = args.run(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
