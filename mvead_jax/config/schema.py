"""One experiment as typed nested dataclasses: what every run has, whatever its method.

A method adds its own sections in a subclass of `Config` (methods/<name>/config.py); io.py reads a config from a
file, the command line or JSON.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from mvead_jax.config.validation import check_config, number
from mvead_jax.methods.registry import METHODS
from mvead_jax.runtime.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """Which images.

    Attributes:
      root: folder of the data set, a manifest.csv, or what mvead prepare made of one; the layouts
        are in docs/own_data.md. `~` is the home folder.
      categories: names of categories; empty = all that the root holds.
      reader: name of what reads the layout: one of mvead_jax/data/readers.py, or that of an installed package;
        `auto` = the first of them that knows the root.
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
      mirrored: which cameras' images and masks are flipped left-right when they are loaded: a CSV table with a
        line for each category and a column of 0 and 1 for each view (data/mirroring.py), or `real-iad`, the
        table of Multi-Flow's released code; empty = none.
      ignore: folder of masks, relative to data.root unless absolute: <view>.png, or <category>/<view>.png, of the
        size of the view's images, white where nothing ever counts (data/ignored.py); empty = everything counts.
      foreground: which patches show the part: all (`none`), those that masks in `files` mark, or those unlike
        the image's border (`automatic`). The background has no part in the scores, nor in the loss of a
        method that asks for masks.
      foreground_folder: of these files, relative to data.root unless absolute: it holds a/b/x.png for the image
        a/b/x.jpg; empty = a/b/x.foreground.png beside it.
      foreground_resize: of masks to patches: at least half of its `area`, the `nearest` pixel, or as Multi-Flow's
        `released` code does it.
    """

    root: str = ""
    categories: tuple[str, ...] = ()
    reader: str = "auto"
    lists: str = "realiad_jsons"
    images: str = ""
    options: tuple[str, ...] = ()
    incomplete: Literal["error", "drop", "keep"] = "error"
    image_size: int = number(224, least=1)
    bit_depth: Literal["auto", "8", "10", "12", "14", "16"] = "auto"
    strict: bool = False
    mirrored: str = ""
    ignore: str = ""
    foreground: Literal["none", "files", "automatic"] = "none"
    foreground_folder: str = ""
    foreground_resize: Literal["area", "nearest", "released"] = "area"


@dataclass(frozen=True)
class BackboneConfig:
    """The frozen feature extractor.

    Attributes:
      name: dinov2-small | base | large | giant, each also with `-registers`; resnet18, resnet34, resnet50,
        wide_resnet50_2; efficientnet-lite0; efficientnet-b4 or b5, padded for their nominal size as UniAD and
        Multi-Flow do, and tf-efficientnet-b4 or b5, padded as timm does; or one that an installed package adds.
      weights: `auto` (directory, hub cache, hub), a directory, a hub id, or `random` (untrained). Files are
        safetensors, one or several; for DINOv2 in the names of transformers, timm or the authors' own.
      directory: where `auto` looks first, for <directory>/<name>/model.safetensors.
      block: of DINOv2: the transformer block, from 1, whose patch tokens are the tap `patches`.
      precision: of the computation; float32 means the highest matmul precision of the device.
      batch_size: images per forward pass, at most; 0: as many as a device's memory holds, up to 32 on a CPU and
        up to 256 elsewhere.
      engine: what computes it. onnxruntime and openvino (extras `onnx`, `openvino`) take the network as jax2onnx
        converts it, on CPUs; what they give is checked beside XLA's first.
    """

    name: str = "dinov2-base"
    weights: str = "auto"
    directory: str = "weights"
    block: int = number(7, least=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: int = number(0, least=0)
    engine: Literal["xla", "onnxruntime", "openvino"] = "xla"


@dataclass(frozen=True)
class FeaturesConfig:
    """The cache of feature maps on disk.

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
      cameras: a cameras.json (mvead_jax/geometry/known_cameras.py), relative to data.root unless absolute; empty =
        estimate the geometry from the images.
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
    samples: int = number(32, least=1)
    nominal: tuple[str, ...] = ("90:0", "45:0", "45:90", "45:180", "45:270")
    threshold: float = number(1.0, least=0)
    on_failure: Literal["exclude", "unconstrained", "error"] = "exclude"


@dataclass(frozen=True)
class ScoreConfig:
    """What is done with a method's anomaly maps before they are scores; a method may add fields.

    Attributes:
      evidence: `none`: the maps are the scores. `epipolar`: they are standardised by view, and to each patch
        the highest score on its epipolar line in the other views is added; `all`: the highest anywhere in them.
      weight: of what the other views add.
      pooling: over the other views: their `mean`, or the `max`.
      image_evidence: the same for the scores of images alone: maps, samples and decisions stay as they are. The
        score of an image is the highest standardised score of its patches, each with the highest of the other
        views on its line (`epipolar`) or anywhere (`all`), times image_weight.
      image_weight: of what the other views add to the scores of images.
    """

    evidence: Literal["none", "epipolar", "all"] = "none"
    weight: float = number(1.0, least=0)
    pooling: Literal["mean", "max"] = "mean"
    image_evidence: Literal["none", "epipolar", "all"] = "none"
    image_weight: float = number(0.5, least=0)

    def uses_lines(self) -> bool:
        """Return whether any score depends on the epipolar lines."""
        return "epipolar" in (self.evidence, self.image_evidence)

    def without_other_views(self) -> Self:
        """Return the settings for samples of one view, which has no others."""
        return replace(self, evidence="none", image_evidence="none")

    def deciding(self) -> dict[str, Any]:
        """Return the settings that scores depend on: thresholds hold for scores by the same ones only."""
        fields = asdict(self)
        del fields["image_evidence"], fields["image_weight"]  # a decision is about the sample
        if self.evidence == "none":
            del fields["weight"], fields["pooling"]
        return fields


