"""Images that come into a folder: whose they are, and whether they have all come.

    <folder>/<sample>/<view>.<ext>               one category
    <folder>/<category>/<sample>/<view>.<ext>    any number
    <folder>/[<category>/]<sample>.<ext>         a category of one view
    in at most 8 folders: names as in Real-IAD   <category>_<4 digits>_<OK or NG_CODE>_C<view>_<time>.<ext>

A file counts as written when its size and times are the same at two looks. Nothing is opened here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mvead_jax.data.realiad_names import category_of_key, sample_of_name
from mvead_jax.data.safe_paths import IMAGE_SUFFIXES, normal_form, unsafe_path
from mvead_jax.runtime.errors import UserError, printable

log = logging.getLogger(__name__)

Key = tuple[str, str]  # category and sample
_DEEPEST = 8  # folders that an image lies in


@dataclass(frozen=True, slots=True)
class File:
    """An image on disk: its path below the folder, its size in bytes, and when its content and when anything
    of it was changed, in nanoseconds; the second can't be set back."""

    path: str
    size: int
    modified: int
    changed: int


class Place(NamedTuple):
    """Where an image belongs. home: the folder of its sample; "" if its name alone tells the sample."""

    key: Key
    view: str
    home: str


@dataclass(slots=True)
class Arrival:
    """What has come of one sample.

    Attributes:
      files: by view. since: when the last of them was new or changed. settled: none was at the last look.
    """

    files: dict[str, File] = field(default_factory=dict)
    since: float = 0.0
    settled: bool = False


class Arrivals:
    """Looks into a folder again and again; `samples` is what lies there."""

    def __init__(
        self,
        folder: Path,
        views: Mapping[str, Sequence[str]],
        decided: Callable[[Key], Mapping[str, File]] = lambda key: {},
    ):
        """
        Args:
          views: of each category that is known.
          decided: the files by which a sample was decided, perhaps before a restart, by view.
        """
        self.samples: dict[Key, Arrival] = {}
        self._folder, self._views, self._decided = folder, views, decided
        self._told: set[str] = set()
        self._places: dict[str, Place | None] = {}  # of the last look

    def look(self, now: float) -> None:
        """Brings `samples` up to date. now: in seconds, of any clock that only goes forward.

        Raises:
          UserError: the folder can't be read.
        """
        found: dict[Key, dict[str, dict[str, list[File]]]] = {}  # by home and view
        places: dict[str, Place | None] = {}
        for file in self._listed():
            path = file.path
            place = places[path] = self._places[path] if path in self._places else self._place(path)
            if place is not None:
                homes = found.setdefault(place.key, {})
                homes.setdefault(place.home, {}).setdefault(place.view, []).append(file)
        self._places = places
        for key in self.samples.keys() - found.keys():
            del self.samples[key]
        for key, homes in found.items():
            arrival, decided = self.samples.setdefault(key, Arrival()), self._decided(key)
            views = self._own(homes, decided)
            files = {view: self._chosen(own, decided.get(view)) for view, own in views.items()}
            arrival.settled = files == arrival.files
            if files != arrival.files:
                arrival.files, arrival.since = files, now

    def _place(self, path: str) -> Place | None:
        """The place of a path, or a word about it."""
        problem = unsafe_path(path)
        place = place_of(path, self._views) if problem is None else None
        if place is None:
            self._tell(path, f"{problem or 'no view of this model'}; passed over")
        return place

    def _own(
        self, homes: Mapping[str, dict[str, list[File]]], decided: Mapping[str, File]
    ) -> dict[str, list[File]]:
        """Of several folders of one sample (two spellings of its name) the one that it was decided by; else
        the first by name."""
        if len(homes) == 1:
            return next(iter(homes.values()))
        paths = {file.path for file in decided.values()}
        held = {home: {file.path for own in views.values() for file in own} for home, views in homes.items()}
        chosen = min(homes, key=lambda home: (held[home].isdisjoint(paths), home))
        for home in homes:
            if home != chosen:
                self._tell(home, f"the sample is there already, in '{chosen}'; passed over")
        return homes[chosen]

    def _chosen(self, files: list[File], decided: File | None) -> File:
        """Of several files of one view the one that was decided by; else .jpg before .png, then by name. So a
        image counts before its mask, which may come first."""
        if len(files) == 1:
            return files[0]
        order = sorted(files, key=lambda file: (_rank(file.path), file.path))
        chosen = next((file for file in order if decided and file.path == decided.path), order[0])
        for file in order:
            if file.path != chosen.path:
                self._tell(file.path, f"the view is there already, as {chosen.path}; passed over")
        return chosen

    def _tell(self, path: str, what: str) -> None:
        if path not in self._told:
            self._told.add(path)
            log.warning("%s", printable(f"{self._folder / path}: {what}"))

    def _listed(self, below: str = "", deep: int = _DEEPEST) -> Iterator[File]:
        """Images below the folder, without hidden ones; what vanishes meanwhile is left out."""
        try:
            with os.scandir(self._folder / below) as entries:
                found = sorted((one for one in entries if one.name[0] != "."), key=lambda one: one.name)
        except OSError as error:
            if not below:
                raise UserError(f"--input {self._folder}: {error.strerror}") from None
            if not isinstance(error, FileNotFoundError):  # taken away meanwhile
                self._tell(below, f"{error.strerror}; passed over")
            return
        for one in found:
            path = below + one.name
            with suppress(OSError):
                if one.is_dir(follow_symlinks=False):
                    if deep:
                        yield from self._listed(path + "/", deep - 1)
                    else:
                        self._tell(path, f"more than {_DEEPEST} folders deep; passed over")
                elif os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:
                    if one.is_file(follow_symlinks=False):
                        status = one.stat(follow_symlinks=False)
                        yield File(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                    else:
                        self._tell(path, "a link, or no file; passed over")


def place_of(path: str, views: Mapping[str, Sequence[str]]) -> Place | None:
    """The sample and the view of an image's path below the folder; None if it is no view that is known."""
    *folders, name = PurePosixPath(path).parts
    if named := sample_of_name(name):
        (sample, view), home = named, ""
        category = category_of_key(sample)
    else:
        view, home = normal_form(PurePosixPath(path).stem), "/".join(folders)
        *above, sample = (normal_form(part) for part in folders) if folders else [""]
        category = above[0] if above else next(iter(views)) if len(views) == 1 else ""
        if not sample or len(above) > 1 or view not in views.get(category, ()):
            return _of_one_view(folders, view, views)
    return Place((category, sample), view, home) if view in views.get(category, ()) else None


def _of_one_view(folders: Sequence[str], sample: str, views: Mapping[str, Sequence[str]]) -> Place | None:
    """Return the place of an image that is a sample itself: <sample>.<ext> or <category>/<sample>.<ext>."""
    category = next(iter(views)) if not folders and len(views) == 1 else normal_form("/".join(folders))
    own = views.get(category, ())
    return Place((category, sample), own[0], "") if len(own) == 1 else None


def _rank(path: str) -> int:
    return IMAGE_SUFFIXES.index(PurePosixPath(path).suffix.lower())
