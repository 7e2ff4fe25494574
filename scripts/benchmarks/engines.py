"""Images per second of the backbones by the engines that a user could take instead of XLA. Needs the extra `engines`
(torch, onnxruntime, openvino); some ten minutes on two cores.

DINOv2 with random weights, up to a block: ours, by XLA and by each `backbone.engine`, transformers as it comes and
through torch.compile, and OpenVINO with the model that it makes of transformers'. EfficientNet-Lite0 with its ImageNet
weights: ours, by XLA and by each engine. All must give the same features first.

`--no-onnx` leaves out ours by other engines, for jax2onnx 0.13 converts nothing with JAX 0.12. `--precision bfloat16`
lets all compute in it, but for ONNX Runtime, which computes none on a CPU and is left out, and takes DINOv2 only.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable
from typing import Any

from benchmarks.features import backbones
from benchmarks.timing import alternate, limit_threads, report
from mvead_jax.runtime.errors import UserError

NEEDS = ("torch", "transformers", "jax2onnx", "onnxruntime", "openvino")
QUICK = ("--backbones=dinov2-small", "--blocks=1", "--batch=2", "--rounds=3")
_OURS = "mvead_jax"
_LITE0 = "efficientnet-lite0"
# The largest difference beside ours, relative to the largest feature.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}

Contestants = dict[str, Callable[[], Any]]  # each returns the features


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbones", default=f"dinov2-small,dinov2-base,{_LITE0}", help="comma-separated")
    parser.add_argument("--blocks", default="7,12", help="of DINOv2, comma-separated")
    parser.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=10, help="images per call")
    parser.add_argument("--precision", choices=tuple(_TOLERANCE), default="float32")
    parser.add_argument("--no-onnx", action="store_true", help="without what needs jax2onnx: DINOv2 only")
    parser.set_defaults(rounds=5)


def measure(args: argparse.Namespace) -> list[dict]:
    if args.no_onnx and _LITE0 in args.backbones.split(","):
        raise UserError(f"--no-onnx: the peers of {_LITE0} need jax2onnx; leave it out of --backbones")
    if args.precision == "bfloat16" and _LITE0 in args.backbones.split(","):
        raise UserError(f"--precision=bfloat16: {_LITE0} differs by engine then; leave it out of --backbones")
    limit_threads(args.threads)
    warnings.filterwarnings("ignore")  # of tracing, and of forks of the compiler's helpers
    import jax
    import numpy as np
    import torch

    torch.set_num_threads(args.threads)
    images = np.random.default_rng(0).standard_normal((args.batch, args.size, args.size, 3), dtype=np.float32)
    results = []
    for name in args.backbones.split(","):
        for block in (0,) if name == _LITE0 else map(int, args.blocks.split(",")):
            facts = {
                "backbone": name + (f" to block {block}" if block else ""),
                "size": f"{args.size} px",
                "batch": args.batch,
                "precision": args.precision,
                "device": jax.devices()[0].platform,
                "threads": args.threads,
            }
            contestants = _lite0(args, images) if name == _LITE0 else _dinov2(args, name, block, images)
            facts |= _apart(contestants, args.precision)
            seconds = alternate(contestants, args.rounds)
            results.append(report("engines", "images", args.batch, seconds, facts))
    return results


def _apart(contestants: Contestants, precision: str) -> dict[str, str]:
    """Return how far the features of each are from those of the first, relative to the largest of them."""
    import numpy as np

    found = {name: np.asarray(run()) for name, run in contestants.items()}
    expected = found.pop(_OURS)
    differences = {
        name: float(np.abs(own - expected).max() / np.abs(expected).max()) for name, own in found.items()
    }
    for name, difference in differences.items():
        if not difference < _TOLERANCE[precision]:
            raise RuntimeError(
                f"{name} disagrees by {difference:.1e} of the largest feature: its time means nothing"
            )
    return {f"{name} differs by": f"{difference:.1e}" for name, difference in differences.items()}


def _dinov2(args: argparse.Namespace, name: str, block: int, images: Any) -> Contestants:
    import torch

    half = args.precision == "bfloat16"
    ours, network = backbones(name, block, args.precision, args.size)
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    given = channels_first.bfloat16() if half else channels_first
    typed = copy.deepcopy(network).to(given.dtype)

    def torch_run(function: Callable) -> Callable[[], Any]:
        @torch.inference_mode()
        def run() -> Any:
            return function(given).float().numpy()

        return run

    in_float32 = backbones(name, block, "float32", args.size)[0] if half else ours
    contestants = {
        _OURS: _jax_run(ours, images),
        "transformers (PyTorch, sdpa)": torch_run(typed),
        "torch.compile": torch_run(torch.compile(typed)),
    }
    if not args.no_onnx:
        contestants |= _by_engines(args, in_float32, ours, images)
    contestants["OpenVINO"] = _openvino(args, network, channels_first)
    return contestants


def _lite0(args: argparse.Namespace, images: Any) -> Contestants:
    import jax

    from mvead_jax.backbones.base import as_function, load_network
    from mvead_jax.config.schema import BackboneConfig

    if args.size % 32:
        raise UserError(f"--size={args.size}: {_LITE0} takes multiples of 32 here")
    loaded = load_network(BackboneConfig(name=_LITE0), ("stride16",))
    forward, state = as_function(loaded.network, ("stride16",))
    ours = jax.jit(lambda images: forward(state, images)["stride16"])
    return {_OURS: _jax_run(ours, images)} | _by_engines(args, ours, ours, images)


def _jax_run(function: Callable, images: Any) -> Callable[[], Any]:
    import jax
    import numpy as np

    on_device = jax.device_put(images)
    return lambda: np.asarray(function(on_device), np.float32)


def _by_engines(args: argparse.Namespace, in_float32: Callable, ours: Callable, images: Any) -> Contestants:
    """Return ours by the engines of `backbone.engine` that compute in the precision."""
    import numpy as np

    from mvead_jax.backbones.engines import ENGINES, by_engine

    def run(apply: Callable) -> Callable[[], Any]:
        return lambda: np.asarray(apply(images)["map"])

    functions = [lambda given, own=own: {"map": own(given)} for own in (in_float32, ours)]
    return {
        f"ours, {engine.package}": run(by_engine(engine, "backbone", *functions, ("map",), args.precision))
        for engine in ENGINES.values()
        if args.precision in engine.precisions
    }


def _openvino(args: argparse.Namespace, network: Any, images: Any) -> Callable[[], Any]:
    """Return a module of PyTorch by OpenVINO. Args: images: [B,3,H,W], a tensor."""
    from mvead_jax.backbones.engines import import_openvino

    openvino = import_openvino()
    hints = {
        "INFERENCE_NUM_THREADS": args.threads,
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[args.precision],
    }
    compiled = openvino.Core().compile_model(
        openvino.convert_model(network, example_input=images), "CPU", hints
    )
    given = images.numpy()
    return lambda: compiled(given)[0]
