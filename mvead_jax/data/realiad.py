"""Real-IAD on disk -> Listing.

    <root>/realiad_<size>/<category>/OK/S0001/<category>_0001_OK_C1_<time>.jpg
    <root>/realiad_<size>/<category>/NG/<CODE>/S0001/<category>_0001_NG_<CODE>_C1_<time>.jpg, mask beside it
    <root>/realiad_jsons/<category>.json                 or
    <root>/realiad_jsons/realiad_jsons/<category>.json   or
    <root>/explicit_full/<category>.json                 with the category folders beside it (ADer)

Labels come from the lists, never from the path: a defective object has views in which it looks normal, and
their files lie under NG/ all the same. realiad_list.py reads one list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvead_jax.data.realiad_counts import unexpected_counts
from mvead_jax.data.realiad_list import ADER, LISTS, ListReader
from mvead_jax.data.records import DatasetIndex, Incomplete, Listing, Sample
from mvead_jax.data.safe_paths import (
    forward_slashes,
    normal_form,
    respelled,
    unsafe_name,
    unsafe_path,
)
from mvead_jax.data.sample_rules import chosen_categories
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.paths import expanded

_IMAGES = "realiad_"  # how folders of images begin, and folders of lists


@dataclass(frozen=True)
class RealIadOptions:
    """Which lists and images.

    Attributes:
      lists: folder of lists below the root (variants: realiad_jsons_sv, realiad_jsons_fuiad_0.1 ...).
      images: folder of images below the root; empty = the one that holds the category.
    """

    lists: str = LISTS
    images: str = ""


class RealIadReader:
    """The reader of this layout, as readers.Reader."""

    layout = "Real-IAD's realiad_jsons/<category>.json beside realiad_<size>/<category>/"
    options = RealIadOptions

    def detect(self, root: Path) -> bool:
        """Return whether folders are named as those of Real-IAD, or a list lies beside its category."""
        if not root.is_dir():
            return False
        entries = list(root.iterdir())
        if any(path.name.startswith(_IMAGES) or path.name == ADER for path in entries if path.is_dir()):
            return True
        return any(_is_category(root, root, path) for path in entries if path.suffix == ".json")

    def read(
        self, root: Path, categories: Sequence[str], options: RealIadOptions, incomplete: Incomplete
    ) -> Listing:
        """Return what `read_lists` finds."""
        return read_lists(root, categories, lists=options.lists, images=options.images, incomplete=incomplete)

    def check(self, samples: Sequence[Sample], options: RealIadOptions) -> list[str]:
        """Return the counts of all thirty categories that are not Real-IAD's."""
        return unexpected_counts(samples, options.lists)

    def words(self, root: Path, options: RealIadOptions, views: Sequence[str]) -> dict[str, str]:
        """Return the lists and which views they hold."""
        return {"lists": options.lists, "list_views": list_views(options.lists, views)}


READER = RealIadReader()


def list_views(lists: str, views: Sequence[str]) -> str:
    """Return which list was read, in words: figures of the list of one view and of that of all views can't be
    compared."""
    kind = f"single-view list ({views[0]})" if len(views) == 1 else f"list of all views ({', '.join(views)})"
    noise = lists.partition("fuiad_")[2]
    return f"{kind}, noisy training of share {noise}" if noise else kind


def load_index(
    root: str | Path,
    categories: Sequence[str] = (),
    *,
    lists: str = LISTS,
    images: str = "",
    incomplete: Incomplete = "error",
) -> DatasetIndex:
    """Return the index of some categories, with every path in their lists checked.

    Args and errors as `read_lists`.

    Raises:
      DataProblems: everything wrong with the lists, at once.
    """
    return read_lists(root, categories, lists=lists, images=images, incomplete=incomplete).index()


def read_lists(
    root: str | Path,
    categories: Sequence[str] = (),
    *,
    lists: str = LISTS,
    images: str = "",
    incomplete: Incomplete = "error",
    layout: type[ListReader] = ListReader,
) -> Listing:
    """Return what the lists of some categories hold, with every path in them checked.

    Args:
      root: the data set's folder.
      categories: names; empty = all lists that the root holds.
      lists, images: as RealIadOptions.
      incomplete: what to do with a sample that lacks a view which others of its category have.
      layout: reads one list.

    Raises:
      UserError: no such root or category.
    """
    if not str(root):
        raise UserError("data.root is empty; set --config.data.root=<folder of the data set>")
    root = respelled(expanded(root))
    if not root.is_dir():
        raise UserError(f"data.root {root}: no such folder; set --config.data.root=<folder of the data set>")
    for field, folder in (("lists", lists), ("images", images)):
        if folder and (why := unsafe_path(folder)):
            raise UserError(f"data.{field} {folder!r} {why}; name a folder below {root}")
    found = _find_lists(root, forward_slashes(lists))
    problems: list[str] = []
    notes: list[str] = []
    samples: list[Sample] = []
    for category in chosen_categories(root, categories, found):
        if why := unsafe_name(category):
            place = found[category].relative_to(root)
            problems.append(f"{place}: the category {category!r} {why}; rename the list")
            continue
        reader = layout(root, category, found[category], forward_slashes(images), incomplete)
        samples += reader.read()
        problems += reader.problems
        notes += reader.notes
    return Listing(root, samples, notes, problems)


def _find_lists(root: Path, lists: str) -> dict[str, Path]:
    """Return category -> list file, from the first of the known places that holds any."""
    places = [root / lists, root / lists / lists]
    if lists == LISTS:  # who asks for a variant does not want the full lists instead
        places += [root / ADER, root]
    for place in places:
        paths = sorted(path for path in place.glob("*.json") if _is_category(root, place, path))
        if paths:
            return {normal_form(path.stem): path for path in paths}
    looked = ", ".join(str(place) for place in places)
    raise UserError(
        f"data.root {root}: no list <category>.json in any of {looked}; name its folder by data.lists"
    )


def _is_category(root: Path, place: Path, path: Path) -> bool:
    """Return whether a JSON is a list; one beside other things (cameras.json) has a folder of its name."""
    return place not in (root, root / ADER) or (place / path.stem).is_dir()
