"""Regions of a camera's images that never count: one mask for each view, white where nothing is looked at.

    <data.ignore>/<category>/<view>.png     of one category; goes before
    <data.ignore>/<view>.png                of all categories that have the view

A mask has the size of its view's images, and is flipped as they are (data.mirrored). Beside a model its masks lie
in ignored.npz, so that whoever scores with the model needs no folder of masks.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from mvead_jax.config.schema import DataConfig
from mvead_jax.data.foreground import resize_by_area
from mvead_jax.data.masks import MASK_THRESHOLD, mask_facts, open_mask, too_dark
from mvead_jax.data.mirroring import Mirrored, flipped_image
from mvead_jax.data.readers import data_folder
from mvead_jax.data.safe_paths import normal_form
from mvead_jax.data.shapes import Sizes
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import whole
from mvead_jax.runtime.paths import expanded

FILE = "ignored.npz"  # in the folder of a model
_SUFFIX = ".png"

Ignored = Mapping[str, Bool[np.ndarray, "H W"]]  # by view; True where nothing counts


def ignore_folder(config: DataConfig) -> Path:
    """Return where data.ignore lies."""
    return data_folder(config.root) / expanded(config.ignore)


def read_ignored(
    folder: Path,
    views: Mapping[str, Sequence[str]],
    mirrored: Mirrored,
    sizes: Mapping[str, Sizes] | None = None,
    others: bool = False,
) -> dict[str, Ignored]:
    """Return the masks of a folder by category.

    Args:
      views: of each category of the run. mirrored: of which views images are flipped.
      sizes: of the training images of each view; None: they are not compared.
      others: folders of other categories may lie there.

    Raises:
      UserError: no such folder, or nothing in it; a file that is no mask, or of another size than the images;
        an unknown category or view; a mask that ignores nothing, or all.
    """
    if not folder.is_dir():
        raise UserError(f"data.ignore {folder}: no such folder; name the one with a PNG for each view")
    found: dict[str, dict[str, Bool[np.ndarray, "H W"]]] = {}
    seen = False
    for category, path in _files(folder, views, others):
        seen = True
        name = normal_form(path.stem)
        of = {category: views[category]} if category else views
        having = [own for own, known in of.items() if name in known]
        if not having:
            known = "; ".join(f"{own} has {', '.join(names)}" for own, names in of.items())
            raise UserError(f"{path}: {name} is no view: {known}")
        mask = _read(path)
        for own in having:
            flipped = name in mirrored.get(own, ())
            if sizes is not None:
                _check_size(path, mask, sizes[own].get(name, ()))
            found.setdefault(own, {})[name] = mask[:, ::-1] if flipped else mask
    if not seen:
        raise UserError(f"data.ignore {folder}: holds no mask; put <view>.png or <category>/<view>.png there")
    return found


def _files(folder: Path, views: Mapping[str, Sequence[str]], others: bool) -> Iterator[tuple[str, Path]]:
    """Yield (category, mask): first those of all categories, whose name is empty, for the others go before."""
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in inside:
        if not path.is_dir():
            yield "", _checked(path)
    for path in inside:
        if path.is_dir():
            category = normal_form(path.name)
            if category in views:
                own = sorted(mask for mask in path.iterdir() if not mask.name.startswith("."))
                yield from ((category, _checked(mask)) for mask in own)
            elif not others:
                raise UserError(
                    f"{path}: {category} is no category of this run, which has {', '.join(views)}"
                )


def _checked(path: Path) -> Path:
    if path.suffix.lower() != _SUFFIX or not path.is_file():
        raise UserError(f"{path}: is no PNG; data.ignore holds <view>.png and <category>/<view>.png alone")
    return path


def _read(path: Path) -> Bool[np.ndarray, "H W"]:
    if why := too_dark(mask_facts(path)):
        raise UserError(f"{path}: {why}".replace("a defect", "what is ignored"))
    mask = np.asarray(flipped_image(open_mask(path), False)) > MASK_THRESHOLD
    if not mask.any():
        raise UserError(
            f"{path}: ignores nothing, for it is black; paint white what is ignored, or remove it"
        )
    if mask.all():
        raise UserError(f"{path}: ignores the whole view; leave the view out of the data instead")
    return mask


def _check_size(path: Path, mask: Bool[np.ndarray, "H W"], sizes: Sequence[Sequence[int]]) -> None:
    height, width = mask.shape
    if [width, height] not in [list(size) for size in sizes]:
        known = " or ".join(f"{w} x {h}" for w, h in sizes)
        raise UserError(f"{path}: has {width} x {height} pixels, the images of this view have {known}")


def ignored_patches(
    masks: Ignored, views: Sequence[str], grid: tuple[int, int], name: str = ""
) -> Bool[np.ndarray, "V h w"] | None:
    """Return which patches never count: those of which at least half is ignored. None where none is.

    Args:
      grid: (h, w) of the patches of a view. name: of the category, for the message.

    Raises:
      UserError: no patch of a view would count.
    """
    found = np.zeros((len(views), *grid), bool)
    for at, view in enumerate(views):
        if view in masks:
            found[at] = resize_by_area(masks[view], grid)
            if found[at].all():
                raise UserError(
                    f"data.ignore: no patch of {view} of {name} would count, of {grid[0]} x {grid[1]}; ignore less, "
                    "or leave the view out of the data"
                )
    return found if found.any() else None


def digests(masks: Mapping[str, Ignored]) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of what each mask ignores, by category and view: of its pixels, not of its file."""
    return {
        category: {
            view: hashlib.sha256(repr(mask.shape).encode() + np.packbits(mask).tobytes()).hexdigest()
            for view, mask in sorted(own.items())
        }
        for category, own in sorted(masks.items())
    }


def ignored_words(masks: Mapping[str, Ignored]) -> str:
    """Return what is ignored, for the protocol."""
    told = [
        f"{category} {view} {100 * mask.mean():.3g} % (sha256 {digests({category: own})[category][view][:16]})"
        for category, own in sorted(masks.items())
        for view, mask in sorted(own.items())
    ]
    if not told:
        return "nothing"
    return (
        f"{', '.join(told)} of its pixels; patches with at least half of their area there are in no bank and have the "
        "lowest score of their view, so their pixels count as called good"
    )


def write_ignored(path: Path, masks: Mapping[str, Ignored]) -> None:
    """Write the masks of a model's categories, whole."""
    arrays = {f"{category}/{view}": mask for category, own in masks.items() for view, mask in own.items()}
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_stored(path: Path) -> dict[str, Ignored]:
    """Return what `write_ignored` wrote; nothing where there is no such file.

    Raises:
      UserError: something else.
    """
    if not path.exists():
        return {}
    found: dict[str, dict[str, Bool[np.ndarray, "H W"]]] = {}
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            for name in file.files:
                category, _, view = name.partition("/")
                if (mask := file[name]).dtype != bool or mask.ndim != 2:
                    raise ValueError(f"{name} is {mask.dtype} {mask.shape}")
                found.setdefault(category, {})[view] = mask
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not the ignored regions of a model ({error}); train again") from error
    return found
