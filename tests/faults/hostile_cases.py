"""Hostile input, each with what the program says: for test_hostile_data.py, and for the table in the docs.

    PYTHONPATH=tests python tests/faults/hostile_cases.py    prints the table

A case makes its input in an empty folder and feeds it to the function that the scripts call. What comes back
is the line of the error, or what was made of it.
"""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fake_realiad import edit_list, write_realiad
from PIL import Image

from mvead_jax.backbones.dinov2.params import load_dinov2
from mvead_jax.bank.fill import Bank
from mvead_jax.data.file_check import check_files
from mvead_jax.data.images import image_size, open_image
from mvead_jax.data.new_images import load_new_images
from mvead_jax.data.readers import open_data, open_pictures
from mvead_jax.data.realiad import load_index
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.runtime.errors import UserError, printable
from mvead_jax.runtime.files import read_json
from mvead_jax.scoring.model_store import FACTS, STATE, read_facts, read_state


class Case(NamedTuple):
    """what: the input, for people. says: a part of the answer. run: makes it in a folder, and feeds it."""

    what: str
    says: str
    run: Callable[[Path], object]


CASES: list[Case] = []


def case(what: str, says: str):
    def add(run):
        CASES.append(Case(what, says, run))
        return run

    return add


def answer(one: Case, folder: Path) -> str:
    """What the program says, in one line, without the folder."""
    try:
        text = f"taken: {one.run(folder)}"
    except UserError as error:
        lines = str(error).split("\n")
        text = f"refused: {lines[0] if len(lines) == 1 else ' / '.join(map(str.strip, lines[:3]))}"
    return printable(text.replace(str(folder.resolve()), "ROOT").replace(str(folder), "ROOT"))


# ---- lists


def changed_list(change, **options):
    """The index of a small data set, one list of which was changed."""

    def run(folder):
        write_realiad(folder, categories=("cap",), train=2, normal=1, defective=1, views=2, size=16)
        edit_list(folder, "cap", lambda content: change(content, folder))
        return f"{len(load_index(folder, **options))} samples"

    return run


def text_of_list(make):
    """The index of a data set whose list is some text."""

    def run(folder):
        write_realiad(folder, categories=("cap",), train=1, normal=0, defective=0, views=1, size=16)
        (folder / "realiad_jsons/cap.json").write_bytes(make())
        return f"{len(load_index(folder))} samples"

    return run


def entry(**changes):
    return changed_list(lambda content, folder: content["train"][0].update(changes))


def add(what, says, run):
    CASES.append(Case(what, says, run))


