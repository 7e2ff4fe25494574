"""How many bytes a job is about to write, and whether the disks have them: arithmetic, before any work.

    parts = training_parts(config, index, patches, width, parameters, cache, workdir)
    check_room(parts)        # refuses in one line
    describe(parts)          # "features 12.3 MB in runs/feature_cache, ..."

Bytes are those of the arrays. Headers, lists and pictures for people come on top, a few MB for a category.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvead_jax.config.schema import Config
from mvead_jax.data.records import DatasetIndex
from mvead_jax.runtime.errors import UserError

_FLOAT32 = 4
_FLOAT16 = 2
_STORED = {"float32": 4, "bfloat16": 2}
_STATES = 3  # of a pre-training: two are kept while a third is written
_OPTIMIZER = 3  # parameters and AdamW's two moments
_METRICS = 10  # that bootstrap.npz holds: three of samples, three of images, four of pixels


@dataclass(frozen=True)
class Part:
    """What a job writes into one folder.

    Attributes:
      what: for people. folder: where, it need not be there yet.
      bytes: of all of it. there: of it that an earlier run left, and that is not written again.
    """

    what: str
    folder: Path
    bytes: int
    there: int = 0

    @property
    def missing(self) -> int:
        return max(0, self.bytes - self.there)


def feature_bytes(samples: int, views: int, patches: int, width: int, dtype: str = "float32") -> int:
    """Of the patch features of a split; a view that a sample lacks takes its room."""
    return samples * views * patches * width * _STORED[dtype]


def bank_bytes(config: Config, pictures: int, patches: int, width: int) -> int:
    """Of the banks of a model: rows, and whose each row is.

    Args:
      pictures: of all training samples and views.
    """
    rows = pictures * patches
    if config.bank.kind != "full":
        rows = max(1, int(config.bank.share * rows))
    return rows * (width * _FLOAT32 + 4) * (2 if config.bank.unfused else 1)


def checkpoint_bytes(config: Config, views: int, width: int, parameters: int) -> int:
    """Of the states of a pre-training that lie on the disk at once.

    Args:
      parameters: of the fusion; 0 = there is none to train.
    """
    if not parameters or not config.train.epochs or config.train.objective == "none":
        return 0
    return _STATES * _FLOAT32 * (_OPTIMIZER * parameters + views * config.train.centers * width)


def map_bytes(pictures: int, patches: int) -> int:
    """Of the patch scores of some pictures."""
    return pictures * patches * _FLOAT16


def training_parts(
    config: Config,
    index: DatasetIndex,
    patches: int,
    width: int,
    parameters: int,
    cache: Path,
    workdir: Path,
    cached: int = 0,
) -> list[Part]:
    """What train.py writes.

    Args:
      index: of the data set; its training samples are what counts, and for the features those held out.
      patches: N of a view. width: D of a patch. parameters: of a model's fusion, 0 without.
      cached: bytes of the features that are in the cache.
    """
    features = banks = states = 0
    training = index.select(split="train")
    for category in index.categories:
        own = training.select(category=category)
        samples = len(own) + len(index.select(split="held_out", category=category))
        features += feature_bytes(samples, len(own.views), patches, width, config.features.dtype)
        banks += bank_bytes(config, int(own.present().sum()), patches, width)
        states += checkpoint_bytes(config, len(own.views), width, parameters)
    if config.setting == "multi":
        states = checkpoint_bytes(config, len(index.views), width, parameters)
    models = parameters * _FLOAT32 * (1 if config.setting == "multi" else len(index.categories))
    parts = [
        Part("features", cache, features, cached),
        Part("banks", workdir / "banks", banks, folder_bytes(workdir / "banks")),
        Part("checkpoints", workdir / "checkpoints", states, folder_bytes(workdir / "checkpoints")),
        Part("models", workdir / "models", models, folder_bytes(workdir / "models")),
    ]
    return [part for part in parts if part.bytes]


def scoring_parts(
    config: Config,
    index: DatasetIndex,
    patches: int,
    width: int,
    cache: Path,
    output: Path,
    cached: int = 0,
) -> list[Part]:
    """What score.py writes of the samples of `index`. Arguments as of `training_parts`."""
    features = 0
    for category in index.categories:
        own = index.select(category=category)
        features += feature_bytes(len(own), len(own.views), patches, width, config.features.dtype)
    resampled = len(index.categories) * config.eval.bootstrap * _METRICS * _FLOAT32
    pictures = int(index.present().sum())
    return [
        Part("features", cache, features, cached),
        Part("scores", output, map_bytes(pictures, patches) + resampled),
    ]


def folder_bytes(folder: Path) -> int:
    """Of all files below a folder; 0 where there is none."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # gone by now
                continue
    return found


def check_room(parts: Sequence[Part]) -> None:
    """Compares what is missing with the free bytes of each disk.

    Raises:
      UserError: a disk has evidently less.
    """
    by_disk: dict[int, list[Part]] = {}
    for part in parts:
        by_disk.setdefault(os.stat(_existing(part.folder)).st_dev, []).append(part)
    for own in by_disk.values():
        needed = sum(part.missing for part in own)
        free = shutil.disk_usage(_existing(own[0].folder)).free
        if needed > free:
            what = ", ".join(f"{part.what} {amount(part.missing)} in {part.folder}" for part in own)
            hint = ""
            if any(part.what == "features" and part.missing for part in own):
                hint = ", name another folder by --config.features.cache"
            raise UserError(
                f"{_existing(own[0].folder)}: {amount(needed)} needed ({what}), {amount(free)} free; "
                f"make room{hint}"
            )


def describe(parts: Sequence[Part]) -> str:
    """One line: what will be written where, and what of it is there."""
    words = []
    for part in parts:
        there = f" ({amount(min(part.there, part.bytes))} of it there)" if part.there else ""
        words.append(f"{part.what} {amount(part.bytes)}{there} in {part.folder}")
    return ", ".join(words)


def amount(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
