"""Where the time of a DINOv2 block goes: its parts by XLA and by PyTorch, and the layers of OpenVINO's profile.

Needs the extra `engines` (torch, openvino); two minutes on two cores.

The parts: the products with weights, attention between them, and what is left of a block (two layer norms, GELU, layer
scales, residuals). The facts hold the GFLOP/s of the products, and OpenVINO's own profile of the whole backbone.
"""

from __future__ import annotations

import argparse
from collections import Counter

from benchmarks.features import arguments as arguments_of_features
from benchmarks.features import backbones
from benchmarks.timing import alternate, limit_threads, report

NEEDS = ("torch", "transformers", "openvino")
QUICK = ("--backbone=dinov2-small", "--block=1", "--batch=2", "--rounds=3")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the backbone, its input and the precision."""
    arguments_of_features(parser)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")


def measure(args: argparse.Namespace) -> list[dict]:
    """Time the parts of a block by XLA and by PyTorch.

    In bfloat16 ours rounds the operands of products only; PyTorch holds everything in it.
    """
    limit_threads(args.threads)
    import torch

    from benchmarks import block_parts
    from mvead_jax.backbones.dinov2.config import DINOV2_SIZES

    torch.set_num_threads(args.threads)
    profile = _openvino_profile(args)  # first of all it checks the name of the backbone
    config = DINOV2_SIZES[args.backbone]
    width, hidden = config.hidden_size, config.mlp_width
    tokens = args.batch * ((args.size // config.patch_size) ** 2 + config.num_prefix_tokens)
    flop = 2 * tokens * width * (4 * width + 2 * hidden)
    results = []
    inputs = block_parts.Inputs.drawn(args.batch, tokens // args.batch, width, hidden)
    ours, theirs = block_parts.by_xla(inputs, args.precision), block_parts.by_torch(inputs, args.precision)
    for name in ours:
        seconds = alternate({"XLA": ours[name], "PyTorch": theirs[name]}, args.rounds)
        facts = {
            "backbone": args.backbone,
            "part of a block": name,
            "batch": args.batch,
            "precision": args.precision,
            "threads": args.threads,
        }
        if name == block_parts.PRODUCTS:
            facts |= {
                f"GFLOP/s by {own}": round(flop / 1e9 / min(times), 1) for own, times in seconds.items()
            }
        results.append(report("layers", "blocks", 1, seconds, facts | profile))
    return results


def _openvino_profile(args: argparse.Namespace) -> dict[str, float]:
    """Return the milliseconds a block that OpenVINO spends on each kind of layer, the lowest of ten runs."""
    import openvino
    import torch

    _, network = backbones(args.backbone, args.block)
    images = torch.randn(args.batch, 3, args.size, args.size)
    hints = {
        "INFERENCE_NUM_THREADS": args.threads,
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[args.precision],
        "PERF_COUNT": True,
    }
    model = openvino.convert_model(network, example_input=images)
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    request, runs = compiled.create_infer_request(), []
    for _ in range(10):
        request.infer(images.numpy())
        spent: Counter[str] = Counter()
        for layer in request.get_profiling_info():
            spent[layer.node_type] += layer.real_time.total_seconds() * 1000 / args.block
        runs.append(spent)
    best = min(runs, key=lambda own: own.total())
    return {f"OpenVINO, ms a block in {kind}": round(own, 2) for kind, own in best.most_common(6)}
