"""The three readers of a data set's lists and that of images, fed what nobody would write: they answer, or
refuse in printable lines; nothing else is raised and nothing outside the root is opened."""

import csv
import io
import json
import os
import random
import shutil
import time
from contextlib import redirect_stderr

import pytest
from hostile_cases import encoded, noise, turned
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mvead_jax.data.images import image_size, open_image
from mvead_jax.data.loading import preprocess
from mvead_jax.data.readers import open_data
from mvead_jax.data.records import DatasetIndex
from mvead_jax.runtime.errors import UserError, report

EXAMPLES = int(os.environ.get("MVEAD_JAX_FUZZ", "300"))  # of each reader
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
GOOD = "OK/S0001/cap_0001_OK_C1_1.jpg"
STRANGE = st.sampled_from(
    [
        "..",
        "../x.jpg",
        "/etc/passwd",
        "C:/x.jpg",
        "\0",
        "\ud800",
        "\x1b[2J",
        "",
        " ",
        ".",
        "a" * 300,
        "=1+1",
        "<script>",
    ]
)
WORDS = STRANGE | st.text(max_size=20)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {
        "category": st.just("cap") | ANYTHING,
        "anomaly_class": st.sampled_from(["OK", "HS"]) | ANYTHING,
        "image_path": st.sampled_from([GOOD, GOOD.replace("C1", "C2"), "link.jpg"]) | ANYTHING,
        "mask_path": st.none() | ANYTHING,
    }
)
ENTRIES = st.lists(ENTRY | ANYTHING, max_size=6) | ANYTHING
LIST = st.fixed_dictionaries(
    {
        "meta": st.fixed_dictionaries(
            {"prefix": st.just("cap/") | ANYTHING, "normal_class": st.just("OK") | ANYTHING}
        )
        | ANYTHING,
        "train": ENTRIES,
        "test": ENTRIES,
    }
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two images in Real-IAD's layout, and a link out."""
    root = tmp_path_factory.mktemp("fuzz")
    folder = root / "realiad_16/cap"
    for view in ("C1", "C2"):
        path = folder / GOOD.replace("C1", view)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    (folder / "link.jpg").symlink_to("/etc/passwd")
    (root / "realiad_jsons").mkdir()
    return root


def broken_promises(root):
    """What every answer of a reader promises and this one does not keep. It is an index or a refusal."""
    try:
        index = open_data(root)
    except UserError as error:
        shown = io.StringIO()
        with redirect_stderr(shown):
            report(error)
        text = shown.getvalue()
        unprintable = [line for line in text.splitlines() if not line.isprintable()]
        return unprintable + ["a refusal that nobody reads"] * (len(text) >= 100_000)
    assert isinstance(index, DatasetIndex)
    found = [f"{sample.id}: no view" for sample in index.samples if not sample.views]
    for sample in index.samples:
        for view in sample.views:
            paths = [index.root / path for path in (view.image, view.mask) if path is not None]
            found += [str(path) for path in paths if not path.resolve().is_relative_to(index.root.resolve())]
            found += [f"{sample.id}: label {view.label!r}"] * (view.label not in (0, 1, None))
    return found


@BOUNDED
@given(content=LIST | ANYTHING)
def test_json_lists(root, content):
    (root / "realiad_jsons/cap.json").write_text(json.dumps(content))
    assert broken_promises(root) == []


@BOUNDED
@given(content=st.binary(max_size=200), valid=st.booleans())
def test_json_bytes(root, content, valid):
    start = b'{"meta": {"prefix": "cap/"}, "train": [' if valid else b""
    (root / "realiad_jsons/cap.json").write_bytes(start + content)
    assert broken_promises(root) == []


CELLS = st.sampled_from(["top", "a.png", "b.png", "0", "1", "train", "test", "good/1", "link.png"]) | WORDS
HEAD = ["sample", "view", "path", "label", "mask", "split"]


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    root = tmp_path_factory.mktemp("listed")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(root / name)
    (root / "link.png").symlink_to("/etc/passwd")
    return root


@BOUNDED
@given(
    head=st.just(HEAD) | st.just([*HEAD, "category", "sample_label"]) | st.lists(CELLS, max_size=9),
    rows=st.lists(st.lists(CELLS, min_size=5, max_size=8), max_size=5),
    good=st.booleans(),
)
def test_manifests(listed, head, rows, good):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([head, *rows, *([["9", "top", "a.png", "0", "", "train"]] if good else [])])
    (listed / "manifest.csv").write_bytes(file.getvalue().encode(errors="surrogatepass"))
    assert broken_promises(listed) == []


def test_what_is_right_is_read_and_not_refused(root, listed):
    entries = [
        {"category": "cap", "anomaly_class": "OK", "image_path": GOOD.replace("C1", view), "mask_path": None}
        for view in ("C1", "C2")
    ]
    content = {"meta": {"prefix": "cap/", "normal_class": "OK"}, "train": entries, "test": []}
    (root / "realiad_jsons/cap.json").write_text(json.dumps(content))
    lines = [",".join(HEAD), "9,top,a.png,0,,train", "9,side,b.png,0,,train"]
    (listed / "manifest.csv").write_text("\n".join(lines))
    for place in (root, listed):
        (sample,) = open_data(place).samples
        assert len(sample.views) == 2


@BOUNDED
@given(content=st.binary(max_size=200))
def test_manifest_bytes(listed, content):
    (listed / "manifest.csv").write_bytes(b"sample,view,path,label,mask,split\n" + content)
    assert broken_promises(listed) == []


NAMES = st.sampled_from(
    ["good", "scratch", "Good", "top.png", "side.jpg", "1", "train", "\x1b[2J", " x", "..."]
) | (st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=8))
FILES = st.lists(
    st.tuples(st.sampled_from(["train", "test", "ground_truth", "x/train"]), NAMES, NAMES, NAMES), max_size=6
)


