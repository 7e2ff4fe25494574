"""MANTA-Tiny on disk -> Listing: five views of an object side by side in one image.

    <root>/<domain>/<category>/train/good/<object>.png
    <root>/<domain>/<category>/test/{good,defect}/<object>.png
    <root>/<domain>/<category>/ground_truth/defect/<object>.png     equally wide

The root may also be a domain or a category. Views are called V1 to V5, from the left; an image or mask of a view
is cut out when it is opened, under the name <object>.V1.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from mvead_jax.data.folders import (
    NoOptions,
    category_folders,
    holds_single_images,
    read_categories,
    read_folder,
)
from mvead_jax.data.images import image_size
from mvead_jax.data.made_images import part_of
from mvead_jax.data.records import Incomplete, Listing, Sample
from mvead_jax.data.single_view import SingleViewCategory
from mvead_jax.runtime.errors import UserError

VIEWS = 5
_THREADS = 8


class MantaReader:
    """The reader of this layout, as readers.Reader."""

    layout = f"MANTA-Tiny's <domain>/<category>/train/good/<object>.png with {VIEWS} views side by side"
    options = NoOptions

    def detect(self, root: Path) -> bool:
        """Return whether `root` holds domains of categories, or categories whose first image is as wide as that."""
        domains = _domains(root)
        if domains:
            return any(holds_single_images(root / domain) for domain in domains)
        if not holds_single_images(root):
            return False
        images = (root / folder for folder in category_folders(root).values())
        with suppress(UserError, StopIteration):
            first = next(path for place in images for path in sorted(place.glob("train/*/*.png")))
            return _is_row_of_views(*image_size(first))
        return False

    def read(
        self, root: Path, categories: Sequence[str], options: NoOptions, incomplete: Incomplete
    ) -> Listing:
        """Return what the categories hold. It opens the masks, and the headers of the images."""
        domains = _domains(root)
        if not domains:
            return read_folder(root, categories, incomplete=incomplete, layout=_MantaCategory)
        found, problems = {}, []
        for domain in domains:
            for name, folder in category_folders(root / domain).items():
                if name in found:
                    problems.append(
                        f"{domain}/{folder}/: a second category of this name, beside {found[name]}/"
                    )
                found.setdefault(name, f"{domain}/{folder}")
        listing = read_categories(root, found, categories, incomplete, _MantaCategory)
        return replace(listing, problems=[*problems, *listing.problems])

    def check(self, samples: Sequence[Sample], options: NoOptions) -> list[str]:
        """Return nothing: no counts of all categories were published."""
        return []

    def words(self, root: Path, options: NoOptions, views: Sequence[str]) -> dict[str, str]:
        """Return that there are no lists."""
        return {"lists": "none: manta", "list_views": f"all views: {', '.join(views)}"}


READER = MantaReader()


class _MantaCategory(SingleViewCategory):
    """Reads one category. Attributes: wrong: the images and masks that do not hold five views."""

    def __init__(self, root: Path, category: str, folder: str):
        super().__init__(root, category, folder)
        self.wrong: set[str] = set()

    def listed(self, split: str) -> dict[str, dict[str, str]]:
        """Return the images of a split by kind and name; another shape than that of five views is a problem."""
        found = super().listed(split)
        paths = [path for own in found.values() for path in own.values()]
        with ThreadPoolExecutor(_THREADS) as pool:
            for path, why in zip(paths, pool.map(self._wrong_shape, paths), strict=True):
                if why:
                    self.problem(path, why)
                    self.wrong.add(path)
        return found

    def views(self, path: str) -> dict[str, str]:
        """Return the views of a sample by the path of its image or mask; none if a problem of it was told."""
        if path in self.wrong:
            return {}
        stem = PurePosixPath(path).with_suffix("")
        views = {f"V{number}": f"{stem}.V{number}.png" for number in range(1, VIEWS + 1)}
        self.made |= {own: part_of(path, number, VIEWS) for number, own in enumerate(views.values(), 1)}
        return views

    def _wrong_shape(self, path: str) -> str | None:
        """Return why an image does not hold five views, or None; one that can't be opened is told later."""
        with suppress(UserError):
            width, height = image_size(self.root / path)
            if not _is_row_of_views(width, height):
                return (
                    f"{width} x {height} pixels; {VIEWS} square views side by side have a width of {VIEWS} times the "
                    "height; unpack it again"
                )
        return None


def _is_row_of_views(width: int, height: int) -> bool:
    return width == VIEWS * height


def _domains(root: Path) -> list[str]:
    """Return the folders of `root` that hold categories, if it is no category or domain itself."""
    if not root.is_dir() or category_folders(root):
        return []
    found = []
    for path in root.iterdir():
        with suppress(OSError):  # a folder that can't be looked into is no domain, as lost+found
            found += [path.name] if path.is_dir() and category_folders(path) else []
    return sorted(found)
