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

from mvead_jax.data.safe_paths import unsafe_path
from mvead_jax.rig.cameras import VIEWS
from mvead_jax.rig.layout import SPLITS, SampleName, image_folder
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import sha256, write_json, write_text

VERSION = 1  # raise it when the same settings give other images
MANIFEST, JOURNAL, CAMERAS, LISTS = "rig.json", "rig.partial.jsonl", "cameras.json", "realiad_jsons"

# Sample key -> {"sample", "defective" per view, "files": path -> SHA-256}.
Records = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """What the set is a function of, besides the versions of the libraries that draw it."""

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


def take_over(root: Path, settings: Settings) -> Records:
    """Records of the samples of `settings` that are whole at `root`; the others are to be rendered.

    Raises:
      UserError: `root` holds a set of other settings, files of the same names that the rig did not write, or
        files that changed after it wrote them.
    """
    found = _read_state(root)
    if found is None:
        claimed = [root / CAMERAS, root / LISTS, root / image_folder(settings.size)]
        foreign = [path for path in claimed if path.exists()]
        if foreign:
            raise UserError(f"{foreign[0]}: exists and was not written by the rig; choose another folder")
        return {}
    old, records, texts = found
    new = settings.as_json()
    if old != new:
        fields = sorted(field for field in old.keys() | new.keys() if old.get(field) != new.get(field))
        changed = "; ".join(f"{field} is {old.get(field)!r}, not {new.get(field)!r}" for field in fields)
        raise UserError(f"{root}: holds another rig ({changed}); choose another folder, or delete this one")
    files = texts | {path: digest for record in records.values() for path, digest in record["files"].items()}
    states = {path: _digest(root / path) for path in files}
    changed = [path for path, digest in files.items() if states[path] not in (None, digest)]
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UserError(
            f"{root / changed[0]}{more}: changed since the rig wrote it; delete it to have it made again"
        )
    return {name: one for name, one in records.items() if all(states[path] for path in one["files"])}


def is_finished(root: Path) -> bool:
    """Is there a manifest, and are the lists and cameras it names there? (Samples: see `take_over`.)"""
    found = _read_state(root)
    return found is not None and bool(found[2]) and all((root / path).exists() for path in found[2])


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


def _read_state(root: Path) -> tuple[dict[str, Any], Records, dict[str, str]] | None:
    """Settings, sample records, and digests of the other files (a journal has none); None without a state.

    The manifest or, failing that, the journal.

    Raises:
      UserError: neither is readable as what the rig writes.
    """
    for path in (root / MANIFEST, root / JOURNAL):
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            if path.name == MANIFEST:
                content = json.loads(text)
                settings, records, texts = content["settings"], content["samples"], content["files"]
            else:
                # What follows the last line end is torn: the process was killed while it wrote.
                lines = [json.loads(line) for line in text.split("\n")[:-1]]
                settings, texts = lines[0]["settings"], {}
                records = {record["sample"]: record for record in lines[1:]}
            for record in records.values():
                if len(record["defective"]) != len(VIEWS) or not record["files"]:
                    raise ValueError("odd record")
            for name in [*texts, *(name for record in records.values() for name in record["files"])]:
                if why := unsafe_path(name):
                    raise ValueError(f"{name!r} {why}")
            return dict(settings), dict(records), dict(texts)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(f"{path}: not what the rig writes ({error!r}); choose another folder") from error
    return None


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None if it is not there."""
    try:
        return sha256(path)
    except FileNotFoundError:
        return None
