"""The data set that a config names, whatever its layout.

prepared   what scripts/prepare_data.py made of one of the others
manifest   a CSV that lists pictures: data/manifest.py
folders    train/good/<sample>/<view>.png: data/folder.py
Real-IAD   lists in JSON: data/realiad.py
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from mvead_jax.data.csv_list import manifest_of, read_manifest
from mvead_jax.data.folders import is_folder_layout, read_folder, read_parts
from mvead_jax.data.new_pictures import holds_named_pictures, load_pictures
from mvead_jax.data.realiad import read_lists
from mvead_jax.data.records import DatasetIndex, Listed
from mvead_jax.data.tfds_realiad.layout import is_prepared
from mvead_jax.runtime.errors import UserError

Layout = Literal["prepared", "manifest", "folders", "Real-IAD"]


def layout_of(root: Path) -> Layout:
    """By what lies at `root`; Real-IAD if nothing else fits.

    Raises:
      UserError: the system refuses to look.
    """
    try:
        if is_prepared(root):
            return "prepared"
        if manifest_of(root):
            return "manifest"
        return "folders" if is_folder_layout(root) else "Real-IAD"
    except OSError as error:
        raise UserError(f"{root}: {error.strerror}; name a folder that can be read by data.root") from None


def data_folder(root: str | Path) -> Path:
    """The folder of a data set whose root may be a manifest."""
    root = Path(root)
    return root.parent if os.path.isfile(root) else root  # what is wrong with it `layout_of` says


def open_data(
    root: str | Path,
    categories: Sequence[str] = (),
    *,
    lists: str = "realiad_jsons",
    images: str = "",
    incomplete: Literal["error", "drop", "keep"] = "error",
) -> DatasetIndex:
    """The index of `root`; arguments and errors as `read_raw`, and all problems at once.

    Raises:
      DataProblems: everything wrong with the data set.
    """
    if str(root) and layout_of(Path(root)) == "prepared":
        from mvead_jax.data.tfds_realiad.reading import load_prepared  # TFDS takes a second to load

        return load_prepared(Path(root), categories, lists=lists, images=images, incomplete=incomplete)
    return read_raw(root, categories, lists=lists, images=images, incomplete=incomplete).index()


def read_raw(
    root: str | Path,
    categories: Sequence[str] = (),
    *,
    lists: str = "realiad_jsons",
    images: str = "",
    incomplete: Literal["error", "drop", "keep"] = "error",
) -> Listed:
    """What a data set of files holds, and what is wrong with it.

    Args:
      root: its folder, or a manifest.
      categories: names; empty = all that the root holds.
      lists, images: folders below the root; of Real-IAD's layout only.
      incomplete: what to do with a sample that lacks a view which others of its category have.

    Raises:
      UserError: no such root, layout or category.
    """
    if not str(root):
        raise UserError("data.root is empty; set --config.data.root=<folder of the data set>")
    root = Path(root)
    layout = layout_of(root)
    if layout == "manifest":
        return read_manifest(manifest_of(root), categories, incomplete=incomplete)
    if layout == "folders":
        return read_folder(root, categories, incomplete=incomplete)
    return read_lists(root, categories, lists=lists, images=images, incomplete=incomplete)


def open_pictures(folder: Path, views: Mapping[str, Sequence[str]]) -> DatasetIndex:
    """The index of new pictures without labels: named as in Real-IAD, or <sample>/<view>.<ext>.

    Args:
      views: of each trained category, the names of its views.

    Raises:
      UserError: as realiad.load_pictures or folder.read_parts.
    """
    return load_pictures(folder) if holds_named_pictures(folder) else read_parts(folder, views)