add("JSON: a path with ..", "leaves the image folder by '..'", entry(image_path="../../../etc/passwd"))
add("JSON: an absolute path", "is absolute", entry(image_path="/etc/passwd"))
add("JSON: a Windows path", "is absolute", entry(image_path="C:\\\\secret.jpg"))
add("JSON: a NUL in a path", "NUL character", entry(image_path="OK/a\0.jpg"))
add("JSON: an escape sequence in a path", "control character", entry(image_path="OK/\x1b[2J.jpg"))
add("JSON: half a surrogate in a path", "half of a character", entry(image_path="OK/\ud800.jpg"))
add("JSON: a path of 100,000 letters", "no such file", entry(image_path="a" * 100_000 + ".jpg"))
add("JSON: a number for a path", "is not a file name", entry(image_path=7))
add("JSON: NaN for a path", "is not a file name", entry(image_path=float("nan")))
add("JSON: a list for a path", "is not a file name", entry(image_path=[["x"]]))
add("JSON: an object for a class", "is not a name", entry(anomaly_class={"a": 1}))
add("JSON: another category", "category is 'usb', not 'cap'", entry(category="usb"))
add("JSON: a mask with ..", "leaves the image folder by '..'", entry(mask_path="../x.png"))
add(
    "JSON: a prefix with ..",
    "meta.prefix '../..' leaves the image folder",
    changed_list(lambda content, folder: content["meta"].update(prefix="../..")),
)
add(
    "JSON: an entry that is a number",
    "is not an object with category",
    changed_list(lambda content, folder: content["train"].append(3)),
)
add(
    "JSON: the same image twice",
    "has view C1 twice, keep one",
    changed_list(lambda content, folder: content["train"].append(content["train"][0])),
)
add(
    "JSON: the same image in both splits",
    "listed in both splits; keep one entry",
    changed_list(lambda content, folder: content["test"].extend(content["train"])),
)
add(
    "JSON: two of one id in both splits",
    "listed in both splits; keep one entry",
    changed_list(lambda content, folder: content["test"].append(content["train"][0])),
)
add("JSON: 100,000 brackets deep", "not JSON (maximum recursion", text_of_list(lambda: b"[" * 100_000))
add(
    "JSON: a number of 10,000 digits",
    "not JSON (Exceeds the limit",
    text_of_list(lambda: b"[" + b"1" * 10_000),
)
add("JSON: not UTF-8", "not JSON ('utf-8' codec can't", text_of_list(lambda: b'{"meta": "\xff\xfe"}'))
add("JSON: empty", "not JSON (Expecting value", text_of_list(lambda: b""))
add("JSON: null", "needs 'meta' to be an object", text_of_list(lambda: b"null"))
add(
    "JSON: a list of 10 million numbers (20 MB)",
    "1001 problems",
    text_of_list(lambda: b'{"meta": {"prefix": "cap/"}, "test": [], "train": [' + b"1," * 9_999_999 + b"1]}"),
)
add(
    "JSON: a list of 10 million empty objects, 80 MB",
    "a list has at most 67108864",
    text_of_list(lambda: b'{"meta": {}, "test": [], "train": [' + b"{},     " * 9_999_999 + b"{}]}"),
)


@case("a list called `...json`: a category `..`", "begins with a dot")
def _(folder):
    write_realiad(folder, categories=("cap",), train=1, normal=0, defective=0, views=1, size=16)
    (folder / "realiad_jsons/cap.json").rename(folder / "realiad_jsons/...json")
    edit_list(folder, "..", lambda content: [one.update(category="..") for one in content["train"]])
    return f"{len(load_index(folder))} samples"


def linked(make, **options):
    """A data set in which an image was replaced by what `make(path, outside)` puts there."""

    def run(folder):
        root = write_realiad(
            folder / "data", categories=("cap",), train=2, normal=0, defective=0, views=1, size=16
        )
        outside = folder / "secret.jpg"
        Image.new("RGB", (16, 16)).save(outside)
        path = next(root.rglob("*_0001_*.jpg"))
        path.unlink()
        make(path, outside)
        return f"{len(load_index(root))} samples"

    return run


def listed_by(make):
    """A data set whose list was moved out of it, and replaced by what `make(path, outside)` puts there."""

    def run(folder):
        root = write_realiad(
            folder / "data", categories=("cap",), train=1, normal=0, defective=0, views=1, size=16
        )
        path = root / "realiad_jsons/cap.json"
        path.rename(folder / "cap.json")
        make(path, folder / "cap.json")
        return f"{len(load_index(root))} samples"

    return run


add("JSON: a pipe", "no such file", listed_by(lambda path, outside: os.mkfifo(path)))
add("JSON: a link to /dev/zero", "no such file", listed_by(lambda path, _: path.symlink_to("/dev/zero")))
add(
    "JSON: a link out of the root",
    "cap.json: is a link out of",
    listed_by(lambda path, outside: path.symlink_to(outside)),
)
add(
    "JSON: the folder of lists links out of the root",
    "cap.json: its folder is a link out of",
    listed_by(lambda path, outside: (path.parent.rmdir(), path.parent.symlink_to(outside.parent))),
)
add("a link out of the root", "is a link out of", linked(lambda path, outside: path.symlink_to(outside)))
add("a link to itself", "no such file", linked(lambda path, outside: path.symlink_to(path)))
add("a link to nothing", "no such file", linked(lambda path, outside: path.symlink_to("gone.jpg")))
add("a pipe called .jpg", "no such file", linked(lambda path, outside: os.mkfifo(path)))


