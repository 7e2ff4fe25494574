"""Folders of new images, without lists and labels -> DatasetIndex.

Their names tell category, sample and view, as in Real-IAD, or their folders do: <sample>/<view>.<ext>; where a
category has one view, an image is a sample: <sample>.<ext>.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mvead_jax.data.folder_listing import SECOND, FolderListing, Images
from mvead_jax.data.foreground import SUFFIX as FOREGROUND
from mvead_jax.data.realiad_names import PATTERN, Named, by_sample, category_of_key, sample_of, sample_of_name
from mvead_jax.data.records import DatasetIndex, Sample, View, build_index, defect_code, natural_key
from mvead_jax.data.safe_paths import IMAGE_SUFFIXES, Folder, normal_form, unsafe_path
from mvead_jax.runtime.errors import DataProblems, UserError

_DEEPEST = 20  # folders in one another, of which Real-IAD has 5


def load_new_images(folder: Path) -> DatasetIndex:
    """Return the index of new images without labels: all files below `folder` named as in Real-IAD.

    The category, the sample and the view come from the name. A .png beside an image of its view in another
    format is a mask, as in Real-IAD's own folders. Samples may lack views.

    Raises:
      UserError: no such folder, no image in it, or folders too deep in one another.
      DataProblems: images whose names don't follow the pattern, two images of one view, or a .png that may be
        an image or a mask.
    """
    if not folder.is_dir():
        raise UserError(f"--input {folder}: no such folder")
    problems = []
    by_name: dict[tuple[str, str], list[str]] = defaultdict(list)
    inside = Folder(folder)
    for path in sorted(_below(folder)):
        hidden = path.name.startswith(".") or path.name.lower().endswith(FOREGROUND)
        if hidden or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        name = path.relative_to(folder).as_posix()
        parsed = sample_of_name(path.name)
        if why := unsafe_path(name) or inside.problem(name):
            problems.append(f"{name}: {why}")
        elif parsed is None:
            problems.append(f"{name}: {PATTERN}")
        else:
            by_name[parsed].append(name)
    listed = []
    others = {
        one: [name for name in names if not name.lower().endswith(".png")] for one, names in by_name.items()
    }
    with_others = {key for (key, _), names in others.items() if names}
    for (key, view), names in by_name.items():
        images = others[key, view] or names
        if not others[key, view] and key in with_others and defect_code(key):
            problems.append(
                f"{names[0]}: a mask without its image, or an image among others that are no .png; "
                "put the image there, or save all of the sample in one format"
            )
        listed += [Named(key, "test", View(view, name)) for name in images]
    grouped, doubled = by_sample(listed)
    problems += doubled
    if problems:
        raise DataProblems(str(folder), problems)
    if not grouped:
        raise UserError(f"--input {folder}: no image ({', '.join(IMAGE_SUFFIXES)}) in it")
    return build_index(folder, [sample_of(category_of_key(key), key, own) for key, own in grouped])


def holds_named_images(folder: Path) -> bool:
    """Return whether any image below `folder` is named as in Real-IAD."""
    return any(path.suffix.lower() in IMAGE_SUFFIXES and sample_of_name(path.name) for path in _below(folder))


def read_samples(folder: Path, views: Mapping[str, Sequence[str]]) -> DatasetIndex:
    """Return the index of new samples without labels: <folder>/<sample>/<view>.<ext>, and with several
    categories <folder>/<category>/<sample>/<view>.<ext>. Samples may lack views. Of a category of one view
    images may lie there themselves, as <sample>.<ext>.

    Args:
      views: of each category that is known, the names of its views.

    Raises:
      UserError: no such folder, or no image in it.
      DataProblems: everything that is not named so, at once.
    """
    if not folder.is_dir():
        raise UserError(f"--input {folder}: no such folder")
    if not views:
        raise UserError(f"--input {folder}: nothing is trained to score it by; run mvead train")
    listing = FolderListing(folder)
    known = {normal_form(name): name for name in views}
    places = {next(iter(views)): ""} if len(views) == 1 else {}
    if len(views) > 1:
        for entry in listing.folders("", f"it holds a folder for each of {', '.join(views)}"):
            category = known.get(normal_form(entry))
            if category is None:
                listing.problem(entry, f"no category of this run; {', '.join(views)} are")
            elif category in places:
                listing.problem(f"{entry}/", SECOND)
            else:
                places[category] = f"{entry}/"
    samples = []
    for category, place in places.items():
        for name, images in _samples(listing, place, views[category]).items():
            for view in sorted(images.keys() - set(views[category])):
                listing.problem(images[view], f"view {view!r} is unknown; {_known(views[category])}")
            ordered = tuple(View(view, images[view]) for view in sorted(images, key=natural_key))
            samples.append(Sample(name, category, "test", ordered))
    if listing.problems:
        raise DataProblems(f"--input {folder}", listing.problems)
    if not samples:
        raise UserError(f"--input {folder}: no <sample>/<view> ({', '.join(IMAGE_SUFFIXES)}) in it")
    return build_index(folder, samples)


def _samples(listing: FolderListing, place: str, views: Sequence[str]) -> Images:
    """Return the images of each sample of a category; of one view an image may be a sample itself."""
    if len(views) > 1 or not any(map(listing.is_image, listing.entries(place)[1])):
        return listing.samples(place)
    images = listing.images(place, "a folder among images; here an image is a sample")
    return {name: {views[0]: path} for name, path in images.items()}


def _known(views: Sequence[str]) -> str:
    if len(views) == 1:
        return f"a sample is <sample>/{views[0]}.<ext>, or an image that lies in no folder"
    return f"{', '.join(views)} are"


def _below(folder: Path) -> Iterator[Path]:
    """Yield everything below `folder`; links to folders are not followed.

    Raises:
      UserError: folders too deep in one another.
    """
    top = len(folder.parts)
    for place, folders, files in os.walk(folder):
        inside = Path(place)
        if len(inside.parts) - top > _DEEPEST:
            short = Path(*inside.parts[: top + 3])
            raise UserError(f"{short}: more than {_DEEPEST} folders in one another; move the images up")
        yield from (inside / name for name in (*folders, *files))
