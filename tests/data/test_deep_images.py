"""data/deep_images.py and data/bit_depth.py: images that store 16 bits a channel."""

import logging
import struct

import cv2
import numpy as np
import pytest
from image_inputs import HEIGHT, WIDTH, by_opencv, chunk, deep, encoded, exif, pixels, with_chunk
from own_data import write_folders
from PIL import Image

from mvead_jax.config.schema import DataConfig
from mvead_jax.data.deep_images import bits_of, to_8_bits
from mvead_jax.data.images import bits_in_file, image_of, image_size, largest_value, open_image, upright
from mvead_jax.data.loading import iterate, load_sample, preprocess, sample_pipeline
from mvead_jax.data.readers import open_configured, open_data, open_pictures
from mvead_jax.data.tfds_realiad.prepare import prepare
from mvead_jax.runtime.errors import UserError


@pytest.fixture
def written(tmp_path):
    def write(content, name="x.png"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("grey", [False, True], ids=["colour", "grey"])
def test_what_a_camera_of_any_bits_stores_in_16_is_the_8_bit_image(written, bits, suffix, grey):
    path = written(by_opencv(deep(bits, grey), suffix), f"x{suffix}")
    assert bits_in_file(path) == 16
    assert largest_value(path) == 2**bits - 1
    found = np.asarray(open_image(path, bits))
    expected = np.repeat(pixels()[..., :1], 3, -1) if grey else pixels()
    np.testing.assert_array_equal(found, expected)
    assert image_size(path) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_levels_are_the_nearest_and_keep_their_order(bits):
    values = np.arange(2**bits).astype(np.uint16)
    levels = to_8_bits(values, bits, "x").astype(int)
    exact = values.astype(float) * 255 / (2**bits - 1)
    assert np.abs(levels - exact).max() <= 0.5 + 1e-9
    assert (np.diff(levels) >= 0).all()
    assert (levels[0], levels[-1]) == (0, 255)


def test_the_fewest_bits_that_hold_a_value():
    assert [bits_of(value) for value in (0, 255, 256, 1023, 1024, 4096, 16384, 65535)] == [
        *(8, 8, 10, 10, 12, 14, 16, 16)
    ]


def test_images_of_8_bits_are_the_same_to_the_byte_whatever_the_bit_depth(written):
    for form, options in (("PNG", {}), ("JPEG", {}), ("TIFF", {}), ("BMP", {}), ("WEBP", {})):
        path = written(encoded(Image.fromarray(pixels()), form, **options), f"x.{form}")
        assert bits_in_file(path) == 8
        for bits in (8, 12, 16):
            np.testing.assert_array_equal(np.asarray(open_image(path, bits)), np.asarray(open_image(path)))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_values_beyond_the_bit_depth_are_refused_with_the_fix(written, suffix):
    path = written(by_opencv(deep(12), suffix), f"x{suffix}")
    with pytest.raises(
        UserError,
        match=r"x\.\w+: its largest value is 4095, more than the 1023 of 10 bits; .*data.bit_depth=12",
    ):
        open_image(path, 10)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("grey", [False, True], ids=["colour", "grey"])
def test_deep_images_are_turned_upright_too(written, number, grey):
    plain = Image.fromarray(pixels()[..., 0] if grey else pixels())
    shallow = written(encoded(plain, "PNG", exif=exif(number)), "shallow.png")
    png = with_chunk(by_opencv(deep(16, grey), ".png"), chunk(b"eXIf", exif(number)[6:]))
    np.testing.assert_array_equal(np.asarray(open_image(written(png), 16)), np.asarray(open_image(shallow)))
    assert image_size(written(png)) == image_size(shallow)


def tagged(tiff, tag, value):
    """Return a small-endian TIFF of one page with one more tag, of one short number."""
    start = struct.unpack_from("<I", tiff, 4)[0]
    count = struct.unpack_from("<H", tiff, start)[0]
    entries = [tiff[start + 2 + 12 * at : start + 14 + 12 * at] for at in range(count)]
    entries = [one for one in entries if struct.unpack_from("<H", one)[0] != tag]
    entries.append(struct.pack("<HHIHH", tag, 3, 1, value, 0))
    entries.sort(key=lambda one: struct.unpack_from("<H", one)[0])
    tiff = bytearray(tiff + bytes(len(tiff) % 2))
    struct.pack_into("<I", tiff, 4, len(tiff))
    return bytes(tiff + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))


