"""Evaluation protocols by name: how maps and scores are compared with labels and masks.

Papers that report "AUROC on Real-IAD" resize maps and masks differently, smooth or not, and take other image
and sample scores; a number without its protocol means little. A protocol here says which arrays are
compared. The metrics of these arrays are ours: exact, where some public evaluators count in 50 or 1,000 bins,
and AUPRO by MVTec's definition (docs/metrics.md). Only the protocols named "-released" count in the strips of
the released code, so that its log can be compared.

Size, threshold, smoothing and scores are those of the public codes; interpolation is not. Maps here are
enlarged once, bilinearly with half-pixel centres, and masks are resized by Pillow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mvead_jax.config.schema import EvalConfig
from mvead_jax.runtime.errors import UserError

INPUT = -1  # size: that of the backbone's input
OWN = 0  # size: that of the mask, or of the image where there is none
_CUSTOM_FIELDS = (
    *("size", "crop", "mask_resize", "mask_threshold", "smoothing"),
    *("image_score", "sample_score", "image_label"),
)


@dataclass(frozen=True)
class EvaluationProtocol:
    """Which arrays are compared. The fields are those of `config.EvalConfig`.

    Attributes:
      name: the protocol's.
      source: where its facts come from.
      size: pixels a side at which maps and masks are compared; INPUT or OWN.
      unmasked: what is known of a view that is labelled defective and has no mask: `unknown`, nothing is; or
        `normal`, it counts as a view without a defect. No field of the config.
      score_limit: image and sample scores above it count as equal to it; None: there is no such limit.
      clamp_maps: maps as compared are cut off at the range that the method tells of its training, where it
        tells one (`methods.base.TellsRange`).
      sample_label: of the `images`, or of the `list` whatever the images' labels come from.
      strips: pixel metrics are counted in so many strips of score (`evaluation.strips`); 0: exactly.
      f1_steps: the pixels' F1-max is sought over so many steps of score; 0: over all scores.
    """

    name: str
    source: str
    size: int
    crop: float = 1.0
    mask_resize: str = "bilinear"
    mask_threshold: int = 127
    smoothing: str = "none"
    image_score: str = "max"
    sample_score: str = "max"
    image_label: str = "list"
    unmasked: str = "unknown"
    score_limit: float | None = None
    clamp_maps: bool = False
    sample_label: str = "images"
    strips: int = 0
    f1_steps: int = 0

    def words(self) -> dict[str, str]:
        """For people, in full; the keys are those of metrics.json's "protocol"."""
        side = "the mask's own size" if self.size == OWN else f"{self.size} x {self.size}"
        crop = "" if self.crop == 1 else f", the middle {self.crop:g} of width and height of maps and masks"
        image = {
            "patch": "of images.csv, as scored, float32",
            "max": "largest value of the map as compared",
            "top1": "mean of the highest 1 % of the map as compared",
        }[self.image_score]
        pooled = "largest" if self.sample_score == "max" else "mean"
        limit = "" if self.score_limit is None else f"; above {self.score_limit:g} all count as that"
        clamped = ", cut off at map_ranges where the method tells them" if self.clamp_maps else ""
        label = {
            "list": "what the data set says of that view",
            "mask": "defective if any pixel of the mask as compared is",
        }[self.image_label]
        if self.unmasked == "normal":
            label += "; a view without a mask is normal"
        counted = f"; counted in {self.strips:,} strips of score" if self.strips else ""
        if self.f1_steps:
            counted += f", F1-max over {self.f1_steps + 1} thresholds"
        resized = "" if self.size == OWN else f"resized {self.mask_resize}, then "
        return {
            "evaluation": f"{self.name}: {self.source}",
            "image_score": image + limit,
            "sample_score": "of samples.csv, as scored, float32"
            if self.image_score == "patch" and self.score_limit is None
            else f"{pooled} image score over its views{limit}",
            "image_label": label,
            "sample_label": {
                "list": "defective if any of its views is, or the list says so of the part",
                "mask": "defective if any of its views is, unknown if that of a view is",
            }["list" if self.sample_label == "list" else self.image_label],
            "pixel_metrics": f"float16 patch maps, bilinear (half-pixel centres) to {side}{crop}{clamped}; AUROC, AP "
            f"and F1-max of all pixels, AUPRO of 8-connected regions up to FPR 0.3{counted}",
            "smoothing": _SMOOTHING_WORDS.get(self.smoothing, self.smoothing.replace(":", ", sigma ")),
            "masks": f"{resized}a defect above {self.mask_threshold} of 255",
        }


