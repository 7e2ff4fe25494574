"""Where the time of a DINOv2 block goes: its parts by XLA and by PyTorch, and the layers of OpenVINO's profile.

Needs the extra `engines` (torch, openvino); two minutes on two cores.

The parts: the products with weights, attention between them, and what is left of a block (two layer norms, GELU, layer
scales, residuals). The facts hold the GFLOP/s of the products, and OpenVINO's own profile of the whole backbone.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32

from benchmarks.features import arguments as arguments_of_features
from benchmarks.features import backbones
from benchmarks.timing import alternate, limit_threads, report

NEEDS = ("torch", "transformers", "openvino")
QUICK = ("--backbone=dinov2-small", "--block=1", "--batch=2", "--rounds=3")
_HEAD = 64  # the width of a head of every DINOv2

_PRODUCTS, _ATTENTION, _REST = "products with weights", "attention", "norms, GELU, residuals"

Parts = dict[str, Callable[[], Any]]


def arguments(parser: argparse.ArgumentParser) -> None:
    arguments_of_features(parser)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")


def measure(args: argparse.Namespace) -> list[dict]:
    """Time the parts of a block by XLA and by PyTorch.

    In bfloat16 only the operands of our products are rounded, and all that PyTorch holds.
    """
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
    inputs = _Inputs.drawn(args.batch, tokens // args.batch, width, hidden)
    ours, theirs = _by_xla(inputs, args.precision), _by_torch(inputs, args.precision)
    for name in ours:
        seconds = alternate({"XLA": ours[name], "PyTorch": theirs[name]}, args.rounds)
        facts = {
            "backbone": args.backbone,
            "part of a block": name,
            "batch": args.batch,
            "precision": args.precision,
            "threads": args.threads,
        }
        if name == _PRODUCTS:
            facts |= {
                f"GFLOP/s by {own}": round(flop / 1e9 / min(times), 1) for own, times in seconds.items()
            }
        results.append(report("layers", "blocks", 1, seconds, facts | profile))
    return results


@dataclass(frozen=True)
class _Inputs:
    """What the parts of a block are given, as random numbers.

    Attributes:
      x: features. wide: those within the MLP. weights: of the six products. heads: query, key and value.
    """

    x: Float32[np.ndarray, "B T D"]
    wide: Float32[np.ndarray, "B T W"]
    weights: list[Float32[np.ndarray, "inputs outputs"]]
    heads: list[Float32[np.ndarray, "B T H d"]]

    @classmethod
    def drawn(cls, batch: int, tokens: int, width: int, hidden: int) -> _Inputs:
        """Return inputs of batch x tokens features of this width, and of the MLP's hidden width."""
        random = np.random.default_rng(0)

        def draw(*shape: int) -> Float32[np.ndarray, "*shape"]:
            return random.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))

        shapes = [(width, width)] * 4 + [(width, hidden), (hidden, width)]
        return cls(
            draw(batch, tokens, width),
            draw(batch, tokens, hidden),
            [draw(*shape) for shape in shapes],
            [draw(batch, tokens, width // _HEAD, _HEAD) for _ in range(3)],
        )


def _by_xla(inputs: _Inputs, precision: str) -> Parts:
    import jax
    import jax.numpy as jnp

    from mvead_jax.backbones.dinov2.blocks import attend, gelu

    dtype = jnp.dtype(precision)
    x, wide, weights, heads = jax.tree.map(jnp.asarray, (inputs.x, inputs.wide, inputs.weights, inputs.heads))

    @jax.jit
    def products(x, wide, weights):
        options = {
            "precision": "highest" if precision == "float32" else None,
            "preferred_element_type": jnp.float32,
        }
        given = [wide if len(own) == wide.shape[-1] else x for own in weights]
        return [
            jnp.matmul(a.astype(dtype), own.astype(dtype), **options)
            for a, own in zip(given, weights, strict=True)
        ]

    @jax.jit
    def left(x, wide):
        def norm(x):
            centred = x - x.mean(-1, keepdims=True)
            return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)

        return norm(x), norm(x) + x, gelu(wide)

    attention = jax.jit(partial(attend, dtype=dtype))
    return {
        _PRODUCTS: lambda: jax.block_until_ready(products(x, wide, weights)),
        _ATTENTION: lambda: jax.block_until_ready(attention(*heads)),
        _REST: lambda: jax.block_until_ready(left(x, wide)),
    }


def _by_torch(inputs: _Inputs, precision: str) -> Parts:
    import torch
    from torch.nn import functional

    def typed(own: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(own).to(getattr(torch, precision))

    x, wide = typed(inputs.x), typed(inputs.wide)
    weights, heads = [[typed(own) for own in every] for every in (inputs.weights, inputs.heads)]

    def products():
        given = [wide if len(own) == wide.shape[-1] else x for own in weights]
        return [torch.matmul(a, own) for a, own in zip(given, weights, strict=True)]

    def attention():
        return functional.scaled_dot_product_attention(*(own.transpose(1, 2) for own in heads))

    def left():
        normed = functional.layer_norm(x, x.shape[-1:])
        return normed, functional.layer_norm(x, x.shape[-1:]) + x, functional.gelu(wide)

    parts = {_PRODUCTS: products, _ATTENTION: attention, _REST: left}
    return {name: torch.inference_mode()(part) for name, part in parts.items()}


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
