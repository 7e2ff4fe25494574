"""The settings of ProCon's soft projection: the paper's by default."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.config.schema import BackboneConfig, Config, DataConfig
from mvead_jax.config.validation import number
from mvead_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from mvead_jax.methods.base import Requires, Spec
    from mvead_jax.methods.procon.method import Procon


@dataclass(frozen=True)
class ProconSection:
    """Which features are compared, and with how much of the banks (methods/procon/projection.py).

    Attributes:
      taps: feature maps of the backbone, all of one size; each has its own banks.
      width: of a random projection of each map; maps no wider stay as they are.
      coresets: banks of each map, by other random numbers; a patch has the median of its scores.
      neighbours: rows of a bank that a patch is projected on.
      top: share of an image's highest patch scores that its score averages, at least one patch.
    """

    taps: tuple[str, ...] = ("block4", "block5", "block7", "block10")
    width: int = number(512, least=1)
    coresets: int = number(5, least=1)
    neighbours: int = number(5, least=1, most=64)
    top: float = number(0.005, above=0, most=1)


@dataclass(frozen=True)
class ProconConfig(Config):
    """ProCon: what of a patch is left after a soft projection on the nearest rows of small banks."""

    method: str = "procon"
    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=392))
    score: BankScoreConfig = field(default_factory=BankScoreConfig)
    bank: BankConfig = field(
        default_factory=lambda: BankConfig(kind="coreset", share=0.01, projection=192, per_view=False)
    )
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="dinov2-base"))
    procon: ProconSection = field(default_factory=ProconSection)

    def __post_init__(self):
        super().__post_init__()
        if not self.procon.taps:
            raise UserError("config procon.taps=(): name at least one feature map, for example block7")
        if self.bank.kind != "coreset":
            raise UserError(
                f"config bank.kind={self.bank.kind!r}: method=procon has coresets; leave it at 'coreset'"
            )

    @classmethod
    def debug(cls) -> ProconConfig:
        section = ProconSection(taps=("block3", "block4"), width=16, coresets=2, neighbours=3)
        found = super().debug()
        return replace(found, procon=section, bank=replace(found.bank, share=0.1, projection=8))

    def requires(self) -> Requires:
        from mvead_jax.methods.base import Requires

        return Requires(taps=self.procon.taps)

    def build(self, spec: Spec) -> Procon:
        from mvead_jax.methods.procon.method import Procon

        sizes = {tap: spec.maps[tap][:2] for tap in self.procon.taps}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{tap} {rows}x{columns}" for tap, (rows, columns) in sizes.items())
            raise UserError(f"config procon.taps: their maps must have one size, and these have {told}")
        return Procon(spec, self.bank, self.score, self.procon, self.requires())