_LATER = {"score_limit": None, "clamp_maps": False, "sample_label": "images", "strips": 0, "f1_steps": 0}
_SMOOTHING_WORDS = {"none": "none", "gaussian5": "gaussian, 5 x 5 taps of sigma 4, zeros outside"}


def _mvead() -> EvaluationProtocol:
    """Ours and the default. Scores and labels are the MVEAD paper's; it reports no pixel metrics, so these
    follow decision D11: at the input size, gaussian of sigma 4."""
    source = "MVEAD's scores and labels; pixel metrics by decision D11"
    return EvaluationProtocol("mvead", source, INPUT, smoothing="gaussian:4", image_score="patch")


def _mvad() -> EvaluationProtocol:
    """MVAD's public code on ADer: masks resized bilinearly, > 0.5, and the image's label is whether any pixel
    of it is left, so that tiny defects can vanish; maps at 256, gaussian of sigma 4, before the maximum.

    ADer's cal_anomaly_map resizes maps with align_corners=True in some of its branches: the centres of corner
    pixels fall on those of corner patches. Here the corners of the images do, half a patch further out.
    """
    source = "ADer / MVAD's public evaluator"
    return EvaluationProtocol("mvad", source, 256, smoothing="gaussian:4", image_label="mask")


def _mvad_released() -> EvaluationProtocol:
    """Return `mvad` as its log counts: labels of samples from the list, 50 strips, F1-max over 21 thresholds."""
    return dataclasses.replace(
        _mvad(),
        name="mvad-released",
        source="MVAD's released code, as its log counts",
        sample_label="list",
        strips=50,
        f1_steps=20,
    )


def _official() -> EvaluationProtocol:
    """Return Real-IAD's official evaluation on adeval: at each mask's own size, > 127, nothing smoothed.

    adeval and the data set's own loader take the label of an image from its mask, so a view that the list
    calls defective is normal if it has no mask, or if its mask is nowhere above 127.
    """
    source = "Real-IAD's official evaluation (adeval)"
    return EvaluationProtocol("official", source, OWN, image_label="mask", unmasked="normal")


def _dinomaly() -> EvaluationProtocol:
    """Dinomaly's public utils.py: images resized to 448 and cropped to the middle 392; maps and masks of
    that crop at 256, masks nearest and > 0, gaussian of 5 x 5 taps (sigma 4, zeros outside), top 1 %.

    A backbone here sees the whole image, so the crop (7/8 of either side) is taken from its map. Dinomaly's
    masks pass a bilinear resize to 448 before the nearest one, which widens them by up to a pixel; here they
    do not. Its maps are enlarged twice, with align_corners=True to 392 and bilinearly to 256; here once, with
    half-pixel centres. Its nearest masks are torch's, which round a place down; Pillow's take the pixel under
    the new one's centre. It has no sample score; the largest image score stands in.
    """
    return EvaluationProtocol(
        *("dinomaly", "Dinomaly's public evaluator; the sample score is ours", 256),
        crop=392 / 448,
        mask_resize="nearest",
        mask_threshold=0,
        smoothing="gaussian5",
        image_score="top1",
    )


