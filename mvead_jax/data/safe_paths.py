"""Names and paths that come from outside: which may be used, and how a disk spells them.

A letter with an accent has two spellings in Unicode, composed (NFC) and decomposed (NFD), which look alike
and are different names to most file systems. A name that a list or a command line spells in one way is found
on a disk that spells it in the other.
"""

from __future__ import annotations

import os
import re
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
NO_FILE = "no such file"

_LONGEST_NAME = 100
_NO_LETTERS = ("Cc", "Cs")  # Unicode's control characters, NUL among them, and surrogates
_TWICE = "lies there twice, spelled with other code points; rename one"


def normal_form(name: str) -> str:
    """Return one spelling of a name that file systems spell in several (NFC)."""
    return unicodedata.normalize("NFC", name)


def unsafe_name(name: str) -> str | None:
    """Return why a view or category can't have this name, or None: it names files of the workdir."""
    if not name or name != name.strip():
        return "is empty, or begins or ends with a space"
    if name.startswith(".") or any(letter in "/\\" or not letter.isprintable() for letter in name):
        return "begins with a dot, or holds a slash or a control character"
    if len(name.encode()) > _LONGEST_NAME:
        return f"is longer than {_LONGEST_NAME} bytes"
    return None


def unsafe_path(path: object) -> str | None:
    """Return why `path` from a data set's list must not be opened, or None. Paths are relative and stay
    inside; backslashes count as slashes."""
    if not isinstance(path, str) or not path:
        return "is not a file name"
    if "\0" in path:
        return "contains a NUL character"
    if not path.isprintable() and any(unicodedata.category(letter) in _NO_LETTERS for letter in path):
        return "contains a control character, or half of a character"
    pure = PurePosixPath(forward_slashes(path))
    if pure.is_absolute() or re.match(r"[A-Za-z]:", path):
        return "is absolute; paths are relative to the image folder"
    if ".." in pure.parts:
        return "leaves the image folder by '..'"
    return None


def forward_slashes(path: str) -> str:
    """Return a path of a list with the slashes of this program; lists made on Windows have backslashes."""
    return path.replace("\\", "/")


def read_at_most(path: Path, most: int) -> bytes | None:
    """Return the bytes of a file, None if there are more than `most`, whatever its size is said to be.

    Raises:
      OSError: it can't be read.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    return content if len(content) <= most else None


def decoded(content: bytes) -> str:
    """Return the text of a file: UTF-8 with or without a byte order mark, or UTF-16 with one, as Windows
    programs write.

    Raises:
      UnicodeDecodeError: it is neither.
    """
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def respelled(path: Path) -> Path:
    """Return `path` as the disk spells it, if nothing is there under its own spelling; else as it is."""
    if os.path.lexists(path) or str(path).isascii():
        return path
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        if os.path.lexists(found / part):
            found /= part
            continue
        with suppress(OSError):
            others = [name for name in os.listdir(found) if normal_form(name) == normal_form(part)]
            if len(others) == 1:
                found /= others[0]
                continue
        return path
    return found


class _Entries(NamedTuple):
    """One listing. outside: why nothing in it may be used. links: those of the files that are links. spelled:
    all names by their normal form."""

    outside: str | None
    files: set[str]
    links: set[str]
    spelled: dict[str, list[str]]


class Folder:
    """Answers "is this file really inside?" with one directory listing per folder, not per file.

    The root itself may be a link: that is where its owner keeps the data. Links below it must stay inside.
    """

    def __init__(self, root: Path):
        self.root = root.resolve()
        self._listed: dict[Path, _Entries] = {}

    def problem(self, path: str) -> str | None:
        """Return why the file `path` below the root, spelled as on the disk, can't be used, or None."""
        full = self.root / path
        try:
            entries = self._list(full.parent)
        except (OSError, RuntimeError):  # a link that leads to itself
            return NO_FILE
        if entries.outside:
            return entries.outside
        if full.name not in entries.files:
            return NO_FILE
        if full.name in entries.links and not _inside(full, self.root):
            return f"is a link out of {self.root}; copy the file"
        return None

    def find(self, path: str) -> tuple[str, str | None]:
        """Return the path of a file below the root as the disk spells it, and why it can't be used, or
        None."""
        why = self.problem(path)
        if why != NO_FILE or path.isascii():
            return path, why
        found = PurePosixPath()
        for part in PurePosixPath(path).parts:
            try:
                entries = self._list(self.root / found)
            except (OSError, RuntimeError):  # a link that leads to itself
                return path, NO_FILE
            if entries.outside:
                return path, entries.outside
            names = entries.spelled.get(normal_form(part), [])
            if part not in names and len(names) != 1:
                return path, _TWICE if names else NO_FILE
            found /= part if part in names else names[0]
        return str(found), self.problem(str(found))

    def named(self, text: str, column: str) -> str:
        """Return the path, as the disk spells it, of a file that a column of a list names.

        Raises:
          ValueError: why it can't be used, with the column.
        """
        path = forward_slashes(text)
        if why := unsafe_path(path):
            raise ValueError(f"{column} {path!r} {why}")
        found, why = self.find(path)
        if why:
            raise ValueError(f"{column} {path!r} {why}")
        return found

    def _list(self, folder: Path) -> _Entries:
        if folder not in self._listed:
            own = _Entries(None, set(), set(), {})
            if not _inside(folder, self.root):
                own = own._replace(outside=f"its folder is a link out of {self.root}; copy the files")
            else:
                with suppress(OSError), os.scandir(folder) as listing:
                    for entry in listing:
                        own.spelled.setdefault(normal_form(entry.name), []).append(entry.name)
                        if entry.is_symlink():
                            own.links.add(entry.name)
                        if _is_file(entry):
                            own.files.add(entry.name)
            self._listed[folder] = own
        return self._listed[folder]


def _inside(path: Path, root: Path) -> bool:
    """Return whether a path, with all its links followed, lies below `root`."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link that leads to itself
        return False


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