@case("a folder that links out of the root", "its folder is a link out of")
def _(folder):
    root = write_realiad(
        folder / "data", categories=("cap",), train=1, normal=0, defective=0, views=1, size=16
    )
    place = next(root.rglob("S0001"))
    place.rename(folder / "S0001")
    place.symlink_to(folder / "S0001")
    return f"{len(load_index(root))} samples"


def pictures(name, make=None):
    """`score.py --input` of a folder with one file."""

    def run(folder):
        (folder / "in").mkdir()
        path = os.fsencode(folder / "in") + b"/" + name
        (make or (lambda path: Image.new("RGB", (16, 16)).save(os.fsdecode(path), "JPEG")))(path)
        return f"{len(load_new_images(folder / 'in'))} samples"

    return run


add("--input: a name that is not UTF-8", "half of a character", pictures(b"cap_0001_OK_C1_\xff.jpg"))
add("--input: a line break in a name", "control character", pictures(b"cap_0001_OK_C1_a\nb.jpg"))
add("--input: a pipe called .jpg", "no such file", pictures(b"cap_0001_OK_C1_1.jpg", os.mkfifo))
add(
    "--input: a link out of the folder",
    "is a link out of",
    pictures(b"cap_0001_OK_C1_1.jpg", lambda path: os.symlink("/etc/passwd", path)),
)


@case("--input: 200 folders in one another", "more than 20 folders in one another")
def _(folder):
    (folder / "in").joinpath(*["a"] * 200).mkdir(parents=True)
    return f"{len(open_pictures(folder / 'in', {'cap': ['C1']}))} samples"


@case("--input: a .png that may be a mask or an image", "a mask without its image, or an image among")
def _(folder):
    (folder / "in").mkdir()
    for name in ("C1_1.jpg", "C2_1.png"):
        Image.new("RGB", (16, 16)).save(folder / f"in/cap_0001_NG_HS_{name}")
    return f"{len(load_new_images(folder / 'in'))} samples"


# ---- folders and manifests of one's own


def own_folder(change):
    def run(folder):
        root = folder / "own"
        for split in ("train/good", "test/good", "test/scratch"):
            for sample in ("1", "2"):
                (root / split / sample).mkdir(parents=True)
                Image.new("RGB", (16, 16), (90, 90, 90)).save(root / split / sample / "top.png")
        change(root)
        return f"{len(open_data(root))} samples"

    return run


def manifest(rows, head="sample,view,path,label,mask,split"):
    def run(folder):
        Image.new("RGB", (16, 16)).save(folder / "a.png")
        Image.new("RGB", (16, 16)).save(folder.parent / "outside.png")
        good = "9,top,a.png,0,,train"
        text = rows if isinstance(rows, bytes) else "\n".join([head, *rows, good]).encode()
        (folder / "manifest.csv").write_bytes(text)
        return f"{len(open_data(folder))} samples"

    return run


add(
    "folder: an image that links out",
    "is a link out of",
    own_folder(
        lambda root: (
            (root / "train/good/1/top.png").unlink(),
            (root / "train/good/1/top.png").symlink_to("/etc/passwd"),
        )
    ),
)
add(
    "folder: a sample called with an escape sequence",
    "control character",
    own_folder(lambda root: (root / "train/good/1").rename(root / "train/good/\x1b[2J")),
)
add(
    "folder: 20 views of other names",
    "at most 16",
    own_folder(
        lambda root: [Image.new("RGB", (4, 4)).save(root / f"train/good/1/v{n}.png") for n in range(20)]
    ),
)
add(
    "manifest: a path with ..", "leaves the image folder by '..'", manifest(["1,top,../outside.png,0,,train"])
)
add("manifest: an absolute path", "is absolute", manifest(["1,top,/etc/passwd,0,,train"]))
add("manifest: a view called ../x", "holds a slash", manifest(["1,../x,a.png,0,,train"]))
add(
    "manifest: a category called ..",
    "begins with a dot",
    manifest(["1,top,a.png,0,,train,.."], "sample,view,path,label,mask,split,category"),
)
add("manifest: a label of 2", "label '2'; write 0, 1", manifest(["1,top,a.png,2,,train"]))
add("manifest: a row of another length", "another number of values", manifest(["1,top"]))
add("manifest: a quote that never ends", "not a CSV", manifest([f'1,"{"x" * 200_000}']))
add("manifest: not UTF-8", "not UTF-8", manifest(b"sample,view,path,label,mask,split\n\xff\xfe"))
add("manifest: NUL bytes", "holds a slash or a control character", manifest(["1,t\0p,a.png,0,,train"]))

