"""Real-IAD as a TFDS builder: one element is one whole sample with the bytes of its files, in ArrayRecord.

    RealIad(config="256-realiad_jsons", data_dir=DIR).download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=ROOT))
    tfds.builder_from_directory(DIR + "/realiad/256-realiad_jsons/1.0.0").as_data_source("train")[0]

Images and masks are kept as they are, not decoded: what is learned from prepared data is the same byte for
byte. An element, with lists over its views:

    {"category": b"audiojack", "sample": b"audiojack_0001_NG_HS", "label": 1 | 0 | -1 unknown,
     "views": {"name": [b"C1", ...], "label": [...], "image_path": [...], "image": [bytes, ...],
               "mask_path": [b"" where there is none, ...], "mask": [b"" where there is none, ...]}}

metadata.json beside the records has the same without the bytes, in the order of the records, with the SHA-256
of every file, and a seal over itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mvead_jax.data.file_check import check_files
from mvead_jax.data.image_files import ImageFile, ImageFolder, size_of
from mvead_jax.data.realiad import load_index
from mvead_jax.data.records import DatasetIndex, Sample, View
from mvead_jax.data.tfds_realiad.layout import NAME, REAL_IAD, VERSION, seal_of
from mvead_jax.runtime.errors import UserError

RESOLUTIONS = ("256", "512", "1024", "raw")
LISTS = (
    "realiad_jsons",
    "realiad_jsons_sv",
    *(f"realiad_jsons_fuiad_{noise}" for noise in (0.0, 0.1, 0.2, 0.4)),
)
_SHARD_BYTES = 32 * 2**20  # TFDS holds a shard in memory while it writes it
_SPLITS = ("train", "test")


@dataclasses.dataclass(eq=False)
class RealIadConfig(tfds.core.BuilderConfig):
    """Which images and lists.

    Attributes:
      images: folder of images below the root; empty = the one that holds the category.
      lists: folder of JSON lists below the root.
    """

    images: str = ""
    lists: str = LISTS[0]


def config_for(images: str, lists: str, options: Sequence[str] = ()) -> RealIadConfig:
    """Return the config of a folder of images, a folder of lists, and other options of the reader: a predefined
    one, or a new one."""
    size = images.removeprefix("realiad_")
    if size == images:  # not named by a size as Real-IAD's are
        size = f"in_{images or 'root'}"
    name = "-".join([size, lists, *options]).replace("/", "_").replace("=", "_").replace(" ", "")
    return RealIad.builder_configs.get(name) or RealIadConfig(name=name, images=images, lists=lists)


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Do nothing: TFDS would ask its bucket for the data set, and leave a folder in /tmp each time."""


class _Metadata(tfds.core.MetadataDict):
    def save_metadata(self, data_dir) -> None:
        """Seal what TFDS is about to write, now that all samples are in it."""
        self["seal"] = seal_of(self)
        super().save_metadata(data_dir)


