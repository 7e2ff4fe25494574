"""MVAD's student: a mirrored ResNet that gives the teacher's feature maps back (reverse distillation)."""

from __future__ import annotations

import jax
from flax import nnx
from jaxtyping import Array, Float

from mvead_jax.backbones.batch_norm import BatchNorm
from mvead_jax.methods.mvad.layers import Conv, Upsample


class DecoderBlock(nnx.Module):
    """Apply two convolutions and a shortcut; the first block of a layer doubles the map's sides."""

    def __init__(self, inputs: int, outputs: int, *, upsample: bool, rngs: nnx.Rngs):
        self.conv1 = Upsample(inputs, outputs, rngs=rngs) if upsample else Conv(inputs, outputs, rngs=rngs)
        self.bn1 = BatchNorm(outputs)
        self.conv2 = Conv(outputs, outputs, rngs=rngs)
        self.bn2 = BatchNorm(outputs)
        self.upsample = (
            nnx.List([Upsample(inputs, outputs, rngs=rngs), BatchNorm(outputs)]) if upsample else None
        )

    def __call__(self, x: Float[Array, "N H W C"], **norm) -> Float[Array, "N H' W' D"]:
        y = jax.nn.relu(self.bn1(self.conv1(x), **norm))
        y = self.bn2(self.conv2(y), **norm)
        if self.upsample is not None:
            convolution, batch_norm = self.upsample
            x = batch_norm(convolution(x), **norm)
        return jax.nn.relu(y + x)


class Decoder(nnx.Module):
    """Reconstruct the teacher's three maps from the neck's output."""

    def __init__(self, widths: tuple[int, int, int], blocks: tuple[int, int, int], *, rngs: nnx.Rngs):
        """Build the decoder.

        Args:
          widths: of the teacher's three maps, from fine to coarse; the input has twice the last one.
          blocks: in layer1 (coarse) to layer3 (fine).
        """
        fine, middle, coarse = widths
        self.layer1 = _layer(2 * coarse, coarse, blocks[0], rngs)
        self.layer2 = _layer(coarse, middle, blocks[1], rngs)
        self.layer3 = _layer(middle, fine, blocks[2], rngs)

    def __call__(self, x: Float[Array, "N h w C"], **norm) -> tuple[Float[Array, "N H W D"], ...]:
        """Return the three maps, from fine to coarse; `norm` goes to every `BatchNorm`."""
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3):
            for block in layer:
                x = block(x, **norm)
            maps.append(x)
        return tuple(reversed(maps))


def _layer(inputs: int, outputs: int, blocks: int, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List(
        [
            DecoderBlock(inputs if k == 0 else outputs, outputs, upsample=k == 0, rngs=rngs)
            for k in range(blocks)
        ]
    )
