"""The settings of SimpleNet: the released code's by default, ADer's by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mvead_jax.config.schema import BackboneConfig, Config, DataConfig, TrainConfig
from mvead_jax.config.validation import number
from mvead_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from mvead_jax.methods.base import Requires, Spec
    from mvead_jax.methods.simplenet.method import SimpleNet

_RESNET, _EFFICIENTNET = ("layer2", "layer3"), ("stride8", "stride16")


@dataclass(frozen=True)
class SimpleNetSection:
    """The embedding and the discriminator (methods/simplenet/modeling.py).

    Attributes:
      taps: two feature maps of the backbone, the finer first; empty = layers 2 and 3 of a ResNet, strides 8 and 16
        of an EfficientNet.
      first_width: to which the patches of each map are averaged.
      width: of the embedding and of the adaptor.
      hidden: of the discriminator.
      noise: standard deviation of what is added to normal features.
      margin: by which the discriminator must tell them apart.
    """

    taps: tuple[str, ...] = ()
    first_width: int = number(1536, least=1)
    width: int = number(1536, least=1)
    hidden: int = number(1024, least=1)
    noise: float = number(0.015, least=0)
    margin: float = number(0.5, least=0)


@dataclass(frozen=True)
class SimpleNetTrainConfig(TrainConfig):
    """SimpleNet's training: Adam for the discriminator, AdamW for the adaptor.

    Attributes:
      epochs: 40 rounds of 4 passes.
      batch_size: 2 samples of five views are 10 images; the released code takes 8 images.
      learning_rate, weight_decay: of the discriminator, the decay as a part of the gradient.
      adaptor_rate, adaptor_decay: of the adaptor.
      decayed: `all` parameters, or only `matrices` (ADer).
      clip: of the gradient of each of the two, if above 0.
    """

    epochs: int = number(160, least=0)
    batch_size: int = number(2, least=1)
    learning_rate: float = number(2e-4, least=0)
    weight_decay: float = number(1e-5, least=0)
    adaptor_rate: float = number(1e-4, least=0)
    adaptor_decay: float = number(0.01, least=0)
    decayed: Literal["all", "matrices"] = "all"


@dataclass(frozen=True)
class SimpleNetConfig(Config):
    """SimpleNet: a discriminator tells adapted features of normal images from the same with noise."""

    method: str = "simplenet"
    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=288))
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="wide_resnet50_2"))
    train: SimpleNetTrainConfig = field(default_factory=SimpleNetTrainConfig)
    simplenet: SimpleNetSection = field(default_factory=SimpleNetSection)

    def __post_init__(self):
        super().__post_init__()
        if len(self.simplenet.taps) not in (0, 2):
            raise UserError(
                f"config simplenet.taps={self.simplenet.taps}: give two, or none for the usual ones"
            )

    @classmethod
    def debug(cls) -> SimpleNetConfig:
        return replace(super().debug(), simplenet=SimpleNetSection(first_width=24, width=16, hidden=12))

    def requires(self) -> Requires:
        from mvead_jax.methods.base import Requires

        usual = _EFFICIENTNET if "efficientnet" in self.backbone.name else _RESNET
        return Requires(taps=self.simplenet.taps or usual)

    def build(self, spec: Spec) -> SimpleNet:
        from mvead_jax.methods.simplenet.method import SimpleNet

        return SimpleNet(spec, self.simplenet, self.train, self.requires())
