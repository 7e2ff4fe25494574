"""Where the time of a DINOv2 block goes: its parts by XLA and by PyTorch, and the layers of OpenVINO's profile.

Needs the extra `engines` (torch, openvino); two minutes on two cores.

The parts: the products with weights, attention between them, and what is left of a block (two layer norms, GELU, layer
scales, residuals). The facts hold the GFLOP/s of the products, and OpenVINO's own profile of the whole backbone.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.features import arguments as arguments_of_features
from benchmarks.features import backbones
from benchmarks.timing import alternate, limit_threads, report

NEEDS = ("torch", "transformers", "openvino")
QUICK = ("--backbone=dinov2-small", "--block=1", "--batch=2", "--rounds=3")
_HEAD = 64  # the width of a head of every DINOv2

Parts = dict[str, dict[str, Callable[[], Any]]]  # contestants by part


def arguments(parser: argparse.ArgumentParser) -> None:
    arguments_of_features(parser)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")


def measure(args: argparse.Namespace) -> list[dict]:
    """The parts of a block, each by XLA and by PyTorch: bfloat16 is that of the operands of our products, and all of
    PyTorch's."""
    limit_threads(args.threads)
    import torch

    from mvead_jax.backbones.dinov2.config import DINOV2_SIZES

    torch.set_num_threads(args.threads)
    profile = _openvino_profile(args)  # first of all it checks the name of the backbone
    config = DINOV2_SIZES[args.backbone]
    width, hidden = config.hidden_size, config.mlp_width
    tokens = args.batch * ((args.size // config.patch_size) ** 2 + config.num_prefix_tokens)
    flop = 2 * tokens * width * (4 * width + 2 * hidden)
    results = []
    for name, contestants in _parts(args.batch, tokens // args.batch, width, hidden, args.precision).items():
        seconds = alternate(contestants, args.rounds)
        facts = {
            "backbone": args.backbone,
            "part of a block": name,
            "batch": args.batch,
            "precision": args.precision,
            "threads": args.threads,
        }
        if name == "products with weights":
            facts |= {
                f"GFLOP/s by {own}": round(flop / 1e9 / min(times), 1) for own, times in seconds.items()
            }
        results.append(report("layers", "blocks", 1, seconds, facts | profile))
    return results


def _parts(batch: int, tokens: int, width: int, hidden: int, precision: str) -> Parts:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch
    from torch.nn import functional

    from mvead_jax.backbones.dinov2.blocks import attend, gelu

    draw, dtype = np.random.default_rng(0), jnp.dtype(precision)
    exact = "highest" if precision == "float32" else None

    def both(*shape: int) -> tuple[jax.Array, torch.Tensor]:
        own = draw.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[-1]))
        return jnp.asarray(own), torch.from_numpy(own).to(getattr(torch, precision))

    x, x_torch = both(batch, tokens, width)
    wide, wide_torch = both(batch, tokens, hidden)
    shapes = [(width, width)] * 4 + [(width, hidden), (hidden, width)]
    weights = [both(*shape) for shape in shapes]
    heads = [both(batch, tokens, width // _HEAD, _HEAD) for _ in range(3)]

    @jax.jit
    def products(x, wide, weights):
        given = [wide if own.shape[0] == hidden else x for own in weights]
        return [
            jnp.matmul(
                a.astype(dtype), own.astype(dtype), precision=exact, preferred_element_type=jnp.float32
            )
            for a, own in zip(given, weights, strict=True)
        ]

    attention = jax.jit(partial(attend, dtype=dtype))

    @jax.jit
    def left(x, wide):
        def norm(x):
            centred = x - x.mean(-1, keepdims=True)
            return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)

        return norm(x), norm(x) + x, gelu(wide)

    def run_torch(function: Callable[[], Any]) -> Callable[[], Any]:
        return torch.inference_mode()(function)

    def torch_products():
        given = [wide_torch if own.shape[0] == hidden else x_torch for _, own in weights]
        return [torch.matmul(a, own) for a, (_, own) in zip(given, weights, strict=True)]

    def torch_attention():
        return functional.scaled_dot_product_attention(*(own.transpose(1, 2) for _, own in heads))

    def torch_left():
        normed = functional.layer_norm(x_torch, (width,))
        return normed, functional.layer_norm(x_torch, (width,)) + x_torch, functional.gelu(wide_torch)

    jax_weights = [own for own, _ in weights]
    return {
        "products with weights": {
            "XLA": lambda: jax.block_until_ready(products(x, wide, jax_weights)),
            "PyTorch": run_torch(torch_products),
        },
        "attention": {
            "XLA": lambda: jax.block_until_ready(attention(*(own for own, _ in heads))),
            "PyTorch": run_torch(torch_attention),
        },
        "norms, GELU, residuals": {
            "XLA": lambda: jax.block_until_ready(left(x, wide)),
            "PyTorch": run_torch(torch_left),
        },
    }


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
