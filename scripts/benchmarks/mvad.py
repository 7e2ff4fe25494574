"""Samples per second of MVAD's training step and of its scoring, beside the same network in PyTorch. Needs the extra
`bench` (torch); about ten minutes on two cores with all parts, 10 GB.

The peer (peers/mvad.py) is written from the formulas of methods/mvad with torch's own layers. Both have the same
weights, and must give the same loss, gradients, step of the optimiser and maps, without dropout, before they are timed
with it. Parts: `cached` and `images` are training steps on stored features and with the teacher inside; `score` goes
from one sample's pixels to its scores. Memory is what a process that does nothing else holds of its own at its
peak (RssAnon). Both contestants keep the memory that they free, as train.py does; with MALLOC_ARENA_TEST=8 (the
default) in the environment neither does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.memory import Peak
from benchmarks.timing import alternate, limit_threads, report
from mvead_jax.runtime.memory import keep_freed_memory

NEEDS = ("torch",)
QUICK = ("--size=64", "--batch=2", "--rounds=3")
PARTS = ("cached", "images", "score")
_VIEWS = 5
_NETWORK, _TEACHER = "network.safetensors", "model.safetensors"
# A batch norm follows them, so that their gradient is nothing but rounding.
_WITHOUT_GRADIENT = {f"mff_oce.{name}.bias" for name in ("conv21", "conv31", "convf")}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--size", type=int, default=256, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=8, help="samples in a step")
    parser.set_defaults(rounds=3)


def measure(args: argparse.Namespace) -> list[dict]:
    keep_freed_memory()
    limit_threads(args.threads)
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_weights(folder, args)
        differences = _compared(folder, args)
        parts = args.parts.split(",")
        memory = {
            part: [_alone(folder, args, make, part) / 2**30 for make in (_ours, _theirs)] for part in parts
        }
        pair = {"mvead_jax": _ours(folder, args), "torch": _theirs(folder, args)}
        for part in parts:
            own, other = memory[part]
            seconds = alternate({name: runs[part] for name, runs in pair.items()}, args.rounds)
            samples = 1 if part == "score" else args.batch
            facts = {
                "images": f"{samples} samples of {_VIEWS} views, {args.size} x {args.size}",
                "network": "resnet34, windows 14, 9, 6, the best 4, random weights",
                "precision": "float32",
                "device": "cpu",
                "threads": args.threads,
                "peak memory": f"mvead_jax {own:.2f} GiB, torch {other:.2f} GiB",
            }
            results.append(report(f"mvad {part}", "samples", samples, seconds, facts | differences))
    return results


def _alone(folder: Path, args: argparse.Namespace, make: Callable, part: str) -> int:
    """The bytes that a process holds at its peak while it does a part twice, and nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (folder, args, make, part))


def _peak(folder: Path, args: argparse.Namespace, make: Callable, part: str) -> int:
    keep_freed_memory()
    run = make(folder, args)[part]
    with Peak() as peak:
        run()
        run()
    return peak.bytes


def _compared(folder: Path, args: argparse.Namespace) -> dict[str, str]:
    """The differences of the contestants without dropout. Raises RuntimeError: they are more than rounding."""
    import numpy as np

    one = argparse.Namespace(**vars(args) | {"batch": 1})
    maps, own_maps = (make(folder, one)["maps"]() for make in (_theirs, _ours))
    # In float64, because in float32 rounding turns ReLUs over, and gradients of all layers before them with it.
    small = argparse.Namespace(**vars(one) | {"size": min(64, args.size)})
    (loss, gradients, moved), (own_loss, own_gradients, own_moved) = (
        make(folder, small, dropout=0.0)["step"]() for make in (_theirs, _ours)
    )

    def apart(found: dict, expected: dict) -> float:
        squares = [
            (np.square(found[key] - expected[key]).sum(), np.square(expected[key]).sum()) for key in expected
        ]
        return float(np.sqrt(np.divide(*np.sum(squares, 0))))

    differences = {
        "loss": abs(own_loss / loss - 1),
        "gradient": apart(own_gradients, gradients),
        "step": apart(own_moved, moved),
        "map": float(np.abs(own_maps - maps).max() / np.abs(maps).max()),
    }
    bounds = {"loss": 1e-7, "gradient": 1e-5, "step": 1e-3, "map": 1e-3}
    if not all(value < bounds[name] for name, value in differences.items()):
        raise RuntimeError(f"relative differences {differences}: the contestants' times mean nothing")
    return {f"relative difference of the {name}": f"{value:.0e}" for name, value in differences.items()}


