"""Readers of data sets by name, and the data set that a config names.

A reader knows one layout: it tells whether a folder has it, and makes an index of what lies there. READERS
names them in the order in which `data.reader=auto` asks them. To add one: a module with an object that has
the attributes of `Reader`, and a line here; an installed package registers its own in the entry point group
"mvead_jax.readers" (they are asked last).
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mvead_jax.config.schema import DataConfig
from mvead_jax.data.bit_depth import measured_bit_depth
from mvead_jax.data.mirroring import mirrored_table, with_mirrored
from mvead_jax.data.new_images import holds_named_images, load_new_images, read_samples
from mvead_jax.data.records import DatasetIndex, Incomplete, Listing, Sample
from mvead_jax.data.safe_paths import respelled
from mvead_jax.data.three_d import three_d_words
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.paths import expanded
from mvead_jax.runtime.registry import Registry

log = logging.getLogger(__name__)

AUTO = "auto"
_OF_LISTS = "real_iad"  # data.lists and data.images are its options
READERS = Registry(
    "data.reader",
    {
        "prepared": "mvead_jax.data.tfds_realiad.reader:READER",
        "manifest": "mvead_jax.data.csv_list:READER",
        "pad": "mvead_jax.data.pad:READER",
        "manta": "mvead_jax.data.manta:READER",
        "single_view": "mvead_jax.data.single_view:READER",
        "folder": "mvead_jax.data.folders:READER",
        "visa": "mvead_jax.data.visa:READER",
        "m2ad": "mvead_jax.data.m2ad:READER",
        "real_iad_variety": "mvead_jax.data.realiad_variety:READER",
        "real_iad": "mvead_jax.data.realiad:READER",
    },
    "mvead_jax.readers",
)


class Reader(Protocol):
    """One layout of data sets.

    Attributes:
      layout: what lies at the root, for messages: "train/good/<sample>/<view>.png".
      options: a frozen dataclass of the reader's own options. All fields are text with a default; it raises
        UserError on values that it does not have. `data.options` sets them by name, and data.lists and
        data.images those of the same name.
    """

    layout: str
    options: type

    def detect(self, root: Path) -> bool:
        """Return whether `root` has the layout; opens little. OSError if the system refuses to look."""

    def read(self, root: Path, categories: Sequence[str], options: Any, incomplete: Incomplete) -> Listing:
        """Return what lies at `root`, with all problems.

        Args:
          categories: names; empty = all. incomplete: what to do with a sample that lacks a view which others
            of its category have.

        Raises:
          UserError: nothing can be read at all, or no such category.
        """

    def check(self, samples: Sequence[Sample], options: Any) -> list[str]:
        """Return what is odd about a whole data set of this kind, such as counts that are not those which
        its authors published."""

    def words(self, root: Path, options: Any, views: Sequence[str]) -> dict[str, str]:
        """Return which lists were read, for the protocol beside the figures: "lists", their name, and
        "list_views", which views of a sample they hold."""


def open_data(
    root: str | Path,
    categories: Sequence[str] = (),
    *,
    reader: str = AUTO,
    lists: str = DataConfig.lists,
    images: str = DataConfig.images,
    options: Sequence[str] = (),
    incomplete: Incomplete = "error",
    bit_depth: str = AUTO,
) -> DatasetIndex:
    """Return the index of a data set. Arguments as the fields of `DataConfig`; errors as `read_data`.

    Raises:
      DataProblems: everything wrong with the data set, at once.
    """
    return open_configured(
        DataConfig(
            root=str(root),
            categories=tuple(categories),
            reader=reader,
            lists=lists,
            images=images,
            options=tuple(options),
            incomplete=incomplete,
            bit_depth=bit_depth,
        )
    )


def open_configured(config: DataConfig) -> DatasetIndex:
    """Return the index of the data set that a config names; it says in the log which reader was found, and
    measures the bit depth where that is `auto`. Raises as `open_data`."""
    index = with_mirrored(read_data(config).index(), mirrored_table(config.mirrored))
    if config.bit_depth == AUTO:
        return dataclasses.replace(index, bit_depth=measured_bit_depth(index))
    return dataclasses.replace(index, bit_depth=int(config.bit_depth))


def read_data(config: DataConfig) -> Listing:
    """Return what the data set that a config names holds, and what is wrong with it.

    Raises:
      UserError: no such root, category, reader or option, or another layout than that of the reader.
    """
    root, name = data_root(config.root), reader_of(config)
    if config.reader == AUTO:
        log.info("%s: read as %s (data.reader): %s", root, name, READERS.load(name).layout)
    own: Reader = READERS.load(name)
    found = own.read(root, config.categories, reader_options(name, config), config.incomplete)
    if config.reader == AUTO and (also := [other for other in detected(root) if other != name]):
        note = f"{root}: could be read as {', '.join(also)} too; if that is meant, name it by data.reader"
        return dataclasses.replace(found, notes=[*found.notes, note])
    return found


def data_root(root: str | Path) -> Path:
    """Return the path of a data set as the disk spells it, with `~` replaced.

    Raises:
      UserError: it is empty, or nothing is there.
    """
    if not str(root):
        raise UserError("data.root is empty; set --config.data.root=<folder of the data set>")
    path = respelled(expanded(root))
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"data.root {root}: no such folder; set --config.data.root=<folder of the data set>"
        ) from None
    except (OSError, ValueError) as error:
        raise _refused(root, error) from None
    return path


def data_folder(root: str | Path) -> Path:
    """Return the folder of a data set whose root may be a manifest."""
    path = respelled(expanded(root))
    return path.parent if os.path.isfile(path) else path  # what is wrong with it `data_root` says


def reader_of(config: DataConfig) -> str:
    """Return the name of the reader of the data set that a config names.

    Raises:
      UserError: none of that name, the root has another layout, or `auto` finds none that it has.
    """
    root = data_root(config.root)
    if config.reader == AUTO and (kind := three_d_words(root)):
        raise UserError(
            f"data.root {root}: {kind} is not read: point clouds and depth have no place in this program; put its "
            "images alone into folders (docs/own_data.md), or name a reader by data.reader"
        )
    if config.reader == AUTO:
        found = detected(root) or ([_OF_LISTS] if _names_lists(config) else [])
        if not found:
            raise UserError(f"data.root {root}: no reader knows what lies there. {_layouts()}")
        return found[0]
    own: Reader = READERS.load(config.reader)
    if _detects(own, root) or (config.reader == _OF_LISTS and _names_lists(config)):
        return config.reader
    others = [name for name in detected(root) if name != config.reader]
    instead = f"it looks like {' or '.join(others)}" if others else "no other reader knows it either"
    raise UserError(
        f"data.root {root}: data.reader={config.reader} reads {own.layout}, which is not there; {instead}; "
        "take another reader, auto, or another root"
    )


def detected(root: Path) -> list[str]:
    """Return the names of all readers that know what lies at `root`, in their order.

    Raises:
      UserError: the system refuses to look.
    """
    return [name for name in READERS.names() if _detects(READERS.load(name), root)]


def reader_options(name: str, config: DataConfig) -> Any:
    """Return the options of a reader that a config gives.

    Raises:
      UserError: an entry of data.options that is no <option>=<value>, or an option that the reader lacks.
    """
    own: Reader = READERS.load(name)
    known = [field.name for field in dataclasses.fields(own.options)]
    given = {field: getattr(config, field) for field in ("lists", "images") if field in known}
    for entry in config.options:
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not key:
            raise UserError(
                f"config data.options={entry!r}: write <option>=<value>, with commas between several"
            )
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"config data.options={entry!r}: {name} has no such option, {hint}{has}")
        given[key] = value
    return own.options(**given)


def source_words(config: DataConfig, views: Sequence[str]) -> dict[str, str]:
    """Return which data set and lists were read, for the protocol: {"reader", "lists", "list_views"}; all
    unknown where the data set is not at hand, as where a model scores new images on another machine.

    Args:
      views: of the samples.
    """
    try:
        name = reader_of(config)
    except UserError:
        return dict.fromkeys(("reader", "lists", "list_views"), "unknown: the data set is not at hand")
    own: Reader = READERS.load(name)
    return {"reader": name, **own.words(data_root(config.root), reader_options(name, config), views)}


def odd_counts(config: DataConfig, samples: Sequence[Sample]) -> list[str]:
    """Return what is odd about a whole data set of the kind that a config names."""
    name = reader_of(config)
    return READERS.load(name).check(samples, reader_options(name, config))


def open_pictures(folder: Path, views: Mapping[str, Sequence[str]], *, bit_depth: int = 8) -> DatasetIndex:
    """Return the index of new images without labels: named as in Real-IAD, or <sample>/<view>.<ext>.

    Args:
      views: of each trained category, the names of its views.
      bit_depth: of the training.

    Raises:
      UserError: as new_images.load_new_images or new_images.read_samples.
    """
    folder = respelled(expanded(folder))
    index = load_new_images(folder) if holds_named_images(folder) else read_samples(folder, views)
    return dataclasses.replace(index, bit_depth=bit_depth)


def _names_lists(config: DataConfig) -> bool:
    """Return whether the config says where lists or images are, which may have any name then."""
    return (config.lists, config.images) != (DataConfig.lists, DataConfig.images)


def _detects(reader: Reader, root: Path) -> bool:
    try:
        return reader.detect(root)
    except OSError as error:
        raise _refused(root, error) from None


def _refused(root: str | Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{root}: {reason}; name a folder that can be read by data.root")


def _layouts() -> str:
    known = "; ".join(f"{name}: {READERS.load(name).layout}" for name in READERS.names())
    return f"Layouts that are read (docs/own_data.md): {known}"
