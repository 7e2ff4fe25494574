"""PAD's MAD-Sim on disk -> Listing: the layout of MVTec AD, and the poses of the training images.

    <root>/<category>/train/good/0.png
    <root>/<category>/transforms.json                          a pose for each of them; or in train/, or in train/good/
    <root>/<category>/test/{good,Burrs,Missing,Stains}/0.png
    <root>/<category>/ground_truth/<defect>/0_mask.png

Nothing says which test images show one object, nor from where, so every image is a sample of one view. The poses
are checked and told, and no score depends on them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mvead_jax.data.folders import NoOptions, category_folders, holds_single_images, read_folder
from mvead_jax.data.records import GOOD, Incomplete, Listing, Sample
from mvead_jax.data.safe_paths import decoded, read_at_most
from mvead_jax.data.single_view import SingleViewCategory

_NAME = "transforms.json"
_PLACES = ("", "train/", f"train/{GOOD}/")
_LARGEST = 16 * 2**20
_TOLERANCE = 1e-3  # of a rotation's rows to be orthonormal


class PadReader:
    """The reader of this layout, as readers.Reader."""

    layout = f"PAD's <category>/train/good/<image>.png with their poses in {_NAME}"
    options = NoOptions

    def detect(self, root: Path) -> bool:
        """Return whether a category has poses beside its images."""
        folders = category_folders(root).values()
        return any(_poses(root, folder) for folder in folders) and holds_single_images(root)

    def read(
        self, root: Path, categories: Sequence[str], options: NoOptions, incomplete: Incomplete
    ) -> Listing:
        """Return what the categories hold. It opens the masks and the poses, not the images."""
        return read_folder(root, categories, incomplete=incomplete, layout=_PadCategory)

    def check(self, samples: Sequence[Sample], options: NoOptions) -> list[str]:
        """Return nothing: no counts are compared."""
        return []

    def words(self, root: Path, options: NoOptions, views: Sequence[str]) -> dict[str, str]:
        """Return that there are no lists."""
        return {"lists": "none: pad", "list_views": "one view"}


READER = PadReader()


class _PadCategory(SingleViewCategory):
    """Reads one category."""

    def read(self) -> list[Sample]:
        """Return the samples of the category, with the poses checked."""
        samples = super().read()
        place = _poses(self.root, self.place)
        if place is None:
            self.problem(
                f"{self.place}{_NAME}", "no such file, the poses of train/good/; unpack the data set again"
            )
        elif why := self._check(place):
            self.problem(place, why)
        return samples

    def _check(self, place: str) -> str | None:
        """Return what is wrong with a file of poses, or None; tell how many it has."""
        if why := self.inside.problem(place):
            return why
        try:
            content = json.loads(decoded(read_at_most(self.root / place, _LARGEST) or b""))
        except (OSError, ValueError, RecursionError) as error:
            return f"not JSON ({error}); unpack it again"
        frames = content.get("frames") if isinstance(content, dict) else None
        if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
            return "has no list 'frames' of objects; unpack it again"
        names = []
        for number, frame in enumerate(frames):
            if not isinstance(frame.get("file_path"), str):
                return f"frames[{number}] has no file_path; unpack it again"
            if not _is_pose(frame.get("transform_matrix")):
                return f"frames[{number}].transform_matrix is no pose: 4 x 4, a rotation and a place; unpack it again"
            path = PurePosixPath(frame["file_path"])
            names.append(path.stem if path.suffix.lower() == ".png" else path.name)
        images = self.files["train"].get(GOOD, {}).keys()
        if lacking := sorted(images - set(names)):
            return (
                f"has no pose of {len(lacking)} images ({', '.join(lacking[:3])}); unpack the data set again"
            )
        if left := sorted(set(names) - images):
            return (
                f"has poses of {len(left)} images that are not there ({', '.join(left[:3])}); unpack it again"
            )
        self.notes.append(
            f"{self.category}: {len(names)} poses of training images; test images have none, so every image is a "
            "sample of one view and no score depends on them"
        )
        return None


def _poses(root: Path, folder: str) -> str | None:
    """Return where the poses of a category lie below the root, or None."""
    folder = f"{folder.rstrip('/')}/" if folder else ""
    places = [f"{folder}{place}{_NAME}" for place in _PLACES]
    return next((place for place in places if (root / place).is_file()), None)


def _is_pose(matrix: Any) -> bool:
    try:
        values = np.array(matrix, float)
    except (TypeError, ValueError):
        return False
    if values.shape != (4, 4) or not np.isfinite(values).all():
        return False
    rotation = values[:3, :3]
    return bool(np.abs(rotation @ rotation.T - np.eye(3)).max() < _TOLERANCE)
