"""The settings of PaDiM: those of the port that everybody uses by default, anomalib's by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mvead_jax.config.schema import BackboneConfig, Config, DataConfig
from mvead_jax.config.validation import number

if TYPE_CHECKING:
    from mvead_jax.methods.base import Requires, Spec
    from mvead_jax.methods.padim.method import Padim


@dataclass(frozen=True)
class PadimSection:
    """The Gaussians (methods/padim/gaussian.py).

    Attributes:
      variant: `port` (xiahaifeng1995's) or `anomalib`: how channels are chosen, what is added to a covariance
        before it is inverted, and how the edge of a map is smoothed for the score of an image.
      channels: d, how many channels of the three maps together are kept; the paper has 100 with a ResNet-18 and
        550 with a Wide ResNet-50-2.
      regularisation: of each covariance, times the identity.
      band_bytes: that the features of one band of rows take at most, while the Gaussians are fitted.
    """

    variant: Literal["port", "anomalib"] = "port"
    channels: int = number(100, least=1)
    regularisation: float = number(0.01, above=0)
    band_bytes: int = number(2**30, least=1)


@dataclass(frozen=True)
class PadimConfig(Config):
    """PaDiM: how far a patch is from the Gaussian of its place in normal images; nothing is trained."""

    method: str = "padim"
    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=256))
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="resnet18"))
    padim: PadimSection = field(default_factory=PadimSection)

    @classmethod
    def debug(cls) -> PadimConfig:
        return replace(super().debug(), padim=PadimSection(channels=6, band_bytes=4000))

    def requires(self) -> Requires:
        from mvead_jax.methods.padim.method import Padim

        return Padim.requires

    def build(self, spec: Spec) -> Padim:
        """Return the method. Raises UserError: more channels than the backbone's maps have."""
        from mvead_jax.methods.padim.embedding import check_maps
        from mvead_jax.methods.padim.method import Padim

        check_maps(list(spec.maps.values()), self.padim.channels)
        return Padim(spec, self.padim)
