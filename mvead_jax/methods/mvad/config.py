"""The settings of MVAD: the released code's by default, the paper's where they differ by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mvead_jax.config.schema import BackboneConfig, Config, DataConfig, TrainConfig
from mvead_jax.config.validation import number
from mvead_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from mvead_jax.methods.base import Requires, Spec
    from mvead_jax.methods.mvad.method import Mvad


@dataclass(frozen=True)
class MvadSection:
    """The trained network (methods/mvad/modeling.py).

    Attributes:
      windows: windows a side at each of the three scales; the paper's table VI prefers 8,8,8.
      top: windows that a window attends to at each scale; the paper's 16,32,64.
      heads: of the attention; divides every width.
      blocks: fusion blocks at each scale; 0,0,0 = no attention over views.
      decoder_blocks: of the student, from coarse to fine; a ResNet-34's, mirrored.
      projections: `linear` puts the paper's maps before the attention; the released code has `none`.
      keys: a window attends to windows of the `others`; `own`, of its own view, is a control for studies.
      dropout: inside a fusion block. drop_path: of its attention, for a view of a sample at once.
      loss_weight: of the sum over scales; the paper has 1.
    """

    windows: tuple[int, ...] = (14, 9, 6)
    top: tuple[int, ...] = (4, 4, 4)
    heads: int = number(8, least=1)
    blocks: tuple[int, ...] = (1, 2, 4)
    decoder_blocks: tuple[int, ...] = (3, 4, 6)
    projections: Literal["none", "linear"] = "none"
    keys: Literal["others", "own"] = "others"
    dropout: float = number(0.1, least=0, below=1)
    drop_path: float = number(0.1, least=0, below=1)
    loss_weight: float = number(5.0, above=0)


@dataclass(frozen=True)
class MvadTrainConfig(TrainConfig):
    """MVAD's training: AdamW, weight decay on matrices only, clipped, one step down after 80 % of the epochs."""

    whole_batches = True

    epochs: int = number(100, least=0)
    learning_rate: float = number(0.0125, least=0)
    schedule: Literal["constant", "cosine", "step"] = "step"
    clip: float = number(5.0, least=0)


@dataclass(frozen=True)
class MvadConfig(Config):
    """MVAD: a student gives back a teacher's feature maps, which were fused over views, where they are normal."""

    method: str = "mvad"
    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=256))
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="resnet34"))
    train: MvadTrainConfig = field(default_factory=MvadTrainConfig)
    mvad: MvadSection = field(default_factory=MvadSection)

    def __post_init__(self):
        super().__post_init__()
        for name in ("windows", "top", "blocks", "decoder_blocks"):
            values, least = getattr(self.mvad, name), 0 if name == "blocks" else 1
            if len(values) != 3 or min(values) < least:
                raise UserError(f"config mvad.{name}={values}: give three whole numbers, at least {least}")

    @classmethod
    def debug(cls) -> MvadConfig:
        found = super().debug()
        section = MvadSection((4, 2, 1), (2, 2, 2), blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))
        return replace(found, mvad=section, train=replace(found.train, learning_rate=1e-3))

    def requires(self) -> Requires:
        from mvead_jax.methods.mvad.method import Mvad

        return Mvad.requires

    def build(self, spec: Spec) -> Mvad:
        from mvead_jax.methods.mvad.method import Mvad

        return Mvad(spec, self.mvad, self.train)

    def for_views(self, views: int) -> Config:
        if views < 2:
            raise UserError(
                "method=mvad: compares views with each other, and this data has one; take another method, as "
                "--config.method=patchcore"
            )
        return self
