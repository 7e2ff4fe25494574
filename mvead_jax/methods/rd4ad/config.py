"""The settings of RD4AD: the released single-class code's by default, ADer's by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mvead_jax.config.schema import BackboneConfig, Config, DataConfig, TrainConfig
from mvead_jax.config.validation import number
from mvead_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from mvead_jax.methods.base import Requires, Spec
    from mvead_jax.methods.rd4ad.method import Rd4ad


@dataclass(frozen=True)
class Rd4adSection:
    """The trained network (methods/rd4ad/modeling.py) and its map.

    Attributes:
      variant: `released`: the neck's bottlenecks are as wide inside as the teacher's last map, and the maps of the
        scales are added. `ader`: half as wide, and the sum is divided by the square of their number.
      block: of neck and decoder, that of the teacher: `bottleneck`, or `basic` for a ResNet-18 or -34.
      neck_blocks: residual blocks of the neck; 2 with a ResNet-18.
      decoder_blocks: of the student, from coarse to fine; 2,2,2 with a ResNet-18.
    """

    variant: Literal["released", "ader"] = "released"
    block: Literal["bottleneck", "basic"] = "bottleneck"
    neck_blocks: int = number(3, least=1)
    decoder_blocks: tuple[int, ...] = (3, 4, 6)


@dataclass(frozen=True)
class Rd4adTrainConfig(TrainConfig):
    """RD4AD's training: Adam with β .5 and .999, at one learning rate.

    Attributes:
      batch_size: 3 samples of five views are 15 images; the released code takes 16 images.
    """

    epochs: int = number(200, least=0)
    batch_size: int = number(3, least=1)
    learning_rate: float = number(5e-3, least=0)
    weight_decay: float = number(0.0, least=0)


@dataclass(frozen=True)
class Rd4adConfig(Config):
    """RD4AD: a student gives back a teacher's feature maps from one small code, where they are normal."""

    method: str = "rd4ad"
    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=256))
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="wide_resnet50_2"))
    train: Rd4adTrainConfig = field(default_factory=Rd4adTrainConfig)
    rd4ad: Rd4adSection = field(default_factory=Rd4adSection)

    def __post_init__(self):
        super().__post_init__()
        blocks = self.rd4ad.decoder_blocks
        if len(blocks) != 3 or min(blocks) < 1:
            raise UserError(f"config rd4ad.decoder_blocks={blocks}: give three whole numbers, at least 1")

    @classmethod
    def debug(cls) -> Rd4adConfig:
        found = super().debug()
        section = Rd4adSection(block="basic", neck_blocks=1, decoder_blocks=(1, 1, 1))
        return replace(found, rd4ad=section)

    def requires(self) -> Requires:
        from mvead_jax.methods.rd4ad.method import Rd4ad

        return Rd4ad.requires

    def build(self, spec: Spec) -> Rd4ad:
        """Return the method. Raises UserError: feature maps that the network cannot take."""
        from mvead_jax.methods.rd4ad.method import Rd4ad
        from mvead_jax.methods.rd4ad.modeling import check_maps

        check_maps(list(spec.maps.values()))
        return Rd4ad(spec, self.rd4ad, self.train)
