"""manifest.json: SHA-256 of every file of an artefact; manifest.sha256: that of manifest.json.

So a change of any byte shows, and the one line of manifest.sha256 stands for the whole: who gets that line by
another way than the artefact knows that all of it is what was exported. It is no signature.
"""

from __future__ import annotations

from pathlib import Path

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, sha256, write_json, write_text

MANIFEST, SEAL = "manifest.json", "manifest.sha256"


def seal(artefact: Path) -> None:
    """Writes both files over all others."""
    write_json(artefact / MANIFEST, {name: sha256(artefact / name) for name in _files(artefact)})
    write_text(artefact / SEAL, _seal_of(artefact))


def broken(artefact: Path) -> list[str]:
    """Files that are missing, changed, or not of the artefact, a line each.

    Raises:
      UserError: not an artefact.
    """
    if not (artefact / SEAL).is_file() or not (artefact / MANIFEST).is_file():
        lacking = " and ".join(name for name in (MANIFEST, SEAL) if not (artefact / name).is_file())
        raise UserError(f"{artefact}: lacks {lacking}; not an artefact of mvead export, or not all of it")
    problems = []
    if (artefact / SEAL).read_bytes() != _seal_of(artefact).encode():
        problems.append(f"{MANIFEST} or {SEAL}: changed, for they do not agree")
    try:
        recorded = read_json(artefact / MANIFEST, "the manifest of an artefact")
        if not isinstance(recorded, dict):
            raise UserError(f"{MANIFEST}: not a manifest")
    except UserError as error:
        return [*problems, str(error)]
    files = _files(artefact)
    for name, digest in recorded.items():
        if name not in files:
            problems.append(f"{name}: missing")
        elif (artefact / name).is_symlink():
            problems.append(f"{name}: changed: a link")  # its bytes may become others, unseen
        elif problem := _compared(artefact / name, digest):
            problems.append(f"{name}: {problem}")
    return problems + [f"{name}: not of the artefact" for name in files if name not in recorded]


def _compared(path: Path, digest: str) -> str:
    try:
        return "" if sha256(path) == digest else "changed"
    except OSError as error:
        return f"can't be read ({error.strerror or error})"


def _seal_of(artefact: Path) -> str:
    return f"{sha256(artefact / MANIFEST)}  {MANIFEST}\n"  # as sha256sum writes and checks it


def _files(artefact: Path) -> list[str]:
    """All files but the two, hidden ones too, by path below the artefact."""
    paths = (path for path in artefact.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted({path.relative_to(artefact).as_posix() for path in paths} - {MANIFEST, SEAL})
