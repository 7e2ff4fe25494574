"""Images of another shape than in training (docs/own_data.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from input_cases import Case, of_check, own_data
from PIL import Image

CASES: list[Case] = []


def add(what: str, says: str, run: Callable[[Path], str]) -> None:
    CASES.append(Case("shape", what, says, run))


def shaped(width: int, height: int, **fields):
    """Return a case: the check of a data set whose test images of good samples have another size."""

    def run(folder: Path) -> str:
        root = own_data(folder, (128, 64))
        (path,) = root.glob("test/good/*/top.png")
        Image.open(path).resize((width, height)).save(path)
        return of_check(root, **fields)

    return run


add("as in training", "taken", shaped(128, 64))
add(
    "turned by a quarter",
    "noted: an image of view top of another shape than in training",
    shaped(64, 128),
)
add("a crop", "noted: an image of view top of another shape than in training", shaped(100, 64))
add("half as large", "noted: an image of view top of another size than in training", shaped(64, 32))
add(
    "turned by a quarter, and `data.strict`",
    "refused: (64 x 128 pixels, in training 128 x 64): it is stretched; crop or turn it as there",
    shaped(64, 128, strict=True),
)
