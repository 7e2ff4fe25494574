"""Manifests and lists as programs write them (docs/own_data.md)."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

from fake_realiad import edit_list, write_realiad
from image_inputs import HEIGHT, WIDTH, pixels
from input_cases import Case
from mask_inputs import square
from PIL import Image

from mvead_jax.data.readers import open_data

CASES: list[Case] = []


def add(what: str, says: str, run: Callable[[Path], str]) -> None:
    CASES.append(Case("paths and text", what, says, run))


HEAD = "sample,view,path,label,mask,split"


def with_points(line: str) -> str:
    """Return a line with labels as programs write numbers in a column with gaps."""
    return line.replace(",0,", ",0.0,").replace(",1,", ",1.0,")


def manifest(head=HEAD, change=lambda line: line, encode=str.encode, name="ä.png"):
    """Return a case: the index of a manifest of two samples of one view."""

    def run(folder: Path) -> str:
        for at, place in enumerate((name, "b.png", "masks/b.png")):
            (folder / place).parent.mkdir(exist_ok=True)
            Image.fromarray(pixels() + at if at < 2 else square()[:HEIGHT, :WIDTH]).save(folder / place)
        rows = [head, "good/1,top,ä.png,0,,train", "scratch/1,top,b.png,1,masks/b.png,test"]
        (folder / "manifest.csv").write_bytes(encode("\n".join(change(row) for row in rows) + "\n"))
        index = open_data(folder)
        labels = [(sample.split, sample.label, sample.views[0].mask) for sample in index.samples]
        assert labels == [("test", 1, "masks/b.png"), ("train", 0, None)]
        assert all((folder / sample.views[0].image).is_file() for sample in index.samples)
        return "taken"

    return run


add("manifest: semicolons", "taken", manifest(change=lambda line: line.replace(",", ";")))
add("manifest: tabs", "taken", manifest(change=lambda line: line.replace(",", "\t")))
add(
    "manifest: columns and splits in capitals, semicolons",
    "taken",
    manifest(
        "Sample,View,Path,Label,Mask,Split",
        lambda line: line.replace(",", ";").replace("train", "Train").replace("test", "TEST"),
    ),
)
add(
    "manifest: labels 0.0 and 1.0",
    "taken",
    manifest(change=with_points),
)
add("manifest: a byte order mark", "taken", manifest(encode=lambda text: text.encode("utf-8-sig")))
add("manifest: UTF-16 with a byte order mark", "taken", manifest(encode=lambda text: text.encode("utf-16")))
add("manifest: backslashes", "taken", manifest(change=lambda line: line.replace("masks/", "masks\\")))
add(
    "manifest: ä composed in the list, decomposed on the disk",
    "taken",
    manifest(name=unicodedata.normalize("NFD", "ä.png")),
)
add(
    "manifest: ä decomposed in the list, composed on the disk",
    "taken",
    manifest(change=lambda line: unicodedata.normalize("NFD", line)),
)
add(
    "manifest: Latin letters of one byte",
    'refused: not UTF-8; save it as "CSV UTF-8"',
    manifest(encode=lambda text: text.encode("latin-1")),
)


def lists(change=lambda content: None, encode=str.encode, prepare=lambda root: None):
    """Return a case: the index of a small data set in Real-IAD's layout whose list was changed."""

    def run(folder: Path) -> str:
        root = write_realiad(folder, categories=("cap",), train=2, normal=1, defective=1, views=2, size=16)
        before = open_data(root).samples
        edit_list(root, "cap", change)
        path = root / "realiad_jsons/cap.json"
        path.write_bytes(encode(path.read_text()))
        prepare(root)
        found = open_data(root).samples
        assert [(s.id, s.label, [bool(v.mask) for v in s.views]) for s in found] == [
            (s.id, s.label, [bool(v.mask) for v in s.views]) for s in before
        ]
        assert all((root / view.image).is_file() for sample in found for view in sample.views)
        return "taken"

    return run


def entries(content: dict) -> list[dict]:
    return content["train"] + content["test"]


def backslashes(content: dict) -> None:
    content["meta"]["prefix"] = "cap\\"
    for entry in entries(content):
        entry["image_path"] = entry["image_path"].replace("/", "\\")
        entry["mask_path"] = entry["mask_path"] and entry["mask_path"].replace("/", "\\")


def decomposed(root: Path) -> None:
    """Move the images below a folder whose name the list spells with other code points."""
    folder = root / "realiad_64/cap"
    (folder / "OK").rename(folder / unicodedata.normalize("NFD", "gütig"))

    def change(content: dict) -> None:
        for entry in entries(content):
            entry["image_path"] = entry["image_path"].replace("OK/", "gütig/")

    edit_list(root, "cap", change)


add("Real-IAD: a byte order mark", "taken", lists(encode=lambda text: text.encode("utf-8-sig")))
add("Real-IAD: UTF-16 with a byte order mark", "taken", lists(encode=lambda text: text.encode("utf-16")))
add("Real-IAD: backslashes in paths and prefix", "taken", lists(backslashes))
add(
    "Real-IAD: an empty mask_path",
    "taken",
    lists(lambda content: [e.update(mask_path=e["mask_path"] or "") for e in entries(content)]),
)
add("Real-IAD: a folder composed in the list, decomposed on the disk", "taken", lists(prepare=decomposed))
add(
    "Real-IAD: Latin letters of one byte",
    "refused: not JSON ('utf-8' codec can't decode",
    lists(
        lambda content: content["meta"].update(note="ü"),
        lambda text: json.dumps(json.loads(text), ensure_ascii=False).encode("latin-1"),
    ),
)
