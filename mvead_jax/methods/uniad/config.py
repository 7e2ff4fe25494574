"""The settings of UniAD: the released code's by default, ADer's by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mvead_jax.config.schema import BackboneConfig, Config, DataConfig, TrainConfig
from mvead_jax.config.validation import number
from mvead_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from mvead_jax.methods.base import Requires, Spec
    from mvead_jax.methods.uniad.method import Uniad

_EFFICIENTNET = ("stride2", "stride4", "stride8", "stride16")


@dataclass(frozen=True)
class UniadSection:
    """The transformer (methods/uniad/modeling.py).

    Attributes:
      taps: feature maps of the backbone, joined at the size of the last; empty = strides 2 to 16 of an
        EfficientNet, the pyramid of another backbone.
      neighbours: rows and columns of the block around a position to which it does not attend; an even number
        counts one more, as in the released code. ADer has 8,8.
      position: what is added to queries and keys: a `learned` map, or the `sine` map.
      width, heads, feedforward, encoder_layers, decoder_layers: of the transformer.
      dropout: of attention weights and inside of every layer, in training.
      jitter: of features in training: the deviation of the noise is this much of a feature's norm by its width.
    """

    taps: tuple[str, ...] = ()
    neighbours: tuple[int, ...] = (7, 7)
    position: Literal["learned", "sine"] = "learned"
    width: int = number(256, least=4)
    heads: int = number(8, least=1)
    feedforward: int = number(1024, least=1)
    encoder_layers: int = number(4, least=1)
    decoder_layers: int = number(4, least=1)
    dropout: float = number(0.1, least=0, below=1)
    jitter: float = number(20.0, least=0)


@dataclass(frozen=True)
class UniadTrainConfig(TrainConfig):
    """UniAD's training: AdamW, clipped, one step down late.

    Attributes:
      batch_size: 2 samples of five views are 10 images; the released code takes 8 images.
      step_at: the released code's epochs 0 to 800 have the full rate, one more than its 800.
      decayed: `all` parameters, or only `matrices` (ADer).
    """

    epochs: int = number(1000, least=0)
    batch_size: int = number(2, least=1)
    schedule: Literal["constant", "cosine", "step"] = "step"
    step_at: float = number(0.801, least=0, most=1)
    clip: float = number(0.1, least=0)
    decayed: Literal["all", "matrices"] = "all"


@dataclass(frozen=True)
class UniadConfig(Config):
    """UniAD: a transformer that cannot copy gives features back where they are normal, for many categories."""

    method: str = "uniad"
    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=224))
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="efficientnet-b4"))
    train: UniadTrainConfig = field(default_factory=UniadTrainConfig)
    uniad: UniadSection = field(default_factory=UniadSection)

    def __post_init__(self):
        super().__post_init__()
        own = self.uniad
        if len(own.neighbours) != 2 or min(own.neighbours) < 1:
            raise UserError(f"config uniad.neighbours={own.neighbours}: give rows and columns, at least 1")
        if own.width % own.heads or own.width % 4:
            raise UserError(
                f"config uniad.width={own.width}: must be a multiple of 4 and of uniad.heads={own.heads}"
            )

    @classmethod
    def debug(cls) -> UniadConfig:
        section = UniadSection(
            neighbours=(1, 1), width=16, heads=2, feedforward=16, encoder_layers=1, decoder_layers=2
        )
        return replace(super().debug(), uniad=section)

    def requires(self) -> Requires:
        from mvead_jax.methods.base import Requires

        usual = _EFFICIENTNET if "efficientnet" in self.backbone.name else ("pyramid",)
        return Requires(taps=self.uniad.taps or usual)

    def build(self, spec: Spec) -> Uniad:
        """Return the method. Raises UserError: a map on which `neighbours` leave nothing to attend to."""
        from mvead_jax.methods.uniad.method import Uniad
        from mvead_jax.methods.uniad.modeling import check_map

        *_, (height, width, _) = spec.maps.values()
        check_map(height, width, self.uniad.neighbours)
        return Uniad(spec, self.uniad, self.train, self.requires())
