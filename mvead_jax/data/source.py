"""The data set that a config names: a folder of files, or what scripts/prepare_data.py made of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mvead_jax.data.realiad import load_index
from mvead_jax.data.records import DatasetIndex
from mvead_jax.data.tfds_realiad.layout import is_prepared


def open_data(
    root: str | Path,
    categories: Sequence[str] = (),
    *,
    lists: str = "realiad_jsons",
    images: str = "",
    incomplete: Literal["error", "drop", "keep"] = "error",
) -> DatasetIndex:
    """The index of `root`; arguments and errors as realiad.load_index."""
    if str(root) and is_prepared(Path(root)):
        from mvead_jax.data.tfds_realiad.reading import load_prepared  # TFDS takes a second to load

        return load_prepared(Path(root), categories, lists=lists, images=images, incomplete=incomplete)
    return load_index(root, categories, lists=lists, images=images, incomplete=incomplete)