def _images(args: argparse.Namespace) -> Any:
    import numpy as np

    shape = (args.batch, _VIEWS, args.size, args.size, 3)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _drawn_maps(args: argparse.Namespace) -> list[Any]:
    """Random maps [B,V,H,W,C] in float64 in the place of the teacher's, the same for both."""
    import numpy as np

    random = np.random.default_rng(1)
    sizes = ((args.size // stride, width) for stride, width in ((4, 64), (8, 128), (16, 256)))
    return [np.abs(random.standard_normal((args.batch, _VIEWS, side, side, width))) for side, width in sizes]


def _write_weights(folder: Path, args: argparse.Namespace) -> None:
    """Random weights, with batch norms that have the statistics of one sample."""
    import safetensors.torch
    import torch

    from benchmarks.peers.mvad import Network, Teacher
    from mvead_jax.methods.mvad.modeling import NetworkConfig

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    networks = {_TEACHER: Teacher(), _NETWORK: Network(NetworkConfig(), _VIEWS)}
    x = torch.from_numpy(_images(args)[0]).permute(0, 3, 1, 2)
    with torch.no_grad():
        for name, network in networks.items():
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = 1.0
            x = network.train()(x)
            state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
            safetensors.torch.save_file(state, folder / name)


def _ours(folder: Path, args: argparse.Namespace, dropout: float = 0.1) -> dict:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from mvead_jax.backbones.base import as_function
    from mvead_jax.backbones.resnet.family import PYRAMID
    from mvead_jax.backbones.resnet.params import from_tensors
    from mvead_jax.backbones.weights import opened
    from mvead_jax.methods.distillation import image_scores
    from mvead_jax.methods.mvad.modeling import NetworkConfig
    from mvead_jax.methods.mvad.objective import anomaly_map
    from mvead_jax.methods.mvad.optimizer import optimizer
    from mvead_jax.methods.mvad.params import key_table, load_released
    from mvead_jax.training.loop import make_step

    # What one process has compiled the next one reads: their peaks are those of computing.
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with opened(folder) as tensors:
        teacher, weights = as_function(from_tensors("resnet34", tensors, layers=3, held=3), PYRAMID)
    teacher = jax.jit(teacher)
    network = load_released(folder / _NETWORK, NetworkConfig(dropout=dropout, drop_path=dropout))
    graph, *state = nnx.split(network, nnx.Param, ...)
    parameters, statistics = map(nnx.to_pure_dict, state)
    table = key_table(network)
    images = jnp.asarray(_images(args))
    counted = jnp.ones((args.batch, _VIEWS), bool)

    def maps_of(images: Any) -> list[Any]:
        found = teacher(weights, images.reshape(-1, *images.shape[2:]))
        return [found[tap].reshape(*images.shape[:2], *found[tap].shape[1:]) for tap in PYRAMID]

    cached = maps_of(images)

    optimiser, key = optimizer(epochs=100, steps_per_epoch=911), jax.random.key(0)
    loss = _our_loss(graph)
    step = make_step(loss, optimiser, key)
    state = {
        "parameters": jax.tree.map(jnp.copy, parameters),
        "optimizer": optimiser.init(parameters),
        "extras": statistics,
        "step": jnp.int32(0),
    }

    def train(maps: Any) -> None:
        nonlocal state
        state, _ = step(state, (maps, counted))
        jax.block_until_ready(state)

    @jax.jit
    def maps_of_sample(parameters: Any, statistics: Any, teacher: Any) -> Any:
        student = nnx.merge(graph, parameters, statistics)(teacher)
        return jax.vmap(jax.vmap(lambda t, s: anomaly_map(t, s, (args.size, args.size))))(teacher, student)

    def maps() -> Any:
        return np.asarray(maps_of_sample(parameters, statistics, maps_of(images[:1])))[0]

    def first_step() -> tuple[float, dict, dict]:
        found = _our_first_step(loss, optimiser, (parameters, statistics), _drawn_maps(args), counted, key)
        return found[0], *(_named(table, own) for own in found[1:])

    return {
        "cached": lambda: train(cached),
        "images": lambda: train(maps_of(images)),
        "score": lambda: image_scores(maps()),
        "maps": maps,
        "step": first_step,
    }


def _our_loss(graph: Any) -> Callable:
    """The loss of a batch (teacher's maps, views that count), as of `training.loop.Problem`."""
    import jax
    from flax import nnx

    from mvead_jax.methods.mvad.objective import batch_loss

    def loss(parameters: Any, statistics: Any, batch: Any, key: Any) -> Any:
        (teacher, counted), network = batch, nnx.merge(graph, parameters, statistics)
        keys = jax.random.split(key, len(counted))
        student = network(teacher, counted, train=True, keys=keys, counted=counted)
        value = batch_loss(teacher, student, counted)
        after = nnx.to_pure_dict(nnx.split(network, nnx.Param, ...)[2])
        return value, ({"loss": value}, after)

    return loss


def _our_first_step(loss: Callable, optimiser: Any, state: Any, maps: list, counted: Any, key: Any) -> tuple:
    """The loss, the gradient and what the first step adds to the parameters, all in float64."""
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        parameters, statistics = jax.tree.map(lambda x: x.astype(float), state)
        batch = ([jnp.asarray(x) for x in maps], counted)
        whole = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (value, _), gradients = whole(parameters, statistics, batch, key)
        with jax.numpy_dtype_promotion("standard"):
            moved = optimiser.update(gradients, optimiser.init(parameters), parameters)[0]
    return float(value), gradients, moved


def _named(table: dict, leaves: dict) -> dict[str, Any]:
    """The leaves of a nested dictionary by their released names."""
    import numpy as np

    found = {}
    for name, source in table.items():
        leaf = leaves
        for key in source.path:
            leaf = leaf.get(key, {})
        if name not in _WITHOUT_GRADIENT and "running_" not in name:
            found[name] = np.asarray(leaf, np.float64)
    return found


def _theirs(folder: Path, args: argparse.Namespace, dropout: float = 0.1) -> dict:
    import safetensors.torch
    import torch
    from scipy.ndimage import gaussian_filter

    from benchmarks.peers.mvad import Network, Teacher, anomaly_maps, loss_of
    from mvead_jax.methods.mvad.modeling import NetworkConfig

    torch.set_num_threads(args.threads)
    network = Network(NetworkConfig(dropout=dropout, drop_path=dropout), _VIEWS)
    network.load_state_dict(safetensors.torch.load_file(folder / _NETWORK))
    teacher = Teacher().eval()
    teacher.load_state_dict(safetensors.torch.load_file(folder / _TEACHER))
    images = torch.from_numpy(_images(args)).flatten(0, 1).permute(0, 3, 1, 2).contiguous()
    parameters = dict(network.named_parameters())
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    others = [p for p in parameters.values() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=0.005 * 8 * 5 / 16, fused=True)

    def maps_of(images: Any) -> list[Any]:
        with torch.no_grad():
            return teacher(images)

    cached = maps_of(images)

    def train(maps: list[Any]) -> float:
        optimiser.zero_grad()
        loss = loss_of(maps, network.train()(maps))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 5.0)
        optimiser.step()
        return loss.item()

    @torch.inference_mode()
    def maps() -> Any:
        found = teacher(images[:_VIEWS])
        return anomaly_maps(found, network.eval()(found), args.size).numpy()

    def score() -> Any:
        return gaussian_filter(maps(), (0, 4, 4)).max((1, 2))

    def first_step() -> tuple[float, dict, dict]:
        """The loss, the gradient and what the first step adds to the parameters, all in float64."""
        network.double()
        before = {name: p.detach().clone() for name, p in parameters.items()}
        drawn = [torch.from_numpy(x).flatten(0, 1).permute(0, 3, 1, 2) for x in _drawn_maps(args)]
        loss = loss_of(drawn, network.train()(drawn))
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in parameters.items()}
        torch.nn.utils.clip_grad_norm_(parameters.values(), 5.0)
        optimiser.step()
        moved = {name: parameters[name].detach() - before[name] for name in parameters}
        return loss.item(), _in_our_layout(gradients), _in_our_layout(moved)

    return {
        "cached": lambda: train(cached),
        "images": lambda: train(maps_of(images)),
        "score": score,
        "maps": maps,
        "step": first_step,
    }


def _in_our_layout(tensors: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    from flax import nnx

    from mvead_jax.methods.mvad.modeling import MVADNetwork, NetworkConfig
    from mvead_jax.methods.mvad.params import key_table

    table = key_table(nnx.eval_shape(lambda: MVADNetwork(NetworkConfig(), nnx.Rngs(0))))
    named = {name: tensor for name, tensor in tensors.items() if name not in _WITHOUT_GRADIENT}
    return {name: np.float64(table[name].transform(tensor.numpy())) for name, tensor in named.items()}
