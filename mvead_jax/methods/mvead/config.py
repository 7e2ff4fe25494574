"""The settings of MVEAD."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.config.schema import Config, TrainConfig
from mvead_jax.config.validation import number
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from mvead_jax.methods.base import Method, Requires, Spec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FusionConfig:
    """How a patch sees the other views.

    Attributes:
      kind: `eam`, attention along epipolar lines; `mvas`, attention to the most similar windows of the other
        views, whatever the geometry; `none`, no fusion.
      init: `copy` starts as the backbone's next attention block, or as `similarity` where it has none;
        `similarity` attends by likeness; `random`. Decision D5.
      heads: of the attention; 0 = the backbone's number, 1 where it has none. Decision D4.
      combine: one softmax over the patches of all other views (`joint`), or the `mean` of one for each view.
        Decision D3.
      gradient: of what several patches read: summed by a `scatter`, which a GPU does in any order, or by a `gather`
        (of `eam` in bands, and of negatives), whose order is fixed (docs/reproducibility.md).
      windows: MVAS: windows along a side of a view. top_windows: MVAS: how many of them a window sees.
    """

    kind: Literal["eam", "mvas", "none"] = "eam"
    init: Literal["copy", "similarity", "random"] = "copy"
    heads: int = number(0, least=0)
    combine: Literal["joint", "mean"] = "joint"
    gradient: Literal["scatter", "gather"] = "scatter"
    windows: int = number(6, least=1)
    top_windows: int = number(4, least=1)


@dataclass(frozen=True)
class PretrainConfig(TrainConfig):
    """Pre-training of the fusion's projections.

    Attributes:
      objective: `mcp+reg`, several centres a view and negatives; `mcp`, the same without negatives;
        `deepsvdd`, one centre and no negatives; `none`, the fusion stays as it starts.
      centers: K, for each view, by k-means.
      center_update: centres stay (`none`), or k-means is run again before each epoch (`epoch`). Decision D7.
      center_patches: the most patches of a view that k-means looks at.
      negative_weight: λ.
      negatives: N_k, the most changed patches of the reference view that are taken for each masked one.
      mask_ratio: share of the support view's patches that are masked, at least one. Decision D8.
      mask_fill: what stands in a masked patch: `zero`, or the `mean` feature of its view.
    """

    objective: Literal["mcp+reg", "mcp", "deepsvdd", "none"] = "mcp+reg"
    centers: int = number(20, least=1)
    center_update: Literal["none", "epoch"] = "none"
    center_patches: int = number(200_000, least=1)
    negative_weight: float = number(0.1, least=0)
    negatives: int = number(1, least=1)
    mask_ratio: float = number(0.1, least=0, most=1)
    mask_fill: Literal["zero", "mean"] = "zero"


@dataclass(frozen=True)
class MveadConfig(Config):
    """MVEAD: distances of patch features that were fused across views."""

    method: str = "mvead"
    score: BankScoreConfig = field(default_factory=BankScoreConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    train: PretrainConfig = field(default_factory=PretrainConfig)

    def __post_init__(self):
        super().__post_init__()
        if self.fusion.kind == "mvas" and self.fusion.combine != "joint":
            raise UserError(
                f"config fusion.combine={self.fusion.combine}: fusion.kind=mvas has one softmax; take joint"
            )

    def requires(self) -> Requires:
        from mvead_jax.methods.base import Requires

        fuses = self.fusion.kind != "none"
        return Requires(geometry="required" if self.fusion.kind == "eam" else "none", joint_views=fuses)

    def build(self, spec: Spec) -> Method:
        """Return MVEAD; without fusion that is PatchCore."""
        if self.fusion.kind == "none":
            return self._without_fusion().build(spec)
        from mvead_jax.methods.mvead.method import Mvead

        method = Mvead(spec, self.fusion, self.train, self.bank, self.score, self.requires())
        _ = method.attention  # what does not fit is said here
        return method

    def for_views(self, views: int) -> Config:
        """Return PatchCore's config for samples of one view: there is nothing to fuse."""
        if views > 1:
            return self
        log.warning("one view alone: nothing is fused; this is PatchCore")
        return self._without_fusion()

    def without_trust(self) -> Config:
        """Return PatchCore's config where patches without a trusted line attend to nothing: nothing is fused."""
        excludes = self.fusion.kind == "eam" and self.geometry.on_failure == "exclude"
        return self._without_fusion() if excludes else self

    def _without_fusion(self) -> PatchCoreConfig:
        own = {one.name for one in fields(self)} - {"method"}
        shared = {one.name: getattr(self, one.name) for one in fields(PatchCoreConfig) if one.name in own}
        return PatchCoreConfig(**shared)