@dataclass(frozen=True)
class TrainConfig:
    """A training by gradient descent (training/loop.py); a method that trains has such a section.

    Attributes:
      epochs: passes over the training samples; 0 = nothing is trained.
      batch_size: samples, with all their views, in a step.
      learning_rate, weight_decay: of the optimiser.
      schedule: the learning rate is `constant`, falls along a `cosine` to 0, or to a tenth at `step_at`.
      step_at: share of the epochs after which the schedule `step` lowers the rate.
      warmup: share of the steps over which the rate rises from 0.
      clip: largest global norm of a gradient; 0 = it is not clipped.
      whole_batches: no field, but fixed by the method: leave out the last samples of an epoch where they do not fill
        a batch (a mean over very few would be no statistic); else they are a smaller one.
    """

    whole_batches = False

    epochs: int = number(50, least=0)
    batch_size: int = number(8, least=1)
    learning_rate: float = number(1e-4, least=0)
    weight_decay: float = number(1e-4, least=0)
    schedule: Literal["constant", "cosine", "step"] = "constant"
    step_at: float = number(0.8, least=0, most=1)
    warmup: float = number(0.0, least=0, most=1)
    clip: float = number(0.0, least=0)


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

    protocol: Literal[
        "mvead", "mvad", "mvad-released", "official", "dinomaly", "multiflow-released", "custom"
    ] = "mvead"
    size: str = "input"
    crop: float = 1.0
    mask_resize: Literal["bilinear", "nearest"] = "bilinear"
    mask_threshold: int = 127
    smoothing: str = "gaussian:4"
    image_score: Literal["patch", "max", "top1"] = "patch"
    sample_score: Literal["max", "mean"] = "max"
    image_label: Literal["list", "mask"] = "list"
    bootstrap: int = number(1000, least=0)
    seed: int = number(0, least=0)


@dataclass(frozen=True)
class DecisionConfig:
    """Pass or fail (docs/decision.md).

    Attributes:
      false_alarms: the share of good samples that may fail, above 0 and below 1.
      held_out: share of the training samples of each category that neither geometry, training nor banks
        see: thresholds and p-values come from their scores. 0 = no decision.
      threshold: of a user, in place of those of held-out samples: a sample fails whose score is at least this
        number. Where a trained model scores, also the file of thresholds that the report saves. Empty = none.
    """

    false_alarms: float = number(0.05, above=0, below=1)
    held_out: float = number(0.0, least=0, below=1)
    threshold: str = ""


@dataclass(frozen=True)
class Config(ABC):
    """One experiment, but for the sections of its method: a subclass for each method has those.

    Attributes:
      method: a name of methods/registry.py.
      setting: `single`: a model for each category; `multi`: one model for all.
      seed: everything random follows from it.
    """

    method: str = ""
    setting: Literal["single", "multi"] = "single"
    seed: int = number(0, least=0)
    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    decision: DecisionConfig = field(default_factory=DecisionConfig)

    def __post_init__(self):
        METHODS.check(self.method)
        if type(self) is not (wanted := METHODS.load(self.method)):
            raise UserError(
                f"config method={self.method!r}: its config is a {wanted.__name__}, not a {type(self).__name__}"
            )
        check_config(self)

    @classmethod
    def debug(cls) -> Config:
        """Return the smallest config that runs in seconds and needs no weights: for tests and first tries."""
        found = cls(
            data=DataConfig(image_size=64),
            backbone=BackboneConfig(name="efficientnet-lite0", weights="random"),
        )
        if not isinstance(own := getattr(found, "train", None), TrainConfig):
            return found
        return replace(found, train=replace(own, epochs=2, batch_size=2))

    @abstractmethod
    def requires(self) -> Any:
        """Return what the method needs of the program (`methods.base.Requires`)."""

    @abstractmethod
    def build(self, spec: Any) -> Any:
        """Return the method with these settings. Args: spec: of its model (`methods.base.Spec`).

        Raises:
          UserError: settings that do not fit the model.
        """

    def without_trust(self) -> Config:
        """Return the config where no pair of views has a trusted geometry: that of the method that this one then is."""
        return self

    def for_views(self, views: int) -> Config:
        """Return the config for samples of so many views: another one where this method needs more.

        Raises:
          UserError: the method cannot work with so few, and nothing stands in for it.
        """
        return self