class RealIad(tfds.core.ShardBasedBuilder):
    """The builder. A GeneratorBasedBuilder would hold a whole split in memory, to shuffle it, and beyond
    1 GB ask for TensorFlow; this one writes the samples in the order of the index, shard by shard."""

    name = NAME
    RELEASE_NOTES = {VERSION: "Whole samples, original bytes."}  # noqa: RUF012
    VERSION = tfds.core.Version(VERSION)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Ask for Real-IAD at its project page; manual_dir holds realiad_<size>/ and realiad_jsons/."
    )
    BUILDER_CONFIGS = [  # noqa: RUF012
        RealIadConfig(name=f"{size}-{lists}", images=f"realiad_{size}", lists=lists)
        for lists in LISTS
        for size in RESOLUTIONS
    ]

    def __init__(
        self,
        *,
        index: DatasetIndex | None = None,
        reader: str = REAL_IAD,
        on_sample: Callable[[], None] = lambda: None,
        **options: Any,
    ):
        """index: the samples, of the config's images and lists, whose files are checked; None = all that
        manual_dir holds. reader: that found them (data/readers.py). on_sample: called after each sample."""
        self._index, self._reader, self._on_sample = index, reader, on_sample
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        number, data = np.int64, tfds.features.Tensor(shape=(), dtype=np.object_)
        text = tfds.features.Text()
        view = {
            "name": text,
            "label": number,
            "image_path": text,
            "image": data,
            "mask_path": text,
            "mask": data,
        }
        sample = {"category": text, "sample": text, "label": number, "views": tfds.features.Sequence(view)}
        return _Info(
            builder=self,
            description="Industrial anomaly detection: one element is one object, seen by all cameras.",
            homepage="https://realiad4ad.github.io/Real-IAD/",
            features=tfds.features.FeaturesDict(sample),
            disable_shuffling=True,
            metadata=_Metadata(),
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        config = self.builder_config
        index = self._index
        if index is None:
            root = Path(dl_manager.manual_dir)
            index = load_index(root, lists=config.lists, images=config.images, incomplete="keep")
            check_files(index)
        facts = {split: [] for split in _SPLITS}
        self.info.metadata.update(
            lists=config.lists,
            images=config.images,
            reader=self._reader,
            samples=facts,
        )
        iterators = {}
        for split in _SPLITS:
            shards = in_shards(index.root, index.select(split=split).samples)
            if shards:  # TFDS can't read a split without a record
                iterators[split] = [
                    partial(self._generate, index.root, shard, facts[split]) for shard in shards
                ]
        return iterators

    def _generate(
        self, root: ImageFolder, samples: Sequence[Sample], facts: list[dict[str, Any]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for sample in samples:
            views = [_read(root, view) for view in sample.views]
            facts.append(_facts(sample, views))
            yield (
                f"{sample.category}/{sample.id}",
                {
                    "category": sample.category,
                    "sample": sample.id,
                    "label": _number(sample.label),
                    "views": views,
                },
            )
            self._on_sample()


def files_of(samples: Sequence[Sample]) -> list[str]:
    """Return the paths of all images and masks."""
    return [path for sample in samples for view in sample.views for path in (view.image, view.mask) if path]


def bytes_of(root: ImageFolder, samples: Sequence[Sample]) -> int:
    """Return how many bytes all images and masks take on the disk."""
    return sum(size_of(root / path) for path in files_of(samples))


def in_shards(root: ImageFolder, samples: Sequence[Sample], most: int = _SHARD_BYTES) -> list[list[Sample]]:
    """Return the samples in their order, cut before a shard has more than `most` bytes; at least one in
    each."""
    shards: list[list[Sample]] = []
    filled = 0
    for sample in samples:
        size = bytes_of(root, [sample])
        if not shards or filled + size > most:
            shards.append([])
            filled = 0
        shards[-1].append(sample)
        filled += size
    return shards


def _read(root: ImageFolder, view: View) -> dict[str, Any]:
    """Return one view of an element."""
    return {
        "name": view.name,
        "label": _number(view.label),
        "image_path": view.image,
        "image": _bytes(root / view.image),
        "mask_path": view.mask or "",
        "mask": _bytes(root / view.mask) if view.mask else b"",
    }


def _facts(sample: Sample, views: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the element without its bytes, as metadata.json keeps it."""
    described = []
    for view, read in zip(sample.views, views, strict=True):
        one = {"name": view.name, "label": view.label, "image": view.image, "sha256": _sha256(read["image"])}
        if view.mask:
            one |= {"mask": view.mask, "mask_sha256": _sha256(read["mask"])}
        described.append(one)
    facts = {"category": sample.category, "sample": sample.id, "views": described}
    return facts if sample.sample_label is None else facts | {"stated": sample.sample_label}


def _bytes(file: ImageFile) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    if not content:
        raise UserError(f"{file}: is empty; copy it again")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _number(label: int | None) -> int:
    return -1 if label is None else label