def _multiflow_released() -> EvaluationProtocol:
    """Multi-Flow's released code at its last evaluation, whose figures its log ends with.

    The function that draws its histograms cuts the score arrays off at 5 before the AUROC is computed of them.
    Maps are cut off at the least and the largest latent value of training, which are no values of maps. Masks
    are resized nearest, and 255 alone is a defect. Pixel metrics are counted in 10,000 strips.
    """
    return EvaluationProtocol(
        *("multiflow-released", "Multi-Flow's released code, its last evaluation", 256),
        mask_resize="nearest",
        mask_threshold=254,
        image_score="patch",
        sample_score="mean",
        score_limit=5.0,
        clamp_maps=True,
        strips=10_000,
    )


_NAMED = {
    "mvead": _mvead,
    "mvad": _mvad,
    "mvad-released": _mvad_released,
    "official": _official,
    "dinomaly": _dinomaly,
    "multiflow-released": _multiflow_released,
}
NAMES = (*_NAMED, "custom")


def resolve(
    name: str, config: EvalConfig, image_size: int, asked: Collection[str] = ()
) -> EvaluationProtocol:
    """The protocol of this name.

    Args:
      config: `custom` takes its fields from here.
      image_size: of the backbone's input.
      asked: for which protocols too; with `custom` among them the config may hold its fields.

    Raises:
      UserError: no such name, a field that does not fit, or one that only `custom` reads.
    """
    if name not in NAMES:
        raise UserError(f"protocol {name!r}: no such protocol; choose from {', '.join(NAMES)}")
    if name == "custom":
        found = _custom(config)
    else:
        found = _NAMED[name]()
        default = EvalConfig()
        for field in _CUSTOM_FIELDS:
            value = getattr(config, field)
            if "custom" not in (config.protocol, *asked) and value != getattr(default, field):
                raise UserError(f"config eval.{field}={value!r}: read only by eval.protocol=custom")
    return dataclasses.replace(found, size=image_size) if found.size == INPUT else found


def _custom(config: EvalConfig) -> EvaluationProtocol:
    named = {"input": INPUT, "mask": OWN}
    size = named.get(config.size)
    if size is None:
        size = int(config.size) if config.size.isascii() and config.size.isdigit() else 0
        if size < 1:
            raise UserError(f"config eval.size={config.size!r}: expected input, mask, or a number of pixels")
    if not 0 < config.crop <= 1:
        raise UserError(f"config eval.crop={config.crop:g}: must be above 0 and at most 1")
    if config.crop < 1 and size == OWN:
        raise UserError(
            f"config eval.crop={config.crop:g}: eval.size=mask compares whole masks; leave it at 1"
        )
    if not 0 <= config.mask_threshold <= 254:
        raise UserError(f"config eval.mask_threshold={config.mask_threshold}: must be 0 to 254")
    sigma(config.smoothing)
    fields = {field: getattr(config, field) for field in _CUSTOM_FIELDS if field != "size"}
    return EvaluationProtocol("custom", "fields of the config's section eval", size, **fields)


def sigma(smoothing: str) -> float | None:
    """Of `gaussian:<sigma>`, in pixels; None for `none` and `gaussian5`.

    Raises:
      UserError: another text.
    """
    if smoothing in ("none", "gaussian5"):
        return None
    kind, _, number = smoothing.partition(":")
    try:
        value = float(number) if kind == "gaussian" else 0.0
    except ValueError:
        value = 0.0
    if not 0 < value <= 1000:
        raise UserError(
            f"config eval.smoothing={smoothing!r}: expected none, gaussian:<sigma in pixels> or gaussian5"
        )
    return value


def digest(protocol: EvaluationProtocol, config: EvalConfig) -> str:
    """SHA-256 of what decides the metrics of given maps, and their intervals."""
    fields = dataclasses.asdict(protocol)
    # Fields that came later: protocols without them keep the digests that they had.
    fields = {key: own for key, own in fields.items() if key not in _LATER or own != _LATER[key]}
    facts: dict[str, Any] = fields | {
        "bootstrap": config.bootstrap,
        "seed": config.seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
