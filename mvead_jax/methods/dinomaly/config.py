"""The settings of Dinomaly: those of the released script for Real-IAD by default."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mvead_jax.config.schema import BackboneConfig, Config, DataConfig, TrainConfig
from mvead_jax.config.validation import number
from mvead_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from mvead_jax.methods.base import Requires, Spec
    from mvead_jax.methods.dinomaly.method import Dinomaly


@dataclass(frozen=True)
class DinomalySection:
    """The decoder and what it is compared with (methods/dinomaly/modeling.py, objective.py, maps.py).

    Attributes:
      taps: feature maps of the backbone that are given back, from shallow to deep, all of one shape; the decoder has
        as many blocks.
      groups: consecutive parts of the taps whose means are compared; divides their number.
      heads: of the linear attention; 0 = the backbone's number, 1 where it has none.
      dropout: of the bottleneck, before, inside and after; the released script for MVTec AD has 0.2.
      easy: share of the positions of a batch whose gradient is reduced, reached after `easy_steps` steps.
      easy_gradient: the factor by which it is reduced; 1 = all positions count alike.
      map_size: side of the anomaly maps in pixels. top: share of a map's highest values that an image's score averages.
    """

    taps: tuple[str, ...] = tuple(f"block{number}" for number in range(3, 11))
    groups: int = number(2, least=1)
    heads: int = number(0, least=0)
    dropout: float = number(0.4, least=0, below=1)
    easy: float = number(0.9, least=0, below=1)
    easy_steps: int = number(1000, least=1)
    easy_gradient: float = number(0.1, least=0, most=1)
    map_size: int = number(256, least=1)
    top: float = number(0.01, above=0, most=1)


@dataclass(frozen=True)
class DinomalyTrainConfig(TrainConfig):
    """StableAdamW, clipped; the rate rises linearly, then falls along half a cosine.

    Attributes:
      warmup_steps: steps over which the rate rises; the first has rate 0. (`warmup`, a share, stays 0.)
      final_rate: the rate after the last step.
    """

    whole_batches = True

    epochs: int = number(21, least=0)
    batch_size: int = number(3, least=1)
    learning_rate: float = number(2e-3, least=0)
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    clip: float = number(0.1, least=0)
    warmup_steps: int = number(100, least=1)
    final_rate: float = number(2e-4, least=0)


@dataclass(frozen=True)
class DinomalyConfig(Config):
    """Dinomaly: a transformer decoder gives back the features of a frozen encoder where they are normal."""

    method: str = "dinomaly"
    setting: Literal["single", "multi"] = "multi"
    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=392))
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="dinov2-base-registers"))
    train: DinomalyTrainConfig = field(default_factory=DinomalyTrainConfig)
    dinomaly: DinomalySection = field(default_factory=DinomalySection)

    def __post_init__(self):
        super().__post_init__()
        own, train = self.dinomaly, self.train
        if not own.taps or len(own.taps) % own.groups:
            raise UserError(
                f"config dinomaly.groups={own.groups}: must divide the number of dinomaly.taps, {len(own.taps)}"
            )
        if train.schedule != "cosine" or train.warmup:
            raise UserError(
                f"config train.schedule={train.schedule!r}, train.warmup={train.warmup:g}: method=dinomaly has a "
                "cosine after train.warmup_steps steps; leave them at 'cosine' and 0"
            )

    @classmethod
    def debug(cls) -> DinomalyConfig:
        # Three blocks of one stage of the network: maps of one shape.
        own = DinomalySection(
            taps=("block8", "block9", "block10"), groups=1, heads=4, easy_steps=2, map_size=32
        )
        found = super().debug()
        return replace(found, setting="single", dinomaly=own, train=replace(found.train, warmup_steps=1))

    def requires(self) -> Requires:
        from mvead_jax.methods.base import Requires

        return Requires(taps=self.dinomaly.taps)

    def build(self, spec: Spec) -> Dinomaly:
        from mvead_jax.methods.dinomaly.method import Dinomaly

        method = Dinomaly(spec, self.dinomaly, self.train, self.requires())
        _ = method.network  # what does not fit is said here
        return method