@pytest.mark.parametrize("number", range(1, 9))
def test_deep_tiffs_are_turned_as_their_tag_says(written, number):
    shallow = written(tagged(by_opencv(pixels(), ".tif"), 274, number), "shallow.tif")
    path = written(tagged(by_opencv(deep(16), ".tif"), 274, number), "deep.tif")
    np.testing.assert_array_equal(np.asarray(open_image(path, 16)), np.asarray(open_image(shallow)))
    assert image_size(path) == image_size(shallow) == open_image(path, 16).size


def test_a_deep_tiff_that_pillow_and_opencv_turn_differently_is_refused(written):
    xmp = b'<x tiff:Orientation="3"/>'.ljust(32)
    tiff = by_opencv(deep(16), ".tif")
    tagged_there = bytearray(tagged(tiff, 700, 0))  # then its type, count and place are those of the text
    at = tagged_there.rindex(struct.pack("<HHIHH", 700, 3, 1, 0, 0))
    struct.pack_into("<HHII", tagged_there, at, 700, 1, len(xmp), len(tagged_there))
    path = written(bytes(tagged_there) + xmp, "x.tif")
    with pytest.raises(UserError, match="x.tif: damaged, or a kind of 16-bit image that is not read"):
        open_image(path, 16)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_packed_deep_tiffs_are_read(written, compression):
    content = encoded(Image.fromarray(deep(12, grey=True)), "TIFF", compression=compression)
    found = np.asarray(open_image(written(content, "x.tif"), 12))
    np.testing.assert_array_equal(found[..., 0], pixels()[..., 0])


def test_transparency_of_deep_images_is_dropped_as_of_others(written):
    alpha = np.full((HEIGHT, WIDTH, 1), 65535, np.uint16)
    bgra = np.concatenate([deep(12)[..., ::-1], alpha], -1)
    path = written(cv2.imencode(".png", bgra)[1].tobytes())
    np.testing.assert_array_equal(np.asarray(open_image(path, 12)), pixels())


def test_what_can_not_be_read_with_all_its_bits_is_refused_by_name(written):
    white_is_zero = tagged(encoded(Image.fromarray(deep(16, grey=True)), "TIFF"), 262, 0)
    with pytest.raises(UserError, match=r"x.tif: a TIFF in which 0 is white"):
        open_image(written(white_is_zero, "x.tif"), 16)
    path = written(by_opencv(deep(12), ".png"))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"x.png: damaged PNG image .*; copy it again"):
        open_image(path, 12)


def test_pil_images_keep_all_bits_until_pillow_has_decoded_them(written):
    path = written(by_opencv(deep(12), ".png"))
    np.testing.assert_array_equal(np.asarray(upright(Image.open(path), "view top", 12)), pixels())
    with pytest.raises(UserError, match="view top: its largest value is 4095"):
        upright(Image.open(path), "view top")
    tiff = Image.open(written(by_opencv(deep(12), ".tif"), "x.tif"))
    tiff.load()
    with pytest.raises(UserError, match="view top: Pillow has kept 8 of its 16 bits a channel; give the"):
        upright(tiff, "view top", 12)
    grey = Image.open(written(by_opencv(deep(12, grey=True), ".png")))
    grey.load()  # of grey it keeps all
    np.testing.assert_array_equal(np.asarray(upright(grey, "view top", 12))[..., 0], pixels()[..., 0])


def test_everything_that_a_program_can_hand_over_gives_the_same_image(written):
    path = written(by_opencv(deep(12), ".png"))
    for given in (str(path), path, Image.open(path), deep(12), pixels(), Image.fromarray(pixels())):
        np.testing.assert_array_equal(np.asarray(image_of(given, "view top", 12)), pixels())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((4, 4), np.uint8), r"an array of uint8 \[4, 4\]; give uint8 \[H,W,3\]"),
        (np.zeros((4, 4, 3), np.float32), "an array of float32"),
        (np.zeros((0, 4, 3), np.uint8), r"an array of uint8 \[0, 4, 3\]"),
        (np.full((4, 4, 3), 5000, np.uint16), "its largest value is 5000, more than the 4095 of 12 bits"),
        (7, "a int; give a path, a PIL image"),
        (Image.new("F", (4, 4)), "floating-point pixels"),
    ],
)
def test_what_is_no_image_is_refused_with_the_name_of_its_view(given, words):
    with pytest.raises(UserError, match=f"view top: {words}"):
        image_of(given, "view top", 12)


