import numpy as np
import pytest
from fake_realiad import edit_list, write_realiad
from PIL import Image, ImageOps
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from mvead_jax.data.file_check import check_files
from mvead_jax.data.images import image_size, open_image
from mvead_jax.data.loading import IMAGENET_MEAN, IMAGENET_STD, iterate, preprocess, sample_pipeline
from mvead_jax.data.realiad import load_index
from mvead_jax.runtime.errors import DataProblems, UserError


def pattern(height=47, width=83):
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return Image.fromarray(((y * y * 7 + x * 13 + x * y + c * 71) % 256).astype(np.uint8))


def test_preprocess_has_the_stored_values():
    """Values of transformers 5.23.0's BitImageProcessorPil with Pillow 13.0.0."""
    array = preprocess(pattern(), 32)
    expected = np.load("tests/golden/preprocess_32.npy")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(47, 83, 32), (300, 200, 224), (224, 224, 224), (20, 30, 98)]
)
def test_preprocess_is_the_processor_of_transformers_bit_for_bit(height, width, size):
    processor = BitImageProcessorPil(
        size={"height": size, "width": size},
        do_center_crop=False,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
        resample=Image.Resampling.BICUBIC,
    )
    image = pattern(height, width)
    expected = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(preprocess(image, size), expected)


def test_grey_pictures_have_three_equal_levels(tmp_path):
    pattern().convert("L").save(tmp_path / "grey.png")
    array = np.asarray(open_image(tmp_path / "grey.png"))
    assert array.shape == (47, 83, 3)
    assert (array[..., 0] == array[..., 2]).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_wrote_is_applied(tmp_path, orientation, suffix):
    exif, path = Image.Exif(), tmp_path / f"turned.{suffix}"
    exif[0x0112] = orientation
    pattern().save(path, exif=exif)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    np.testing.assert_array_equal(np.asarray(open_image(path)), np.asarray(expected))
    assert image_size(path) == expected.size


@pytest.mark.parametrize(
    "entry",
    [
        b"\x12\x01\x03\x00\x01\x00\x00\x00\x63\x00\x00\x00",
        b"\x12\x01\x02\x00\x02\x00\x00\x006\x00\x00\x00",
        b"\x12\x01",
    ],
    ids=["99", "text", "cut"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_an_orientation_that_makes_no_sense_is_ignored(tmp_path, entry):
    path = tmp_path / "odd.jpg"
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00" + entry + b"\x00\x00\x00\x00"
    pattern().save(path, exif=exif)
    assert image_size(path) == open_image(path).size == (83, 47)


def test_a_header_is_read_without_decoding(tmp_path):
    path = tmp_path / "cut.png"
    pattern(300, 300).save(path)
    path.write_bytes(path.read_bytes()[:-60])
    assert image_size(path) == (300, 300)
    with pytest.raises(UserError, match="damaged PNG image .*; copy it again"):
        open_image(path)


def damaged(tmp_path, kind):
    path = tmp_path / "picture.jpg"
    if kind == "text":
        path.write_text("<html>not an image</html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        pattern(400, 400).save(path)
        path.write_bytes(path.read_bytes()[:4000])
    elif kind == "deep":
        Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(path, format="PNG")
    elif kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(path, format="PNG")
    elif kind == "svg":
        Image.new("RGB", (8, 8)).save(path, format="PPM")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "not an image"),
        ("empty", "not an image"),
        ("truncated", "damaged JPEG"),
        ("deep", "its largest value is 4000, more than the 255 of 8 bits; .* data.bit_depth=12"),
        ("bomb", "pixels"),
        ("svg", "not an image in JPEG, PNG"),
        ("missing", "No such file"),
    ],
)
def test_a_picture_that_can_not_be_used_is_one_line_with_its_path(tmp_path, kind, message):
    path = damaged(tmp_path, kind)
    with pytest.raises(UserError, match=message) as error:
        open_image(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.fixture
def index(tmp_path):
    return load_index(write_realiad(tmp_path, size=20), ["bolt"])


def test_one_element_is_one_sample_with_all_its_views_in_order(index):
    elements = list(iterate(sample_pipeline(index, 16)))
    assert [element["position"] for element in elements] == list(range(len(index)))
    for element, sample in zip(elements, index.samples, strict=True):
        assert element["images"].shape == (5, 16, 16, 3)
        expected = preprocess(open_image(index.root / sample.views[3].image), 16)
        np.testing.assert_array_equal(element["images"][3], expected)


def test_shuffled_order_is_a_function_of_seed_and_epoch_and_drops_nothing(index):
    def order(seed, epoch):
        pipeline = sample_pipeline(index, 16, shuffle=True, seed=seed, epoch=epoch)
        return [element["position"] for element in iterate(pipeline, threads=3)]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)
    assert sorted(order(1, 3)) == list(range(len(index)))


def test_a_missing_view_is_zero_and_not_present(tmp_path):
    root = write_realiad(tmp_path, size=20)
    edit_list(root, "bolt", lambda content: content["train"].pop(1))
    index = load_index(root, ["bolt"], incomplete="keep").select(split="train")
    element = sample_pipeline(index, 16)[0]
    assert element["present"].tolist() == [True, False, True, True, True]
    assert (element["images"][1] == 0).all()


def test_an_unreadable_picture_is_a_problem_of_its_sample_only(index):
    path = index.root / index.samples[2].views[1].image
    path.write_bytes(path.read_bytes()[:300])
    elements = list(iterate(sample_pipeline(index, 16)))
    assert [bool(element["problem"]) for element in elements].index(True) == 2
    assert str(path) in elements[2]["problem"]
    assert sum(bool(element["problem"]) for element in elements) == 1


def test_check_files_lists_every_wrong_picture_and_mask(index):
    defective = next(sample for sample in index.samples if sample.label)
    Image.new("L", (9, 9)).save(index.root / defective.views[0].mask)
    (index.root / index.samples[0].views[0].image).write_text("text")
    with pytest.raises(DataProblems) as error:
        check_files(index)
    text = "\n".join(error.value.problems)
    assert "mask of 9 x 9 pixels, its image has 20 x 20; take the mask" in text
    assert "not an image" in text
    assert len(error.value.problems) == 2
