"""The settings of PatchCore."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.config.schema import Config

if TYPE_CHECKING:
    from mvead_jax.methods.base import Requires, Spec
    from mvead_jax.methods.patchcore.method import PatchCore


@dataclass(frozen=True)
class PatchCoreConfig(Config):
    """PatchCore: distances of patch features to those of normal samples."""

    method: str = "patchcore"
    score: BankScoreConfig = field(default_factory=BankScoreConfig)
    bank: BankConfig = field(default_factory=BankConfig)

    def requires(self) -> Requires:
        from mvead_jax.methods.patchcore.method import PatchCore

        return PatchCore.requires

    def build(self, spec: Spec) -> PatchCore:
        from mvead_jax.methods.patchcore.method import PatchCore

        return PatchCore(spec, self.bank, self.score)
