"""The settings of DeSTSeg: the released code's by default."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mvead_jax.config.schema import BackboneConfig, Config, DataConfig, TrainConfig
from mvead_jax.config.validation import number
from mvead_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from mvead_jax.methods.base import Requires, Spec
    from mvead_jax.methods.destseg.method import Destseg


@dataclass(frozen=True)
class DestsegSection:
    """Student, segmentation and pseudo-anomalies (methods/destseg/modeling.py, data/augmentation).

    Attributes:
      student_blocks: of the student's encoder at each of its strides, up to four; a ResNet-18's.
      student_width: channels at the first of them, doubled at each further one.
      decoder_blocks: of each layer of the student's decoder, and of the segmentation network.
      segmentation_width: channels of the segmentation network.
      student_share: of all steps, in which the student is trained; in the others the segmentation is. Either has a
        step at least, where the scores need it.
      res_rate, head_rate: learning rates of the two parts of the segmentation network.
      focus: the exponent of the focal loss.
      textures: a folder of images to paste; empty = drawn by formulas.
      most_of_image: the share of the image that shines through a pasted texture is drawn from 0 to this.
      map: what an image is scored by: the `segmentation`, or the `distillation`, the product of the distances of
        student and teacher.
      top: pixels of the enlarged map whose mean is an image's score.
    """

    student_blocks: tuple[int, ...] = (2, 2, 2, 2)
    student_width: int = number(64, least=1)
    decoder_blocks: int = number(2, least=1)
    segmentation_width: int = number(256, least=1)
    student_share: float = number(0.2, least=0, most=1)
    res_rate: float = number(0.1, least=0)
    head_rate: float = number(0.01, least=0)
    focus: float = number(4.0, least=0)
    textures: str = ""
    most_of_image: float = number(0.8, least=0, below=1)
    map: Literal["segmentation", "distillation"] = "segmentation"
    top: int = number(100, least=1)


@dataclass(frozen=True)
class DestsegTrainConfig(TrainConfig):
    """SGD with momentum at constant rates. Attributes: learning_rate: of the student."""

    whole_batches = True

    epochs: int = number(125, least=0)
    batch_size: int = number(6, least=1)
    learning_rate: float = number(0.4, least=0)


@dataclass(frozen=True)
class DestsegConfig(Config):
    """DeSTSeg: a student that removes pseudo-anomalies, and a segmentation of where it and its teacher differ."""

    method: str = "destseg"
    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=256))
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="resnet18"))
    train: DestsegTrainConfig = field(default_factory=DestsegTrainConfig)
    destseg: DestsegSection = field(default_factory=DestsegSection)

    def __post_init__(self):
        super().__post_init__()
        own, train = self.destseg, self.train
        if not 1 <= len(own.student_blocks) <= 4 or min(own.student_blocks) < 1:
            raise UserError(
                f"config destseg.student_blocks={own.student_blocks}: give one to four numbers, at least 1"
            )
        if train.schedule != "constant" or train.warmup:
            raise UserError(
                f"config train.schedule={train.schedule!r}, train.warmup={train.warmup:g}: method=destseg has "
                "constant rates; leave them at 'constant' and 0"
            )

    @classmethod
    def debug(cls) -> DestsegConfig:
        found = super().debug()
        own = DestsegSection(
            student_blocks=(1,),
            student_width=4,
            decoder_blocks=1,
            segmentation_width=4,
            student_share=0.5,
            top=10,
        )
        return replace(found, destseg=own, train=replace(found.train, learning_rate=0.01))

    def requires(self) -> Requires:
        from mvead_jax.methods.destseg.method import Destseg

        return Destseg.requires

    def build(self, spec: Spec) -> Destseg:
        from mvead_jax.methods.destseg.method import Destseg

        method = Destseg(spec, self.destseg, self.train)
        _ = method.network  # what does not fit is said here
        return method
