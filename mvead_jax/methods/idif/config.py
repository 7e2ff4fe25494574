"""The settings of IDIF. The paper tells few; docs/method.md has which are its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mvead_jax.config.schema import BackboneConfig, Config, DataConfig, TrainConfig
from mvead_jax.config.validation import nearest, number
from mvead_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from mvead_jax.methods.base import Requires, Spec
    from mvead_jax.methods.idif.method import Idif

_AXES = ("viewing", "vertical", "horizontal")


@dataclass(frozen=True)
class IdifSection:
    """The student (methods/idif/network.py), its losses and the pseudo-anomalies (data/augmentation).

    Attributes:
      encoder_blocks: of the student's encoder at each of its strides, from 4 on; a ResNet-18's.
      encoder_width: channels at the first of them, doubled at each further one.
      decoder_blocks: residual blocks at each level of a view's decoder.
      bottleneck: what the voxel gets of a view: its `common` part, as the paper says; the `specific` one, the
        features without what the common part tells of them, as seed 004 says; or all, without a bottleneck (`none`).
      latent: channels of the common part.
      fusion: of the views in a `voxel`, or `none`: each for itself.
      voxel: its depth, rows and columns.
      voxel_width: channels of its cells, a multiple of 4 and of the heads.
      fusion_blocks, heads: of the attention.
      patch: cells of a view's map along a side of the squares that the voxel's cells attend to.
      view_embedding: whether each view's tokens have a learned vector of the view.
      axes: that a view's spatial transformer turns the voxel about, one learned angle for each: the `viewing` axis,
        the `vertical` one of the images, the `horizontal` one.
      view_dropout: probability with which a view is left out of a training step.
      distillation_weight, bottleneck_weight: α and β of the loss.
      kl_weight: of the divergence beside the reconstruction, within the bottleneck's loss.
      textures: a folder of images to paste; empty = drawn by formulas.
      most_of_image: the share of the image that shines through a pasted texture is drawn from 0 to this.
    """

    encoder_blocks: tuple[int, ...] = (2, 2, 2)
    encoder_width: int = number(64, least=1)
    decoder_blocks: int = number(2, least=1)
    bottleneck: Literal["common", "specific", "none"] = "common"
    latent: int = number(64, least=1)
    fusion: Literal["voxel", "none"] = "voxel"
    voxel: tuple[int, ...] = (4, 8, 8)
    voxel_width: int = number(256, least=4)
    fusion_blocks: int = number(2, least=1)
    heads: int = number(8, least=1)
    patch: int = number(1, least=1)
    view_embedding: bool = True
    axes: tuple[str, ...] = ("vertical",)
    view_dropout: float = number(0.2, least=0, below=1)
    distillation_weight: float = number(1.0, least=0)
    bottleneck_weight: float = number(0.1, least=0)
    kl_weight: float = number(1.0, least=0)
    textures: str = ""
    most_of_image: float = number(0.8, least=0, below=1)


@dataclass(frozen=True)
class IdifTrainConfig(TrainConfig):
    """AdamW at a constant rate; only the batch size is the paper's."""

    whole_batches = True

    epochs: int = number(50, least=0)
    batch_size: int = number(8, least=1)
    learning_rate: float = number(1e-4, least=0)
    weight_decay: float = number(1e-4, least=0)


@dataclass(frozen=True)
class IdifConfig(Config):
    """IDIF: a student that removes pseudo-anomalies by what all views of a sample tell it."""

    method: str = "idif"
    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=256))
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="resnet18"))
    train: IdifTrainConfig = field(default_factory=IdifTrainConfig)
    idif: IdifSection = field(default_factory=IdifSection)

    def __post_init__(self):
        super().__post_init__()
        own = self.idif
        if not 1 <= len(own.encoder_blocks) <= 4 or min(own.encoder_blocks) < 1:
            raise UserError(
                f"config idif.encoder_blocks={own.encoder_blocks}: give one to four numbers, at least 1"
            )
        if len(own.voxel) != 3 or min(own.voxel) < 1:
            raise UserError(f"config idif.voxel={own.voxel}: give depth, rows and columns, at least 1")
        if own.voxel_width % 4 or own.voxel_width % own.heads:
            raise UserError(
                f"config idif.voxel_width={own.voxel_width}: give a multiple of 4 and of idif.heads={own.heads}"
            )
        if not own.axes or len(set(own.axes)) < len(own.axes):
            raise UserError(f"config idif.axes={own.axes}: give one or more of {', '.join(_AXES)}, each once")
        for axis in own.axes:
            if axis not in _AXES:
                raise UserError(
                    f"config idif.axes={own.axes}: {axis!r} is none of {', '.join(_AXES)}{nearest(axis, _AXES)}"
                )

    @classmethod
    def debug(cls) -> IdifConfig:
        found = super().debug()
        own = IdifSection(
            encoder_blocks=(1,),
            encoder_width=4,
            decoder_blocks=1,
            latent=4,
            voxel=(2, 3, 3),
            voxel_width=8,
            fusion_blocks=1,
            heads=2,
            patch=4,
        )
        return replace(found, idif=own, train=replace(found.train, learning_rate=1e-3))

    def requires(self) -> Requires:
        from mvead_jax.methods.idif.method import needs

        return needs(self.idif)

    def build(self, spec: Spec) -> Idif:
        """Return the method. Raises UserError: settings that do not fit the image size."""
        from mvead_jax.methods.idif.method import Idif

        method = Idif(spec, self.idif, self.train)
        _ = method.network  # what does not fit is said here
        return method
