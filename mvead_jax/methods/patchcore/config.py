"""The settings of PatchCore."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.config.schema import Config
from mvead_jax.config.validation import number
from mvead_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from mvead_jax.methods.base import Requires, Spec
    from mvead_jax.methods.patchcore.method import PatchCore


@dataclass(frozen=True)
class PatchCoreSection:
    """What a patch's feature is made of, and what an image is scored by (embedding.py, reweighting.py).

    Attributes:
      taps: feature maps of the backbone, from fine to coarse, side by side at the size of the first.
      neighbourhood: cells along a side, odd, over which each map is averaged; 1 = the cell alone.
      width: to which the values of a neighbourhood are averaged at each map, and then those of all maps together;
        0 = all channels stay.
      reweight: rows near the nearest row of an image's worst patch by which its score is weighted, that row among
        them; 0 = the score is that patch's.
    """

    taps: tuple[str, ...] = ("patches",)
    neighbourhood: int = number(1, least=1)
    width: int = number(0, least=0)
    reweight: int = number(0, least=0, most=64)

    @property
    def plain(self) -> bool:
        """Whether a patch's feature is that of one map as it is."""
        return len(self.taps) == 1 and self.neighbourhood == 1 and not self.width


@dataclass(frozen=True)
class PatchCoreConfig(Config):
    """PatchCore: distances of patch features to those of normal samples."""

    method: str = "patchcore"
    score: BankScoreConfig = field(default_factory=BankScoreConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    patchcore: PatchCoreSection = field(default_factory=PatchCoreSection)

    def __post_init__(self):
        super().__post_init__()
        own = self.patchcore
        if not own.taps:
            raise UserError("config patchcore.taps=(): name at least one feature map, for example patches")
        if own.neighbourhood % 2 == 0:
            raise UserError(f"config patchcore.neighbourhood={own.neighbourhood}: must be odd")
        if own.reweight == 1:
            raise UserError(
                "config patchcore.reweight=1: the nearest row alone weighs nothing; give 0 or at least 2"
            )

    def requires(self) -> Requires:
        from mvead_jax.methods.base import Requires

        return Requires(taps=self.patchcore.taps)

    def build(self, spec: Spec) -> PatchCore:
        from mvead_jax.methods.patchcore.method import PatchCore, ReweightedPatchCore

        kind = ReweightedPatchCore if self.patchcore.reweight else PatchCore
        return kind(spec, self.bank, self.score, self.patchcore, self.requires())