@BOUNDED
@given(files=FILES, kind=st.sampled_from(["file", "link", "pipe"]))
def test_folders(tmp_path_factory, files, kind):
    root = tmp_path_factory.mktemp("folders", numbered=True)
    try:
        for number, parts in enumerate(files):
            path = root.joinpath(*parts)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if number == 0 and kind == "link":
                    path.symlink_to("/etc/passwd")
                elif number == 0 and kind == "pipe":
                    os.mkfifo(path)
                else:
                    Image.new("L", (4, 4), 255).save(path, "PNG")
            except OSError:  # a name that is a file and a folder
                continue
        assert broken_promises(root) == []
    finally:
        shutil.rmtree(root)


# ---- images


def sound_pictures(form):
    """Images of one format, in each of the ways in which it keeps colours."""
    image, turn = noise(8, 8), {"exif": turned(6)}
    palette, several = image.convert("P"), {"save_all": True, "append_images": [image]}
    if form == "PNG":
        options = [(image, turn), (image, several), (palette, {"transparency": 3}), (image.convert("LA"), {})]
    elif form == "TIFF":
        kinds = (None, "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg")
        options = [(image, {"compression": kind} | turn) for kind in kinds]
        options += [(image.convert(mode), {}) for mode in ("P", "CMYK", "LAB")]
        options += [(image.convert("1"), {"compression": "group4"}), (image, several)]
    elif form == "BMP":
        options = [(image, {}), (palette, {}), (image.convert("1"), {})]
    elif form == "JPEG":
        options = [(image, turn), (image.convert("CMYK"), {})]
    elif form == "MPO":
        options = [(image, several | turn)]
    else:
        options = [(image, turn), (image, {"lossless": True}), (image, several)]
    return [encoded(one, form, **own) for one, own in options]


def mutated(content, chance):
    """Bytes with a few changes, most of them where headers are."""
    content = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 3, 6])):
        at = chance.randrange(min(len(content), chance.choice([80, 300, 10**6])))
        kind = chance.random()
        if kind < 0.6:
            content[at] = chance.choice([0, 1, 2, 3, 4, 8, 16, 127, 128, 255, chance.randrange(256)])
        elif kind < 0.7:
            del content[at : at + chance.randrange(1, 9)]
        elif kind < 0.8:
            content[at:at] = chance.randbytes(chance.randrange(1, 5))
        elif kind < 0.9:
            del content[max(1, at) :]
        else:
            content[at : at + 4] = chance.choice([bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1"])
        content = content or bytearray(1)
    return bytes(content)


class Bytes:
    """An image in memory."""

    def __init__(self, content):
        self.content = content

    def open(self, mode="rb"):
        return io.BytesIO(self.content)

    def __str__(self):
        return "a.picture"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of what it passes over
@pytest.mark.parametrize("form", ["JPEG", "MPO", "PNG", "BMP", "TIFF", "WEBP"])
def test_pictures(form):
    chance, sound = random.Random(form), sound_pictures(form)
    taken, refused = 0, []
    for _ in range(5 * EXAMPLES):
        content = mutated(chance.choice(sound), chance)
        begin = time.monotonic()
        for read in (image_size, lambda picture: preprocess(open_image(picture), 8)):
            try:
                read(Bytes(content))
                taken += 1
            except UserError as error:
                refused.append(str(error))
        assert time.monotonic() - begin < 5, content
    assert [said for said in refused if not said.startswith("a.picture: ")] == []
    assert min(taken, len(refused)) > EXAMPLES / 2
