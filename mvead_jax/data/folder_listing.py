"""What lies in folders of samples, <sample>/<view>.<ext>, with everything that is named otherwise."""

from __future__ import annotations

import os
from pathlib import Path

from mvead_jax.data.foreground import SUFFIX as FOREGROUND
from mvead_jax.data.safe_paths import IMAGE_SUFFIXES, Folder, normal_form, unsafe_name

Images = dict[str, dict[str, str]]  # sample -> view -> path below the root

SECOND = "a second folder of this name, spelled with other code points; rename one"

_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx")


class FolderListing:
    """Lists folders of samples; gathers problems and what it passes over instead of stopping.

    Attributes:
      problems: one line each. others: how many files of each other ending were passed over.
    """

    def __init__(self, root: Path):
        self.root, self.inside = root, Folder(root)
        self.problems: list[str] = []
        self.others: dict[str, int] = {}

    def problem(self, path: str, text: str) -> None:
        """Add a problem of a file or folder below the root."""
        self.problems.append(f"{path}: {text}")

    def folders(self, place: str, expected: str) -> list[str]:
        """Return the names of the folders in `place`; an image beside them is a problem."""
        folders, files = self.entries(place)
        for name in files:
            if self.is_image(name):
                self.problem(place + name, f"an image in the wrong place; {expected}")
        return folders

    def samples(self, place: str) -> Images:
        """Return the images of <place>/<sample>/<view>.<ext>."""
        found: Images = {}
        for folder in self.folders(place, "a sample is a folder that holds its views"):
            own = f"{place}{folder}/"
            name = normal_form(folder)
            if why := unsafe_name(name):
                self.problem(own, f"its name {why}; rename it")
            elif name in found:
                self.problem(own, SECOND)
            elif images := self.images(own, "a folder inside a sample; views are files"):
                found[name] = images
        return found

    def images(self, place: str, folder_inside: str) -> dict[str, str]:
        """Return the images of <place>/<name>.<ext> by name. folder_inside: what is wrong with a folder there."""
        folders, files = self.entries(place)
        for folder in folders:
            self.problem(f"{place}{folder}/", folder_inside)
        found: dict[str, list[str]] = {}
        images = [file for file in files if self.is_image(file)]
        for file in images:
            view = normal_form(Path(file).stem)
            why = self.inside.problem(place + file)
            if not why and (bad := unsafe_name(view)):
                why = f"its name {bad}; rename it"
            if why:
                self.problem(place + file, why)
            else:
                found.setdefault(view, []).append(place + file)
        for view, paths in found.items():
            if len(paths) > 1:
                self.problem(place, f"view {view} twice, keep one: {', '.join(Path(p).name for p in paths)}")
        if not images and not folders:
            self.problem(place, f"no image ({', '.join(IMAGE_SUFFIXES)}) in it")
        return {view: paths[0] for view, paths in found.items()}

    def entries(self, place: str) -> tuple[list[str], list[str]]:
        """Return the names of folders and of files, sorted, without what systems leave."""
        folders, files = [], []
        if not os.path.lexists(self.root / place):
            return folders, files  # as ground_truth/, where nobody marked a defect
        try:
            with os.scandir(self.root / place) as listing:
                for entry in listing:
                    if not entry.name.startswith(".") and entry.name.lower() not in _LEFT_BY_SYSTEMS:
                        (folders if entry.is_dir() else files).append(entry.name)
        except OSError as error:
            self.problem(place, f"{error.strerror}")
        return sorted(folders), sorted(files)

    def is_image(self, file: str) -> bool:
        """Return whether a file is read as an image; one of another ending is counted in `others`."""
        if file.lower().endswith(FOREGROUND):
            return False
        suffix = Path(file).suffix.lower()
        if suffix not in IMAGE_SUFFIXES:
            self.others[suffix] = self.others.get(suffix, 0) + 1
        return suffix in IMAGE_SUFFIXES
