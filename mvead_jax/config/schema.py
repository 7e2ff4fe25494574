"""One experiment as typed nested dataclasses; config_io.py reads them from a file and the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from mvead_jax.runtime.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """Which images.

    Attributes:
      root: folder of the data set, a manifest.csv, or what scripts/prepare_data.py made of one; the layouts
        are in docs/own_data.md. `~` is the home folder.
      categories: names of categories; empty = all that the root holds.
      reader: name of what reads the layout (mvead_jax/data/readers.py): prepared, manifest, folder,
        real_iad, or that of an installed package; `auto` = the first of them that knows the root.
      lists: of Real-IAD's layout: folder of JSON lists below the root: realiad_jsons, realiad_jsons_sv,
        realiad_jsons_fuiad_0.1 ...
      images: of that layout: folder of images below the root; empty = the one that holds the categories.
      options: other options of the reader, as option=value.
      incomplete: samples that lack a view of their category are an `error`, are left out (`drop`), or
        are used with the views they have (`keep`).
      image_size: every view is resized to image_size x image_size, without cropping.
      bit_depth: how many bits hold the values of images that store 16 bits a channel: 12 reads 0 to 4095;
        `auto` = as many as the training images need. Images of 8 bits are the same in any case.
      strict: images of another shape than those of their view in training are an error, not a warning.
    """

    root: str = ""
    categories: tuple[str, ...] = ()
    reader: str = "auto"
    lists: str = "realiad_jsons"
    images: str = ""
    options: tuple[str, ...] = ()
    incomplete: Literal["error", "drop", "keep"] = "error"
    image_size: int = 224
    bit_depth: Literal["auto", "8", "10", "12", "14", "16"] = "auto"
    strict: bool = False


@dataclass(frozen=True)
class BackboneConfig:
    """The frozen feature extractor.

    Attributes:
      name: efficientnet-lite0, or dinov2-small | base | large | giant, each also with `-registers`.
      weights: `auto` (directory, hub cache, network), a directory, a hub id, or `random` (untrained).
      directory: where `auto` looks first, for <directory>/<name>/{config.json,model.safetensors}.
      block: transformer block, from 1, whose output is the feature; the later ones are not computed.
      precision: of the computation; float32 means the highest matmul precision of the device.
      batch_size: images per forward pass, at most.
    """

    name: str = "dinov2-base"
    weights: str = "auto"
    directory: str = "weights"
    block: int = 7
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: int = 32


@dataclass(frozen=True)
class FeaturesConfig:
    """The cache of patch features on disk.

    Attributes:
      cache: folder; empty = feature_cache beside the workdir, so that neighbouring runs share it.
      dtype: what is stored. bfloat16 halves the disk and rounds features to 8 bits of mantissa.
    """

    cache: str = ""
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class GeometryConfig:
    """How the views see each other.

    Attributes:
      cameras: a cameras.json (mvead_jax/geometry/given.py), relative to data.root unless absolute; empty =
        estimate the geometry from the pictures.
      matches: what is matched between views: `sift` points, patch `features` of the backbone, or `both`.
      samples: training samples that an estimate looks at.
      nominal: where the cameras roughly stand, elevation:azimuth in degrees for each view in the order of
        their names, azimuths counter-clockwise seen from above; empty = unknown: each pair stands for
        itself.
      threshold: δ, how many patches from its epipolar line a patch may lie to be attended to.
      on_failure: a pair of views without trusted geometry is left out of attention (`exclude`), attends to
        all patches (`unconstrained`), or stops the run (`error`). Decision D2.
    """

    cameras: str = ""
    matches: Literal["sift", "features", "both"] = "sift"
    samples: int = 32
    nominal: tuple[str, ...] = ("90:0", "45:0", "45:90", "45:180", "45:270")
    threshold: float = 1.0
    on_failure: Literal["exclude", "unconstrained", "error"] = "exclude"


@dataclass(frozen=True)
class FusionConfig:
    """How MVEAD lets a patch see the other views.

    Attributes:
      kind: `eam`, attention along epipolar lines; `mvas`, attention to the most similar windows of the other
        views, whatever the geometry; `none`, no fusion.
      init: `copy` starts as the backbone's next attention block, or as `similarity` where it has none;
        `similarity` attends by likeness; `random`. Decision D5.
      heads: of the attention; 0 = the backbone's number, 1 where it has none. Decision D4.
      combine: one softmax over the patches of all other views (`joint`), or the `mean` of one for each view.
        Decision D3.
      residual: add the patch's own feature to what it attends to.
      gate: `patch` multiplies what a patch attends to by a learned number between 0 and 1; ours.
      keys: `line`: all patches on the lines; `better`: of these only the ones that are more alike than a
        patch of that view is by chance; ours.
      windows: MVAS: windows along a side of a view. top_windows: MVAS: how many of them a window sees.
    """

    kind: Literal["eam", "mvas", "none"] = "eam"
    init: Literal["copy", "similarity", "random"] = "copy"
    heads: int = 0
    combine: Literal["joint", "mean"] = "joint"
    residual: bool = True
    gate: Literal["none", "patch"] = "none"
    keys: Literal["line", "better"] = "line"
    windows: int = 6
    top_windows: int = 4


@dataclass(frozen=True)
class BankConfig:
    """The memory bank.

    Attributes:
      kind: what a bank keeps of the training patches: all (`full`), a greedy k-centre `coreset`, or the
        centres of `kmeans`. Decision D10.
      share: of the patches that a coreset or k-means keeps, above 0 and at most 1.
      projection: dimensions of the random projection in which a coreset is chosen; 0 = the features' own.
      per_view: one bank for each view (the paper's), or one for all.
      unfused: MVEAD keeps a second bank of the features as they were; scores of both are standardised by
        normal ones and added; ours.
    """

    kind: Literal["full", "coreset", "kmeans"] = "full"
    share: float = 0.1
    projection: int = 128
    per_view: bool = True
    unfused: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """Pre-training of the fusion's projections. PatchCore has none and trains zero epochs.

    Attributes:
      objective: `mcp+reg`, several centres a view and negatives; `mcp`, the same without negatives;
        `deepsvdd`, one centre and no negatives; `none`, the fusion stays as it starts.
      epochs: passes over the normal training samples.
      batch_size: samples (with all their views) in a step.
      learning_rate, weight_decay: of AdamW.
      centers: K, for each view, by k-means.
      center_update: centres stay (`none`), or k-means is run again before each epoch (`epoch`). Decision D7.
      center_patches: the most patches of a view that k-means looks at.
      negative_weight: λ.
      negatives: N_k, the most changed patches of the reference view that are taken for each masked one.
      mask_ratio: share of the support view's patches that are masked, at least one. Decision D8.
      mask_fill: what stands in a masked patch: `zero`, or the `mean` feature of its view.
    """

    objective: Literal["mcp+reg", "mcp", "deepsvdd", "none"] = "mcp+reg"
    epochs: int = 50
    batch_size: int = 8
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    centers: int = 20
    center_update: Literal["none", "epoch"] = "none"
    center_patches: int = 200_000
    negative_weight: float = 0.1
    negatives: int = 1
    mask_ratio: float = 0.1
    mask_fill: Literal["zero", "mean"] = "zero"


@dataclass(frozen=True)
class ScoreConfig:
    """What is done with patch distances before they are scores.

    Attributes:
      evidence: `none`: they are the scores (eq. 1, 11). `epipolar`: standardised by view, and to each patch
        the highest on its epipolar line in the other views is added; `all`: the highest anywhere in them.
      weight: of what the other views add.
      pooling: over the other views: their `mean`, or the `max`.
      search: the precision of the matrix products that rule bank rows out. The scores do not depend on it;
        `bfloat16` is faster where the device multiplies it faster.
    """

    evidence: Literal["none", "epipolar", "all"] = "none"
    weight: float = 1.0
    pooling: Literal["mean", "max"] = "mean"
    search: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class EvalConfig:
    """How maps and scores are compared with the truth (evaluation/protocols.py).

    Attributes:
      protocol: a named one, or `custom`, which the fields down to image_label describe; only it reads them
        (it may be asked for beside another: score.py --protocol custom).
      size: maps and masks are compared at `input` size, at the `mask`'s own, or at this many pixels a side.
      crop: the middle share of width and height that is compared; 1 = all.
      mask_resize: of masks, to that size. mask_threshold: what lies above it then is a defect, 0 to 254.
      smoothing: of maps at that size: `none`; `gaussian:4`, of sigma 4 pixels; `gaussian5`, 5 x 5 taps.
      image_score: the largest `patch` score; or of the map as compared the `max`, or the mean of the highest
        1 % (`top1`).
      sample_score: of its image scores the `max`, or the `mean`.
      image_label: of the `list`, or 1 if any pixel of the `mask` as compared is a defect.
      bootstrap: resamples for the intervals; 0 = no intervals. seed: of them.
    """

    protocol: Literal["mvead", "mvad", "official", "dinomaly", "custom"] = "mvead"
    size: str = "input"
    crop: float = 1.0
    mask_resize: Literal["bilinear", "nearest"] = "bilinear"
    mask_threshold: int = 127
    smoothing: str = "gaussian:4"
    image_score: Literal["patch", "max", "top1"] = "patch"
    sample_score: Literal["max", "mean"] = "max"
    image_label: Literal["list", "mask"] = "list"
    bootstrap: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class DecisionConfig:
    """Pass or fail (docs/decision.md).

    Attributes:
      false_alarms: the share of good samples that may fail, above 0 and below 1.
      held_out: share of the training samples of each category that neither geometry, pre-training nor banks
        see: thresholds and p-values come from their scores. 0 = no decision.
    """

    false_alarms: float = 0.05
    held_out: float = 0.0


@dataclass(frozen=True)
class Config:
    """One experiment.

    Attributes:
      method: `patchcore`: distances of patch features; `mvead`: of features fused across views.
      setting: `single`: a model and banks for each category; `multi`: one model and one set of banks.
      seed: everything random follows from it.
    """

    method: Literal["patchcore", "mvead"] = "mvead"
    setting: Literal["single", "multi"] = "single"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    decision: DecisionConfig = field(default_factory=DecisionConfig)

    def __post_init__(self):
        for name in _AT_LEAST_ONE:
            if _get(self, name) < 1:
                raise UserError(f"config {name}={_get(self, name)}: must be at least 1")
        for name in _NOT_NEGATIVE:
            if not 0 <= _get(self, name) < math.inf:  # NaN neither
                raise UserError(f"config {name}={_get(self, name)}: must not be negative, and finite")
        if self.train.mask_ratio > 1:
            raise UserError(f"config train.mask_ratio={self.train.mask_ratio}: must be at most 1")
        if not 0 < self.bank.share <= 1:
            raise UserError(f"config bank.share={self.bank.share}: must be above 0 and at most 1")
        if not 0 < self.decision.false_alarms < 1:
            raise UserError(
                f"config decision.false_alarms={self.decision.false_alarms}: must be above 0 and below 1"
            )
        if not 0 <= self.decision.held_out < 1:
            raise UserError(
                f"config decision.held_out={self.decision.held_out}: must be at least 0 and below 1"
            )


_AT_LEAST_ONE = (
    *("data.image_size", "backbone.block", "backbone.batch_size", "geometry.samples"),
    *("fusion.windows", "fusion.top_windows"),
    *("train.batch_size", "train.centers", "train.center_patches", "train.negatives"),
)
_NOT_NEGATIVE = (
    *("seed", "geometry.threshold", "fusion.heads", "bank.projection", "score.weight"),
    *("eval.bootstrap", "eval.seed"),
    *(
        "train.epochs",
        "train.learning_rate",
        "train.weight_decay",
        "train.negative_weight",
        "train.mask_ratio",
    ),
)


def _get(config: Config, dotted: str) -> Any:
    value: Any = config
    for name in dotted.split("."):
        value = getattr(value, name)
    return value
