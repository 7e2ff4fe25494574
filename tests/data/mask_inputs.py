"""Masks as people draw them (docs/own_data.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from input_cases import SIDE, Case, of_check, own_data
from PIL import Image, ImageDraw

CASES: list[Case] = []


def add(what: str, says: str, run: Callable[[Path], str]) -> None:
    CASES.append(Case("masks", what, says, run))


def mask(make: Callable[[], Image.Image], form: str = "PNG", **options):
    """Return a case: the check of a data set whose one mask is what `make` draws."""

    def run(folder: Path) -> str:
        root = own_data(folder)
        (path,) = root.glob("ground_truth/*/*/*.png")
        make().save(path, form, **options)
        return of_check(root)

    return run


def square(level=255, background=0, size=SIDE) -> np.ndarray:
    """Return a mask with one square defect."""
    levels = np.full((size, size), background, np.uint8)
    levels[size // 8 : size // 2, size // 8 : size // 3] = level
    return levels


def grey(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(levels)


def with_second(level: int, side: int = 8) -> np.ndarray:
    """Return a mask with a second defect at another level."""
    levels = square()
    levels[SIDE - 4 - side : SIDE - 4, SIDE - 4 - side : SIDE - 4] = level
    return levels


def in_alpha(mode: str) -> Image.Image:
    """Return a mask that is white everywhere and marks the defect in its alpha channel."""
    white = Image.new("L", (SIDE, SIDE), 255)
    return Image.merge(mode, [white] * (len(mode) - 1) + [grey(square())])


def coloured(*colours: tuple[int, int, int]) -> Image.Image:
    """Return a mask whose defects have colours, side by side."""
    image = Image.new("RGB", (SIDE, SIDE))
    for number, colour in enumerate(colours):
        image.paste(colour, (4 + 20 * number, 10, 16 + 20 * number, 40))
    return image


def palette(*colours: tuple[int, int, int], **info) -> Image.Image:
    """Return a mask of palette numbers: the background has the first colour, the defect the last."""
    image = Image.fromarray(square(len(colours) - 1), "P")
    image.putpalette([level for colour in colours for level in colour])
    return image


def resized(levels: np.ndarray, size: int, method=Image.Resampling.BILINEAR) -> Image.Image:
    return grey(levels).resize((size, size), method)


def scratch(width: int) -> Image.Image:
    """Return a thin scratch, drawn large and made small: hardly a pixel of it is white."""
    image = Image.new("L", (8 * SIDE, 8 * SIDE))
    ImageDraw.Draw(image).line([(40, 60), (200, 330), (470, 420)], fill=255, width=width)
    return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


add("grey, 0 and 255", "taken", mask(lambda: grey(square())))
add("one bit a pixel", "taken", mask(lambda: grey(square()).convert("1")))
add("grey, 0 and 200", "taken", mask(lambda: grey(square(200))))
add("RGB, black and white", "taken", mask(lambda: grey(square()).convert("RGB")))
add("RGBA, black and white, opaque", "taken", mask(lambda: grey(square()).convert("RGBA")))
add("a palette of black and white", "taken", mask(lambda: palette((0, 0, 0), (255, 255, 255))))
add(
    "16 bits a channel, 0 and 65535",
    "taken",
    mask(lambda: Image.fromarray(square().astype(np.uint16) * 257)),
)
add("16 bits a channel, 0 and 255", "taken", mask(lambda: Image.fromarray(square().astype(np.uint16))))
add("soft edges, made smaller", "taken", mask(lambda: resized(square(size=500), SIDE)))
add(
    "soft edges, made larger",
    "taken",
    mask(lambda: resized(square(size=20), SIDE, Image.Resampling.BICUBIC)),
)
add("a thin scratch, most of whose pixels are grey", "taken", mask(lambda: scratch(9)))
add("a JPEG", "taken", mask(lambda: grey(square()), "JPEG", quality=75))
add(
    "white everywhere, the defect in alpha (RGBA)",
    "refused: its transparency varies (alpha 0 to 255)",
    mask(lambda: in_alpha("RGBA")),
)
add(
    "white everywhere, the defect in alpha (grey with alpha)",
    "refused: its transparency varies (alpha 0 to 255)",
    mask(lambda: in_alpha("LA")),
)
add(
    "a palette of one white, of which one entry is transparent",
    "refused: its transparency varies (alpha 0 to 255)",
    mask(lambda: palette((255, 255, 255), (255, 255, 255)), transparency=0),
)
add("a red defect", "refused: holds colours", mask(lambda: coloured((255, 0, 0))))
add("a red and a green defect", "refused: holds colours", mask(lambda: coloured((255, 0, 0), (0, 255, 0))))
add(
    "a white and a dark blue defect",
    "refused: holds colours",
    mask(lambda: coloured((255, 255, 255), (0, 0, 90))),
)
add(
    "a palette of colours by kind of defect",
    "refused: holds colours",
    mask(lambda: palette((0, 0, 0), (0, 0, 255), (250, 250, 0))),
)
add(
    "a defect at grey 100 beside one at 255",
    "refused: lies between black and white, and not at edges",
    mask(lambda: grey(with_second(100))),
)
add(
    "numbers of kinds (1, 2) with 255 for what is not known",
    "refused: lies between black and white, and not at edges",
    mask(lambda: grey(np.maximum(with_second(2), square(1, size=SIDE).T))),
)
add(
    "a defect at grey 100, three pixels wide",
    "refused: lies between black and white, and not at edges",
    mask(lambda: grey(with_second(100, side=3))),
)
add(
    "soft edges, and a defect at grey 90",
    "refused: lies between black and white, and not at edges",
    mask(
        lambda: grey(
            np.maximum(np.asarray(resized(square(size=500), SIDE)), with_second(90) * (square() == 0))
        )
    ),
)
add(
    "a JPEG with a defect at grey 100",
    "refused: lies between black and white, and not at edges",
    mask(lambda: grey(with_second(100, side=20)), "JPEG", quality=80),
)
add(
    "0 and 1",
    "refused: its brightest pixel is 1 of 255, a defect is above 127; write 0 and 255",
    mask(lambda: grey(square(1))),
)
add(
    "0 and 100",
    "refused: its brightest pixel is 100 of 255, a defect is above 127; write 0 and 255",
    mask(lambda: grey(square(100))),
)
add(
    "of another size than its image",
    "refused: mask of 32 x 32 pixels, its image has 64 x 64",
    mask(lambda: grey(square(size=32))),
)
add(
    "inverted: white where the object is good",
    "noted: 1 mask marks more than half of the image",
    mask(lambda: grey(255 - square())),
)
add(
    "all white",
    "noted: 1 mask marks more than half of the image (ground_truth/scratch/teil 00/top.png marks 100%)",
    mask(lambda: Image.new("L", (SIDE, SIDE), 255)),
)
add(
    "a second scratch that is nowhere above 127",
    "noted: 1 mask marks regions that are nowhere above 127 of 255",
    mask(
        lambda: grey(np.maximum(square(), np.asarray(scratch(3).transpose(Image.Transpose.ROTATE_180)) // 3))
    ),
)
