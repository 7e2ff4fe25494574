"""MVAD's neck: the fused maps of three scales become one small map ("mff_oce" of the released code)."""

from __future__ import annotations

import jax
from flax import nnx
from jaxtyping import Array, Float

from mvead_jax.backbones.batch_norm import BatchNorm
from mvead_jax.methods.mvad.layers import Conv


class Bottleneck(nnx.Module):
    """Apply three convolutions (1 x 1, 3 x 3, 1 x 1) and a shortcut; a stride of 2 halves the map's sides."""

    def __init__(self, inputs: int, width: int, outputs: int, *, stride: int, rngs: nnx.Rngs):
        self.conv1, self.bn1 = Conv(inputs, width, 1, rngs=rngs), BatchNorm(width)
        self.conv2, self.bn2 = Conv(width, width, stride=stride, rngs=rngs), BatchNorm(width)
        self.conv3, self.bn3 = Conv(width, outputs, 1, rngs=rngs), BatchNorm(outputs)
        if stride == 1 and inputs == outputs:
            self.downsample = None
        else:
            shortcut = Conv(inputs, outputs, 1, stride=stride, rngs=rngs)
            self.downsample = nnx.List([shortcut, BatchNorm(outputs)])

    def __call__(self, x: Float[Array, "N H W C"], **norm) -> Float[Array, "N H' W' D"]:
        y = jax.nn.relu(self.bn1(self.conv1(x), **norm))
        y = jax.nn.relu(self.bn2(self.conv2(y), **norm))
        y = self.bn3(self.conv3(y), **norm)
        if self.downsample is not None:
            convolution, batch_norm = self.downsample
            x = batch_norm(convolution(x), **norm)
        return jax.nn.relu(y + x)


class Neck(nnx.Module):
    """Join three maps, from fine to coarse, into one of half the sides and twice the width of the last."""

    def __init__(self, widths: tuple[int, int, int], *, rngs: nnx.Rngs):
        fine, middle, coarse = widths
        self.conv1, self.bn1 = Conv(fine, middle, stride=2, rngs=rngs), BatchNorm(middle)
        self.conv21, self.bn21 = Conv(middle, middle, 1, bias=True, rngs=rngs), BatchNorm(middle)
        self.conv2, self.bn2 = Conv(middle, coarse, stride=2, rngs=rngs), BatchNorm(coarse)
        self.conv31, self.bn31 = Conv(coarse, coarse, 1, bias=True, rngs=rngs), BatchNorm(coarse)
        self.convf, self.bnf = Conv(coarse, coarse, 1, bias=True, rngs=rngs), BatchNorm(coarse)
        self.bn_layer = nnx.List(
            [
                Bottleneck(
                    coarse if k == 0 else 2 * coarse, coarse // 2, 2 * coarse, stride=1 + (k == 0), rngs=rngs
                )
                for k in range(3)
            ]
        )

    def __call__(
        self,
        fine: Float[Array, "N H W C"],
        middle: Float[Array, "N H/2 W/2 C'"],
        coarse: Float[Array, "N H/4 W/4 C''"],
        **norm,
    ) -> dict[str, Float[Array, "N h w D"]]:
        """Return "fpn0", "relu_bn21", "relu_bn2", "relu_bn31", "relu_bnf" and the output, "neck"."""
        named = {"fpn0": jax.nn.relu(self.bn1(self.conv1(fine), **norm))}
        named["relu_bn21"] = jax.nn.relu(self.bn21(self.conv21(middle), **norm))
        joined = named["fpn0"] + named["relu_bn21"]
        named["relu_bn2"] = jax.nn.relu(self.bn2(self.conv2(joined), **norm))
        named["relu_bn31"] = jax.nn.relu(self.bn31(self.conv31(coarse), **norm))
        joined = named["relu_bn2"] + named["relu_bn31"]
        x = named["relu_bnf"] = jax.nn.relu(self.bnf(self.convf(joined), **norm))
        for block in self.bn_layer:
            x = block(x, **norm)
        return named | {"neck": x}