def test_preprocessing_scales_a_deep_image_and_never_cuts_it_off():
    image = Image.fromarray(deep(12, grey=True))
    grey = Image.fromarray(pixels()[..., 0])
    np.testing.assert_array_equal(preprocess(image, 16, 12), preprocess(grey, 16))
    with pytest.raises(UserError, match="image: its largest value is 4095, more than the 255"):
        preprocess(image, 16)


# The bit depth of a data set.


def deepened(root, bits, splits=("train", "test")):
    """Store the images of a data set with `bits` in 16, as another camera would have."""
    for split in splits:
        for path in sorted(root.glob(f"{split}/*/*/*.png")):
            values = np.asarray(Image.open(path).convert("RGB")).astype(np.uint32)
            path.write_bytes(by_opencv((values * (2**bits - 1) // 255).astype(np.uint16), ".png"))
    return root


@pytest.fixture
def root(tmp_path):
    return write_folders(tmp_path / "own", {"top": (".png", (40, 32))}, train=3, good=1, defective=1)


def images_of(index):
    return np.stack([load_sample(index, sample, 16)[0] for sample in index.samples])


def test_the_bit_depth_of_a_data_set_is_what_its_training_images_need(root, caplog):
    caplog.set_level(logging.INFO, "mvead_jax")
    before = images_of(open_data(root))
    assert "bits" not in caplog.text
    deepened(root, 12)
    brightest = max(largest_value(path) for path in root.glob("train/*/*/*.png"))
    index = open_data(root)
    assert index.bit_depth == 12
    assert f"3 training images store 16 bits a channel, their largest value is {brightest}" in caplog.text
    assert "read as 12 bits, 0 to 4095 as 0 to 255 (data.bit_depth=12 fixes it)" in caplog.text
    np.testing.assert_allclose(images_of(index), before, atol=0.02)


def test_test_images_do_not_decide_the_bit_depth_and_are_refused_beyond_it(root):
    deepened(deepened(root, 10, ["train"]), 16, ["test"])
    index = open_data(root)
    assert index.bit_depth == 10
    problems = [one["problem"] for one in iterate(sample_pipeline(index.select(split="test"), 16))]
    assert all("more than the 1023 of 10 bits" in problem for problem in problems)


def test_a_stated_bit_depth_is_taken_without_looking(root, monkeypatch):
    monkeypatch.setattr("mvead_jax.data.readers.measured_bit_depth", None)
    assert open_configured(DataConfig(root=str(root), bit_depth="12")).bit_depth == 12


def test_the_bit_depth_stays_with_every_part_of_an_index(root):
    index = open_data(deepened(root, 12))
    assert index.select(split="train").bit_depth == 12
    assert index.select(category="own").with_samples(index.samples[:1]).bit_depth == 12
    new = open_pictures(root / "test/good", {"own": ["top"]}, bit_depth=12)
    np.testing.assert_array_equal(images_of(new), images_of(index.select(split="test"))[1:])
    assert open_pictures(root / "test/good", {"own": ["top"]}).bit_depth == 8


def test_prepared_data_has_the_bit_depth_of_its_files(root, tmp_path):
    deepened(root, 12)
    prepare(root, tmp_path / "prepared")
    files, records = open_data(root), open_data(tmp_path / "prepared")
    assert records.bit_depth == files.bit_depth == 12
    np.testing.assert_array_equal(images_of(records), images_of(files))


def test_an_unreadable_image_is_left_to_who_needs_it(root):
    deepened(root, 12)
    path = sorted(root.glob("train/*/*/*.png"))[0]
    path.write_bytes(path.read_bytes()[:80])
    index = open_data(root)
    assert index.bit_depth == 12
    problems = [one["problem"] for one in iterate(sample_pipeline(index.select(split="train"), 16))]
    assert [bool(problem) for problem in problems] == [True, False, False]
