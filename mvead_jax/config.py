"""One experiment as typed nested dataclasses, read from a config file and overridden from the command line.

A config file is a Python file with `get_config() -> Config`; its docstring gives the command, the cost and
the figure to expect. `configs/x.py:argument` calls `get_config("argument")`.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import json
import math
import runpy
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mvead_jax.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """Which pictures.

    Attributes:
      root: folder that holds the data set, or what scripts/prepare_data.py made of one.
      categories: names of categories; empty = all that the root holds.
      lists: folder of JSON lists below the root: realiad_jsons, realiad_jsons_sv, realiad_jsons_fuiad_0.1 ...
      images: folder of images below the root; empty = the one that holds the categories.
      incomplete: samples that lack a view of their category are an `error`, are left out (`drop`), or
        are used with the views they have (`keep`).
      image_size: every view is resized to image_size x image_size, without cropping.
    """

    root: str = ""
    categories: tuple[str, ...] = ()
    lists: str = "realiad_jsons"
    images: str = ""
    incomplete: Literal["error", "drop", "keep"] = "error"
    image_size: int = 224


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
        their names, azimuths counter-clockwise seen from above.
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


def from_command_line(
    description: str, *parents: argparse.ArgumentParser
) -> tuple[Config, Path, argparse.Namespace]:
    """Config and workdir of a job: --config FILE --workdir DIR --config.<section>.<field>=<value> ...

    Args:
      description: of the job, for --help.
      parents: parsers of other flags, whose values are in the last result.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=parents,
    )
    parser.add_argument("--config", required=True, help="a config file, configs/<name>.py")
    parser.add_argument("--workdir", required=True, type=Path, help="folder of the run; run again to resume")
    arguments, rest = parser.parse_known_args()
    return load_config(arguments.config, split_overrides(rest)), arguments.workdir, arguments


def load_config(spec: str, overrides: Mapping[str, str] | None = None) -> Config:
    """The config of file `spec` ("configs/x.py" or "configs/x.py:argument") with `overrides` applied.

    Raises:
      UserError: no such file, no get_config, unknown key, or a value of the wrong type.
    """
    path, _, argument = spec.partition(":")
    if not Path(path).is_file():
        known = sorted(str(p) for p in Path("configs").glob("*.py"))
        raise UserError(f"--config {path}: no such file{_nearest(path, known)}")
    try:
        make = runpy.run_path(path).get("get_config")
    except Exception as error:  # whatever the file does
        raise UserError(
            f"--config {path}: {type(error).__name__}: {error}; a config is Python that defines get_config()"
        ) from error
    if make is None:
        raise UserError(f"--config {path}: the file defines no get_config()")
    arguments = [argument] if argument else []
    try:
        inspect.signature(make).bind(*arguments)
    except TypeError as error:
        raise UserError(
            f"--config {spec}: {error}; the file's docstring says what follows the colon"
        ) from None
    config = make(*arguments)
    if not isinstance(config, Config):
        raise UserError(f"--config {path}: get_config() returned {type(config).__name__}, not a Config")
    return override(config, overrides or {})


def split_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """`["--config.seed=3", "--config.data.root", "x"]` -> `{"seed": "3", "data.root": "x"}`.

    Raises:
      UserError: an argument that is no override, or one without a value.
    """
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--config."):
            raise UserError(
                f"unknown argument {name!r}: config fields are set by --config.<section>.<field>=<value>"
            )
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{name}: no value; write {name}=<value>")
            value = rest.pop(0)
        found[name.removeprefix("--config.")] = value
    return found


def override(config: Config, overrides: Mapping[str, str]) -> Config:
    """A copy of `config` with dotted fields set from text. Lists are comma-separated."""
    for key, text in overrides.items():
        config = _replace(config, key.split("."), key, text)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Plain JSON types; the inverse of `from_dict`."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any], where: str) -> Config:
    """The config that `to_dict` wrote to the file `where`.

    Raises:
      UserError: an unknown field or a value of the wrong type.
    """
    return _from_dict(Config, values, where)


def differences(a: Config, b: Config) -> list[str]:
    """Fields in which two configs differ, as "data.root: 'x' is now 'y'"."""
    flat_a, flat_b = dict(_flatten(to_dict(a))), dict(_flatten(to_dict(b)))
    return [f"{key}: {flat_a[key]!r} is now {flat_b[key]!r}" for key in flat_a if flat_a[key] != flat_b[key]]


def _flatten(values: Mapping[str, Any], prefix: str = ""):
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _get(config: Config, dotted: str) -> Any:
    value: Any = config
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def _replace(node: Any, path: list[str], key: str, text: str) -> Any:
    hints = typing.get_type_hints(type(node))
    name, rest = path[0], path[1:]
    if name not in hints:
        prefix = key[: len(key) - len(".".join(path))]
        known = [prefix + other for other in hints]
        sections = [section for section, kind in hints.items() if dataclasses.is_dataclass(kind)]
        inside = [f"{one}.{name}" for one in sections if name in typing.get_type_hints(hints[one])]
        if inside:
            raise UserError(f"unknown config key {key!r}; did you mean {' or '.join(inside)}?")
        raise UserError(
            f"unknown config key {key!r}{_nearest(prefix + name, known)}; known: {', '.join(known)}"
        )
    if dataclasses.is_dataclass(hints[name]):
        if not rest:
            fields = ", ".join(f"{key}.{f.name}" for f in dataclasses.fields(hints[name]))
            raise UserError(f"config key {key!r} is a section; set one of its fields: {fields}")
        value = _replace(getattr(node, name), rest, key, text)
    elif rest:
        raise UserError(f"unknown config key {key!r}: {key.removesuffix('.' + '.'.join(rest))} is a value")
    else:
        value = _parse(hints[name], text, key)
    return dataclasses.replace(node, **{name: value})


def _parse(kind: Any, text: str, key: str) -> Any:
    """`text` as a value of type `kind`: str, int, float, bool, Literal of str, or tuple[str, ...]."""
    if typing.get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if typing.get_origin(kind) is Literal:
        return _check(kind, text, key)
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        expected = "true or false" if kind is bool else kind.__name__
        raise UserError(f"config {key}={text!r}: expected {expected}") from None


def _check(kind: Any, value: Any, key: str) -> Any:
    """`value` if it has type `kind`, with lists as tuples and whole numbers as floats."""
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise UserError(
                f"config {key}={value!r}: expected one of {', '.join(choices)}{_nearest(value, choices)}"
            )
        return value
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
            raise UserError(f"config {key}={value!r}: expected a list of names")
        return tuple(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UserError(f"config {key}={value!r}: expected {kind.__name__}")
    return value


def _from_dict(kind: type, values: Mapping[str, Any], where: str, prefix: str = "") -> Any:
    hints = typing.get_type_hints(kind)
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: config {prefix.rstrip('.') or 'file'} is not an object")
    for name in values:
        if name not in hints:
            raise UserError(f"{where}: unknown config key {prefix + name!r}{_nearest(name, list(hints))}")
    arguments = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            arguments[name] = _from_dict(hint, value, where, f"{prefix}{name}.")
        else:
            arguments[name] = _check(hint, value, f"{prefix}{name}")
    return kind(**arguments)


def _nearest(name: Any, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