add("manifest: 70 MB", "a manifest has at most 67108864 bytes", manifest(b"1,top\n" * 11_700_000))
add("manifest: a million wrong lines", "1001 problems", manifest(["1,top"] * 1_000_000))


@case("manifest: a link out of the folder", "manifest.csv: is a link out of")
def _(folder):
    (folder / "data").mkdir()
    (folder / "manifest.csv").write_text("sample,view,path,label,mask,split\n")
    (folder / "data/manifest.csv").symlink_to(folder / "manifest.csv")
    return f"{len(open_data(folder / 'data'))} samples"


# ---- images


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth=8, colour=2, pixels=b"", before=b""):
    """A PNG whose header may lie."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + before
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


def noise(width=40, height=30):
    levels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def picture(content, name="x.jpg"):
    """What open_image makes of bytes."""

    def run(folder):
        path = folder / name
        path.write_bytes(content() if callable(content) else content)
        size = image_size(path)
        image = open_image(path)
        assert image.size == size
        return f"{image.width} x {image.height} {image.mode}"

    return run


def turned(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def tags_of(tiff):
    """Where the list of tags of a small-endian TIFF of one page begins, and how many there are."""
    start = struct.unpack_from("<I", tiff, 4)[0]
    return start, struct.unpack_from("<H", tiff, start)[0]


def retyped(tiff, tag, kind):
    """A TIFF one of whose tags says that it is of another type."""
    tiff = bytearray(tiff)
    start, count = tags_of(tiff)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", tiff, at)[0] == tag:
            struct.pack_into("<H", tiff, at + 2, kind)
    return bytes(tiff)


def pages(count):
    """A TIFF of many pages, all with the pixels of the first."""
    tiff = bytearray(encoded(noise(4, 4), "TIFF"))
    start, own = tags_of(tiff)
    tiff += bytes(len(tiff) % 2)
    struct.pack_into("<I", tiff, start + 2 + 12 * own, len(tiff))
    page = tiff[start : start + 2 + 12 * own]
    for left in range(count - 1, 0, -1):
        tiff += page
        tiff += struct.pack("<I", len(tiff) + 4 if left > 1 else 0)
    return bytes(tiff)


several = {"save_all": True, "append_images": [noise().rotate(180)]}
add("image: zero bytes", "not an image in", picture(b""))
add(
    "image: HTML called .jpg",
    "not an image in",
    picture(b"<!DOCTYPE html><html><script>alert(1)</script>"),
)
add("image: a GIF called .jpg", "not an image in", picture(lambda: encoded(noise(), "GIF")))
add("image: PNG of 60,000 x 60,000 in 100 bytes", "exceeds limit of", picture(png(60_000, 60_000)))
add("image: PNG of 9,000 x 9,000 in 100 bytes", "at most 80000000 are read", picture(png(9000, 9000)))
add("image: PNG of 8,000 x 8,000 in 100 bytes", "damaged PNG image", picture(png(8000, 8000)))
add("image: PNG of no width", "not an image in", picture(png(0, 10)))
add(
    "image: 80 MB of text packed into a PNG",
    "Decompressed data too large",
    picture(lambda: png(4, 4, before=chunk(b"zTXt", b"C\0\0" + zlib.compress(b"a" * 80_000_000)))),
)
add("image: half a JPEG", "damaged JPEG image", picture(lambda: encoded(noise(), "JPEG")[:1000]))
add("image: 20 bytes of a JPEG", "not an image in", picture(lambda: encoded(noise(), "JPEG")[:20]))
add("image: CMYK", "40 x 30 RGB", picture(lambda: encoded(noise().convert("CMYK"), "JPEG")))
add("image: a palette", "40 x 30 RGB", picture(lambda: encoded(noise().convert("P"), "PNG")))
add(
    "image: with transparency (dropped)",
    "40 x 30 RGB",
    picture(lambda: encoded(noise().convert("RGBA"), "PNG")),
)
add(
    "image: a palette with transparency (dropped)",
    "40 x 30 RGB",
    picture(lambda: encoded(noise().convert("P"), "PNG", transparency=bytes(256))),
)
add(
    "image: 16-bit grey, values beyond data.bit_depth",
    "its largest value is 4000, more than the 255 of 8 bits",
    picture(lambda: encoded(Image.fromarray(np.full((9, 9), 4000, np.uint16)), "PNG")),
)
add(
    "image: 16-bit RGB, values beyond data.bit_depth",
    "its largest value is 4096, more than the 255 of 8 bits",
    picture(lambda: png(4, 4, 16, 2, (b"\0" + b"\x10\0" * 12) * 4)),
)
add(
    "image: 16-bit RGB, half of its rows",
    "damaged, or a kind of 16-bit image that is not read",
    picture(lambda: png(64, 64, 16, 2, (b"\0" + b"\x10\0" * 192) * 30)),
)
add(
    "image: floating point",
    "floating-point pixels; save it with 8 or 16 bits",
    picture(lambda: encoded(noise().convert("F"), "TIFF")),
)
for value, shape in ((3, "40 x 30"), (6, "30 x 40"), (8, "30 x 40")):
    add(
        f"image: EXIF orientation {value} (applied)",
        f"{shape} RGB",
        picture(lambda value=value: encoded(noise(), "JPEG", exif=turned(value))),
    )
add("image: EXIF orientation 77", "40 x 30 RGB", picture(lambda: encoded(noise(), "JPEG", exif=turned(77))))
add(
    "image: an animated PNG",
    "several images in one file",
    picture(lambda: encoded(noise(), "PNG", **several)),
)
add(
    "image: an animated WebP",
    "several images in one file",
    picture(lambda: encoded(noise(), "WEBP", **several)),
)
add(
    "image: a TIFF of two pages",
    "several images in one file",
    picture(lambda: encoded(noise(), "TIFF", **several)),
)
add(
    "image: a TIFF of 20,000 pages (3 MB)",
    "several images in one file",
    picture(lambda: pages(20_000)),
)
add(
    "image: a TIFF whose offsets are text",
    "damaged TIFF image",
    picture(lambda: retyped(encoded(noise(), "TIFF"), 273, 2)),
)
add(
    "image: a JPEG with a second one behind it (MPO: its first)",
    "40 x 30 RGB",
    picture(lambda: encoded(noise(), "MPO", save_all=True, append_images=[noise(20, 10)])),
)
add("image: 1 x 1", "1 x 1 RGB", picture(lambda: encoded(noise(1, 1), "PNG")))
add("image: 30,000 x 2", "30000 x 2 RGB", picture(lambda: encoded(noise(30_000, 2), "PNG")))


@case("a mask that was not turned with its image", "mask of 40 x 30 pixels, its image has 30 x 40")
def _(folder):
    root = write_realiad(folder, categories=("cap",), train=1, normal=0, defective=1, views=1, size=16)
    mask = next(root.rglob("*.png"))
    noise().convert("L").point(lambda level: 255 * (level > 127)).save(mask)
    noise().save(mask.with_suffix(".jpg"), exif=turned(6))
    check_files(load_index(root))


# ---- safetensors and JSON of a workdir


def tensors(content):
    """The state of a model with one bank of four features, made of bytes."""

    def run(folder):
        (folder / STATE).write_bytes(content() if callable(content) else content)
        state = read_state(folder, {"banks": {"C1": Bank.before_filling(4)}})
        return str(state["banks"]["C1"].rows.shape)

    return run


def header(value, size=None, body=b""):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def bank(kind, shape, size, sample=16):
    """The header of a bank with four rows, and its bytes. size: of the rows. sample: where whose they are begins."""
    entries = {"banks/C1/rows": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}
    entries["banks/C1/sample"] = {"dtype": "I32", "shape": [4], "data_offsets": [sample, sample + 16]}
    return entries


NO_STATE = "not the state of this model"
add("safetensors: empty", NO_STATE, tensors(b""))
add("safetensors: a header of 2^63 bytes", NO_STATE, tensors(header(b"{}", 2**63)))
add("safetensors: a header of 10^9 bytes, said", NO_STATE, tensors(header(b"{}", 10**9)))
add("safetensors: a header longer than the file", NO_STATE, tensors(header(b"{}", 100)))
add("safetensors: no JSON in the header", NO_STATE, tensors(header(b"\xff\xfe{}")))
add("safetensors: deep nesting", NO_STATE, tensors(header(b'{"a":' * 5000)))
add("safetensors: numbers beyond the end", NO_STATE, tensors(header(bank("F32", [1, 4], 16))))
add(
    "safetensors: a shape that is not its bytes",
    NO_STATE,
    tensors(header(bank("F32", [2**40, 2**20], 16), body=bytes(32))),
)
add(
    "safetensors: two tensors over one another",
    NO_STATE,
    tensors(header(bank("F32", [1, 4], 16, sample=0), body=bytes(16))),
)
add(
    "safetensors: a bank of text bytes",
    "holds U8 [4, 4], not rows of features",
    tensors(header(bank("U8", [4, 4], 16), body=bytes(32))),
)
add(
    "safetensors: a bank that is no table",
    "holds F32 [4], not rows of features",
    tensors(header(bank("F32", [4], 16), body=bytes(32))),
)
add(
    "safetensors: no rows",
    "holds F32 [0, 4], not rows of features",
    tensors(header(bank("F32", [0, 4], 0, sample=0), body=bytes(16))),
)
add(
    "safetensors: rows of another width",
    "is 2 wide, expected 4",
    tensors(header(bank("F32", [2, 2], 16), body=bytes(32))),
)
add("safetensors: no bank", "it lacks banks/C1/rows", tensors(header({})))


@case("facts.json: 100,000 brackets deep", "not readable as JSON (maximum recursion depth")
def _(folder):
    (folder / FACTS).write_text("[" * 100_000)
    return read_facts(folder)


@case("weights: a config.json 100,000 brackets deep", "is not JSON")
def _(folder):
    (folder / "config.json").write_text("[" * 100_000)
    (folder / "model.safetensors").write_bytes(b"")
    return load_dinov2(folder)


@case("manifest.json: a path with ..", "not a manifest; delete it and train again")
def _(folder):
    (folder / "manifest.json").write_text('{"models/../../../etc/passwd": "00"}')
    Manifest(folder)


@case("manifest.json: a number for a digest", "not a manifest; delete it and train again")
def _(folder):
    (folder / "manifest.json").write_text('{"models/cap/state.safetensors": 7}')
    Manifest(folder)


@case("config.json: 100,000 brackets deep", "not readable as JSON (maximum recursion depth")
def _(folder):
    (folder / "config.json").write_text("[" * 100_000)
    read_json(folder / "config.json", "a workdir of train.py")


def main() -> None:
    print("| input | what the program says |\n|---|---|")
    for one in CASES:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "x").mkdir()
            said = answer(one, Path(folder) / "x")
        said = said if len(said) < 200 else f"{said[:90]} ... {said[-100:]}"
        print(f"| {one.what} | `{said.replace('`', chr(39)).replace('|', '/')}` |")


if __name__ == "__main__":
    main()
