"""Data of one view in the layout of MVTec AD -> Listing: every image is a sample.

    <root>/<category>/train/good/000.png
    <root>/<category>/test/good/000.png
    <root>/<category>/test/<defect>/000.png
    <root>/<category>/ground_truth/<defect>/000_mask.png

MPDD has the same; BTAD calls good images `ok` and masks as their images; MVTec AD 2 has test_public/ with the
masks inside, and test sets without labels beside it, which are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mvead_jax.data.folder_listing import Images
from mvead_jax.data.folders import TRUTH, CategoryReader, NoOptions, holds_single_images, read_folder
from mvead_jax.data.published_counts import other_counts
from mvead_jax.data.records import GOOD, Incomplete, Listing, Sample
from mvead_jax.data.safe_paths import normal_form, unsafe_name

VIEW = "view"  # the name of the one view
_GOOD_NAMES = (GOOD, "ok")
_PUBLIC = "test_public"
_MASK = "_mask"


class SingleViewReader:
    """The reader of this layout, as readers.Reader."""

    layout = "train/good/<image>.png with one view a sample, as MVTec AD has it, or that below <category>/"
    options = NoOptions

    def detect(self, root: Path) -> bool:
        """Return whether `root` holds a category, or categories, whose images lie in no folder of a sample."""
        return holds_single_images(root)

    def read(
        self, root: Path, categories: Sequence[str], options: NoOptions, incomplete: Incomplete
    ) -> Listing:
        """Return what the folders of some categories hold. It opens the masks, not the images."""
        return read_folder(root, categories, incomplete=incomplete, layout=SingleViewCategory)

    def check(self, samples: Sequence[Sample], options: NoOptions) -> list[str]:
        """Return the counts that are not those of the public data set which has these categories."""
        return other_counts(samples)

    def words(self, root: Path, options: NoOptions, views: Sequence[str]) -> dict[str, str]:
        """Return that there are no lists."""
        return {"lists": "none: single_view", "list_views": "one view"}


READER = SingleViewReader()


class SingleViewCategory(CategoryReader):
    """Reads one category. Attributes: files: the images of each split, by kind and name."""

    def __init__(self, root: Path, category: str, folder: str):
        super().__init__(root, category, folder)
        public = (root / folder / _PUBLIC).is_dir()
        self.test = _PUBLIC if public else "test"
        self.truth = f"{_PUBLIC}/{TRUTH}" if public else TRUTH
        self.parts = ("train", _PUBLIC) if public else CategoryReader.parts
        self.files: dict[str, dict[str, dict[str, str]]] = {}

    def check_masks(self, kinds: Mapping[tuple[str, str], Images], masks: Mapping[str, Images]) -> None:
        """Add masks without their image to the problems, and masks that are missing where others are there."""
        images, masks = self.files["test"], self.files[TRUTH]
        for kind, own in masks.items():
            for name in sorted(own.keys() - images.get(kind, {}).keys()):
                self.problem(own[name], f"a mask without its image {self.test}/{kind}/{name}")
        for kind, own in images.items() if masks else ():
            for name in sorted(own.keys() - masks.get(kind, {}).keys()) if kind != GOOD else ():
                self.problem(
                    f"{self.place}{self.truth}/{kind}/{name}",
                    "no such mask, and others of this category are there; unpack the data set again, or mark the "
                    "defect in an image of your own",
                )

    def kinds(self, split: str) -> dict[str, Images]:
        """Return the samples of each kind below a split; kinds without any are left out."""
        self.files[split] = self.listed(split)
        return {
            kind: {name: views for name, path in own.items() if (views := self.views(path))}
            for kind, own in self.files[split].items()
        }

    def views(self, path: str) -> dict[str, str]:
        """Return the views of a sample by the path of its image or mask; none if a problem of it was told."""
        return {VIEW: path}

    def listed(self, split: str) -> dict[str, dict[str, str]]:
        """Return the images of a split by kind and name."""
        place = {"train": "train", "test": self.test, TRUTH: self.truth}[split]
        place, found = f"{self.place}{place}/", {}
        for folder in self.folders(place, "images lie in a folder of their kind, such as good/"):
            kind = normal_form(folder)
            if f"{place}{folder}" == f"{self.place}{self.truth}":
                continue
            if why := unsafe_name(kind):
                self.problem(f"{place}{folder}/", f"its name {why}; rename it")
                continue
            kind = GOOD if kind.lower() in _GOOD_NAMES else kind
            images = self.images(f"{place}{folder}/", "a folder among images; here an image is a sample")
            if kind in found:
                self.problem(f"{place}{folder}/", f"a second folder of {kind} samples; keep one")
            elif images:
                strip = _MASK if split == TRUTH else ""
                found[kind] = {name.removesuffix(strip): path for name, path in images.items()}
                if len(found[kind]) < len(images):
                    self.problem(
                        f"{place}{folder}/", f"<image>.png and <image>{_MASK}.png of one image; keep one"
                    )
        return found
