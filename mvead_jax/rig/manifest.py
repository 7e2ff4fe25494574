"""What says that a rendered set is complete, and what to keep of one that is not.

`rig.json` names the settings and the SHA-256 of every file; it is written last, in one move. While rendering
there is `rig.partial.jsonl` instead: the settings, then one line per finished sample.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvead_jax.errors import UserError
from mvead_jax.files import sha256, write_json, write_text
from mvead_jax.rig.cameras import VIEWS
from mvead_jax.rig.layout import FAMILIES, SPLITS, SampleName, image_folder

VERSION = 1  # raise it when the same settings give other pictures
MANIFEST, JOURNAL, CAMERAS, LISTS = "rig.json", "rig.partial.jsonl", "cameras.json", "realiad_jsons"

# Sample key -> {"sample", "defective" per view, "files": path -> SHA-256}.
Records = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """Everything the set is a function of."""

    families: tuple[str, ...]
    train: int
    test_normal: int
    test_defective: int
    size: int
    seed: int

    def names(self) -> Iterator[SampleName]:
        """Every sample, in the order of the JSON lists."""
        for family in self.families:
            for split, count in zip(SPLITS, (self.train, self.test_normal, self.test_defective), strict=True):
                for index in range(count):
                    yield SampleName(family, split, index)

    def as_json(self) -> dict[str, Any]:
        """What manifest and journal keep, to tell one set from another."""
        return {"rig": VERSION} | dataclasses.asdict(self) | {"families": list(self.families)}


def key(name: SampleName) -> str:
    """A sample's place in manifest and journal."""
    return f"{name.category}/{name.folder}"


def take_over(root: Path, settings: Settings, overwrite: bool) -> Records:
    """Records of the samples at `root` that are whole and belong to `settings`.

    Refuses, or with `overwrite` clears away, a set of other settings; always refuses files of the same names
    that no manifest or journal claims.
    """
    found = _read_state(root)
    if found is None:
        claimed = [root / CAMERAS]
        for family in settings.families:
            claimed += [root / image_folder(settings.size) / family, root / LISTS / f"{family}.json"]
        foreign = [path for path in claimed if path.exists()]
        if foreign:
            raise UserError(f"{foreign[0]}: exists and was not written by the rig; choose another folder")
        return {}
    old, samples = found
    new = settings.as_json()
    if old == new:
        return {name: record for name, record in samples.items() if _is_whole(root, record)}
    if not overwrite:
        fields = [field for field in new if old.get(field) != new[field]]
        changed = "; ".join(f"{field} is {old.get(field)!r}, not {new[field]!r}" for field in fields)
        raise UserError(f"{root}: holds another rig ({changed}); choose another folder or --overwrite")
    _clear(root, old)
    return {}


def is_finished(root: Path) -> bool:
    """Is there a manifest, and are the lists and cameras it names whole? (Samples: see `take_over`.)"""
    try:
        return _is_whole(root, json.loads((root / MANIFEST).read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def begin(root: Path, settings: Settings, done: Records) -> None:
    """From here on the set is unfinished: the manifest goes, the journal says what is done."""
    root.mkdir(parents=True, exist_ok=True)
    lines = [{"settings": settings.as_json()}, *done.values()]
    write_text(root / JOURNAL, "".join(json.dumps(line) + "\n" for line in lines))
    (root / MANIFEST).unlink(missing_ok=True)


def finish(root: Path, settings: Settings, done: Records, texts: dict[str, str]) -> None:
    """Write `texts` (path under the root -> content), then the manifest."""
    for path, text in texts.items():
        write_text(root / path, text)
    manifest = {
        "settings": settings.as_json(),
        "files": {path: sha256(root / path) for path in texts},
        "samples": {key(name): done[key(name)] for name in settings.names()},
    }
    write_json(root / MANIFEST, manifest)
    (root / JOURNAL).unlink(missing_ok=True)


def _read_state(root: Path) -> tuple[dict[str, Any], Records] | None:
    """Settings and sample records of the manifest or, failing that, of the journal; None without both.

    Raises:
      UserError: neither is readable as what the rig writes.
    """
    fields = {"rig", *(field.name for field in dataclasses.fields(Settings))}
    for path in (root / MANIFEST, root / JOURNAL):
        if not path.exists():
            continue
        try:
            if path.name == MANIFEST:
                content = json.loads(path.read_text())
                settings, samples = dict(content["settings"]), dict(content["samples"])
            else:
                # What follows the last line end is torn: the process was killed while it wrote.
                lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
                settings = dict(lines[0]["settings"])
                samples = {record["sample"]: record for record in lines[1:]}
            if settings.keys() != fields:
                raise ValueError("settings have other fields")
            for name, record in samples.items():
                if record["sample"] != name or len(record["defective"]) != len(VIEWS) or not record["files"]:
                    raise ValueError(f"odd record of {name}")
                record["files"].items()
            return settings, samples
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError) as error:
            raise UserError(f"{path}: damaged ({error}); delete the folder and render again") from error
    return None


def _is_whole(root: Path, record: dict[str, Any]) -> bool:
    return all(_digest(root / path) == digest for path, digest in record["files"].items())


def _digest(path: Path) -> str | None:
    try:
        return sha256(path)
    except OSError:
        return None


def _clear(root: Path, old: dict[str, Any]) -> None:
    """Delete what the rig wrote for the settings `old`, and the folders that this leaves empty.

    The names come from the settings, not from the manifest's list: a file that someone edited must not be
    able to name others. A killed run may also have written pictures that no list names yet.
    """
    fields = {field: value for field, value in old.items() if field != "rig"}
    if old.get("rig") != VERSION or not set(fields["families"]) <= set(FAMILIES):
        raise UserError(f"{root}: written by another version of the rig; delete the folder yourself")
    settings = Settings(**fields)
    (root / MANIFEST).unlink(missing_ok=True)
    files = {CAMERAS} | {f"{LISTS}/{family}.json" for family in settings.families}
    for name in settings.names():
        stems = [f"{image_folder(settings.size)}/{key(name)}/{name.stem(view)}" for view in range(len(VIEWS))]
        files |= {stem + ending for stem in stems for ending in (".jpg", ".png")}
    for file in files:
        (root / file).unlink(missing_ok=True)
    folders = {parent for file in files for parent in Path(file).parents if parent != Path(".")}
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        if (root / folder).is_dir() and not any((root / folder).iterdir()):
            (root / folder).rmdir()
    (root / JOURNAL).unlink(missing_ok=True)
