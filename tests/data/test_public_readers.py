"""Readers of public data sets: what they find, and one clear line for each damaged copy."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from public_layouts import LAYOUTS, save

from mvead_jax.config.io import load_config, override
from mvead_jax.data.check import check_data
from mvead_jax.data.image_files import digest
from mvead_jax.data.images import open_image
from mvead_jax.data.masks import open_mask
from mvead_jax.data.published_counts import _PUBLISHED, other_counts
from mvead_jax.data.readers import detected, open_data
from mvead_jax.data.records import Sample, View
from mvead_jax.data.tfds_realiad.prepare import prepare
from mvead_jax.features.foreground import check_foreground_files, foreground_reader
from mvead_jax.jobs.train import train
from mvead_jax.runtime.errors import UserError, by_kind


def one_line(root, **options):
    """The problems of a copy in which one thing is wrong: one line of check_data.py."""
    (line,) = by_kind(check_data(root, **options).problems)
    return line


def config_for(root):
    changes = {"data.root": str(root), "data.image_size": "32"}
    return override(load_config("configs/folder.py:patchcore"), changes)


# ---- MVTec AD and its relatives


@pytest.mark.parametrize("name", ["mvtec_ad", "mvtec_ad_2", "btad", "mpdd"])
def test_every_image_is_a_sample_of_one_view_with_its_label_and_mask(name, tmp_path):
    root = LAYOUTS[name](tmp_path)
    assert detected(root) == ["single_view"]
    index = open_data(root)
    assert index.views == ("view",)
    assert {path.name for path in root.iterdir() if path.is_dir()} == set(index.categories)
    for sample in index.samples:
        (view,) = sample.views
        good = sample.id.startswith("good/")
        assert (root / view.image).is_file()
        assert sample.label == view.label == int(not good)
        assert (view.mask is None) == good
        if view.mask:
            assert (np.asarray(Image.open(root / view.mask)) > 127).any()


def test_one_category_of_mvtec_ad_is_a_data_set_too(tmp_path):
    root = LAYOUTS["mvtec_ad"](tmp_path)
    assert open_data(root / "tile").categories == ("tile",)
    assert len(open_data(root / "tile")) == len(open_data(root, ["tile"]))


def test_test_sets_without_labels_are_noted_and_passed_over(tmp_path):
    notes = open_data(LAYOUTS["mvtec_ad_2"](tmp_path)).notes
    assert sorted(note.split(":")[0] for note in notes) == [
        "can/test_private/",
        "can/test_private_mixed/",
        "can/validation/",
    ]


def remove_masks(place):
    shutil.rmtree(place / "ground_truth/contamination")


def add_folder(place):
    (place / "test/good/more").mkdir()


def move_defect(place):
    shutil.move(place / "test/contamination", place / "train/contamination")
    shutil.rmtree(place / "ground_truth/contamination")


def enlarge_mask(place):
    Image.new("L", (40, 32), 255).save(place / "ground_truth/contamination/000_mask.png")


def lose_image(place):
    (place / "test/contamination/001.png").unlink()


def second_good(place):
    shutil.copytree(place / "test/contamination", place / "test/OK")


def second_mask(place):
    truth = place / "ground_truth/contamination"
    shutil.copy(truth / "000_mask.png", truth / "000.png")


def cut(place):
    path = place / "train/good/003.png"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            lambda place: (place / "ground_truth/contamination/000_mask.png").unlink(),
            "tile/ground_truth/contamination/000: no such mask, and others of this category are there; unpack",
        ),
        (
            lambda place: shutil.rmtree(place / "train/good"),
            "tile/train/good/: no sample to learn from; put good",
        ),
        (add_folder, "tile/test/good/more/: a folder among images; here an image is a sample"),
        (
            lose_image,
            "tile/ground_truth/contamination/001_mask.png: a mask without its image test/contamination/001",
        ),
        (
            enlarge_mask,
            "tile/ground_truth/contamination/000_mask.png: mask of 40 x 32 pixels, its image has 32 x 32",
        ),
        (second_good, "tile/test/good/: a second folder of good samples; keep one"),
        (
            move_defect,
            "tile/train/contamination/: training has good samples only; move these to test/contamination/",
        ),
        (
            second_mask,
            "tile/ground_truth/contamination/: <image>.png and <image>_mask.png of one image; keep one",
        ),
        (cut, "tile/train/good/003.png: "),
    ],
)
def test_a_damaged_copy_of_mvtec_ad_gets_one_line(damage, line, tmp_path):
    root = LAYOUTS["mvtec_ad"](tmp_path)
    damage(root / "tile")
    assert one_line(root).startswith(line)


def test_masks_that_were_not_unpacked_are_one_line_with_their_count(tmp_path):
    root = LAYOUTS["mvtec_ad"](tmp_path)
    for number in range(2, 9):
        shutil.copy(
            root / "tile/train/good/000.png", path := root / f"tile/test/contamination/{number:03d}.png"
        )
        path.write_bytes(path.read_bytes() + bytes([number]))
    remove_masks(root / "tile")
    where = "tile/ground_truth/contamination/"
    assert one_line(root).startswith(f"9 times ({where}000, {where}001, {where}002, ...): no such")


def test_without_any_masks_the_images_of_defects_are_defective(tmp_path):
    root = LAYOUTS["mpdd"](tmp_path)
    shutil.rmtree(root / "tubes/ground_truth")
    checked = check_data(root)
    assert not checked.problems
    assert any("2 defective samples have no mask" in note for note in checked.notes)
    assert {sample.label for sample in checked.samples if sample.id.startswith("anomalous")} == {1}


# ---- VisA


def test_masks_of_visa_mark_what_is_above_zero(tmp_path):
    root = LAYOUTS["visa"](tmp_path)
    assert detected(root) == ["visa"]
    index = open_data(root)
    assert (index.categories, index.views) == (("candle",), ("view",))
    masks = [view.mask for sample in index.samples for view in sample.views if view.mask]
    assert len(masks) == 2
    for path in masks:
        numbers = np.asarray(Image.open(root / path))
        assert 0 < numbers.max() < 10
        np.testing.assert_array_equal(np.asarray(open_mask(index.root / path)) > 127, numbers > 0)
    labels = {sample.id: sample.label for sample in index.select(split="test").samples}
    assert labels == {"anomaly/0000": 1, "anomaly/0001": 1, "good/0000": 0, "good/0001": 0}


def edit_csv(root, change):
    path = root / "split_csv/1cls.csv"
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            lambda root: (root / "candle/Data/Masks/Anomaly/0001.png").unlink(),
            "split_csv/1cls.csv line 11: mask 'candle/Data/Masks/Anomaly/0001.png' no such file",
        ),
        (
            lambda root: shutil.rmtree(root / "candle/Data/Images/Normal"),
            "8 times (split_csv/1cls.csv line 2, split_csv/1cls.csv line 3, split_csv/1cls.csv line 4, ...): image '",
        ),
        (
            lambda root: edit_csv(
                root, lambda text: text.replace("anomaly,candle/Data/Images/Anomaly/0000", "bad,x")
            ),
            "split_csv/1cls.csv line 10: label 'bad'; write normal or anomaly",
        ),
        (
            lambda root: edit_csv(
                root, lambda text: text.replace("0001.JPG", "0000.JPG", 1).replace("test", "TEST")
            ),
            "candle/Data/Images/Normal/0000.JPG: listed more than once; keep one line",
        ),
        (
            lambda root: edit_csv(
                root, lambda text: text.replace("candle/Data/Images/Normal/0000.JPG", "../x.JPG")
            ),
            "split_csv/1cls.csv line 8: image '../x.JPG' leaves the image folder by '..'",
        ),
        (
            lambda root: edit_csv(root, lambda text: text.replace("train", "test")),
            "candle: no line of split train: nothing to learn from",
        ),
    ],
)
def test_a_damaged_copy_of_visa_gets_one_line(damage, line, tmp_path):
    root = LAYOUTS["visa"](tmp_path)
    damage(root)
    assert one_line(root).startswith(line)


def test_a_list_of_visa_that_is_not_there_or_lacks_a_column_is_told(tmp_path):
    root = LAYOUTS["visa"](tmp_path)
    with pytest.raises(
        UserError, match="2cls_highshot.csv: no such list; split_csv/ holds 1cls; name one by data.op"
    ):
        open_data(root, options=["split=2cls_highshot"])
    with pytest.raises(UserError, match="holds a slash.*; name a list of split_csv/"):
        open_data(root, options=["split=../x"])
    edit_csv(root, lambda text: text.replace(",mask\n", "\n", 1).replace(",mask\r\n", "\r\n", 1))
    with pytest.raises(
        UserError, match="1cls.csv: no column mask; the first line is object,split,label,image,mask"
    ):
        open_data(root)


# ---- Real-IAD Variety

LIST = "realiadvariety_jsons/gear.json"


def test_an_object_of_variety_is_a_folder_and_a_view_without_a_mask_is_normal(tmp_path):
    root = LAYOUTS["real_iad_variety"](tmp_path)
    assert detected(root) == ["real_iad_variety"]
    index = open_data(root)
    assert (index.categories, index.views) == (("gear",), ("C1", "C2", "C3", "C4", "C5"))
    found = {
        sample.id: [view.label for view in sample.views] for sample in index.select(split="test").samples
    }
    assert found == {
        "HS/NG_HS_S0001": [1, 1, 0, 0, 0],
        "HS/NG_HS_S0002": [1, 1, 0, 0, 0],
        "good/OK_S0050": [0] * 5,
        "good/OK_S0051": [0] * 5,
    }


def test_variety_is_found_as_its_archives_unpack_one_folder_deeper(tmp_path):
    root = LAYOUTS["real_iad_variety"](tmp_path)
    flat = open_data(root)
    (root / "realiadvariety_jsons").rename(root / "x")
    (root / "realiadvariety_jsons").mkdir()
    (root / "x").rename(root / "realiadvariety_jsons/Real-IAD_Variety_jsons")
    (root / "realiadvariety_1024/gear").rename(root / "x")
    (root / "realiadvariety_1024/gear").mkdir()
    (root / "x").rename(root / "realiadvariety_1024/gear/gear")
    nested = open_data(root, options=["size=1024"])
    assert [sample.id for sample in nested.samples] == [sample.id for sample in flat.samples]
    assert all((root / view.image).is_file() for sample in nested.samples for view in sample.views)


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            lambda root: shutil.rmtree(root / "realiadvariety_1024/gear/NG"),
            f"10 times (test[10], test[11], test[12], ...): {LIST}: test[10] 'NG/HS/S0001/",
        ),
        (
            lambda root: shutil.rmtree(root / "realiadvariety_1024/gear"),
            f"{LIST}: no folder of images; tried ",
        ),
        (
            lambda root: next(root.rglob("NG/**/*_C02_*.png")).unlink(),
            f"{LIST}: test[",
        ),
        (
            lambda root: edit_json(root / LIST, lambda content: content["test"].pop(7)),
            f"{LIST}: test sample good/OK_S0051 has no C3; leave such samples out by data.incomplete=drop",
        ),
        (
            lambda root: edit_json(root / LIST, lambda content: content["test"][3].pop("mask_path")),
            f"{LIST}: test[3] is not an object with category, anomaly_class, image_path, mask_path; correct",
        ),
        (lambda root: (root / LIST).write_text("{"), f"{LIST}: not JSON"),
    ],
)
def test_a_damaged_copy_of_variety_gets_one_line(damage, line, tmp_path):
    root = LAYOUTS["real_iad_variety"](tmp_path)
    damage(root)
    assert one_line(root).startswith(line)


def test_a_name_without_a_view_is_told(tmp_path):
    root = LAYOUTS["real_iad_variety"](tmp_path)
    for path in list(root.rglob("*_C03_*.jpg")):
        path.rename(path.with_name(path.name.replace("_C03_", "_C07_")))

    def rename(content):
        for entry in content["train"] + content["test"]:
            entry["image_path"] = entry["image_path"].replace("_C03_", "_C07_")

    edit_json(root / LIST, rename)
    line = one_line(root)
    assert line.startswith("10 times (")
    assert "rename it: a name holds _C1 to _C5, or _C01 to _C05" in line
    with pytest.raises(UserError, match="size=a/b.*holds a slash.*; write 1024 or raw"):
        open_data(root, options=["size=a/b"])


# ---- MANTA-Tiny


def test_the_views_of_manta_are_the_parts_of_one_image_from_the_left(tmp_path):
    root = LAYOUTS["manta"](tmp_path)
    assert detected(root) == ["manta"]
    index = open_data(root)
    assert (index.categories, index.views) == (("gear",), ("V1", "V2", "V3", "V4", "V5"))
    for sample in index.samples:
        kind, _, name = sample.id.partition("/")
        place = root / "mechanics/gear"
        whole = np.asarray(Image.open(place / f"{sample.split}/{kind}/{name}.png"))
        for at, view in enumerate(sample.views):
            own = np.s_[:, 32 * at : 32 * (at + 1)]
            np.testing.assert_array_equal(np.asarray(open_image(index.root / view.image)), whole[own])
            if view.mask:
                mask = np.asarray(Image.open(place / f"ground_truth/{kind}/{name}.png"))[own]
                np.testing.assert_array_equal(np.asarray(open_mask(index.root / view.mask)), mask)
                assert view.label == int(mask.max() == 255)
            assert sample.label == int(kind == "defect")


@pytest.mark.parametrize("part", ["mechanics", "mechanics/gear"])
def test_a_domain_or_a_category_of_manta_is_a_data_set_too(part, tmp_path):
    root = LAYOUTS["manta"](tmp_path)
    assert detected(root / part) == ["manta", "single_view"]
    found, whole = open_data(root / part), open_data(root)
    assert [(one.category, one.id) for one in found.samples] == [
        (one.category, one.id) for one in whole.samples
    ]


def draw_views(path, count):
    path.write_bytes(b"")
    Image.new("RGB", (32 * count, 32), (count, 9, 9)).save(path)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            lambda place: draw_views(place / "train/good/0002.png", 4),
            "train/good/0002.png: 128 x 32 pixels; 5 square views side by side have a width of 5 times the height",
        ),
        (
            lambda place: draw_views(place / "test/good/0001.png", 6),
            "test/good/0001.png: 192 x 32 pixels; 5 square views side by side",
        ),
        (
            lambda place: Image.new("L", (128, 32), 255).save(place / "ground_truth/defect/0001.png"),
            "ground_truth/defect/0001.png: 128 x 32 pixels; 5 square views side by side",
        ),
        (
            lambda place: (place / "ground_truth/defect/0000.png").unlink(),
            "ground_truth/defect/0000: no such mask, and others of this category are there; unpack",
        ),
        (
            lambda place: (place / "test/defect/0000.png").unlink(),
            "ground_truth/defect/0000.png: a mask without its image test/defect/0000",
        ),
        (
            lambda place: (place / "train/good/0003.png").write_bytes(b"\x89PNG"),
            "train/good/0003.png: not an image in JPEG, PNG",
        ),
        (lambda place: shutil.rmtree(place / "train/good"), "train/good/: no sample to learn from"),
    ],
)
def test_a_damaged_copy_of_manta_gets_one_line(damage, line, tmp_path):
    root = LAYOUTS["manta"](tmp_path / "data")
    damage(root / "mechanics/gear")
    assert one_line(root).startswith(f"mechanics/gear/{line}")


def test_a_damaged_image_of_manta_is_one_line_of_training_too(tmp_path):
    root = LAYOUTS["manta"](tmp_path / "data")
    (root / "mechanics/gear/train/good/0003.png").write_bytes(b"PNG")
    with pytest.raises(UserError, match=r"mechanics/gear/train/good/0003.png: not an image in") as error:
        train(config_for(root), tmp_path / "run")
    assert len(str(error.value).splitlines()) == 1


def test_two_categories_of_one_name_in_two_domains_are_told(tmp_path):
    root = LAYOUTS["manta"](tmp_path)
    shutil.copytree(root / "mechanics", root / "medicine")
    with pytest.raises(
        UserError, match="medicine/gear/: a second category of this name, beside mechanics/gear/"
    ):
        open_data(root)


def test_a_mask_of_the_part_lies_beside_its_view_and_is_read(tmp_path):
    root = LAYOUTS["manta"](tmp_path)
    config = override(config_for(root), {"data.foreground": "files"})
    index = open_data(root)
    with pytest.raises(
        UserError, match=r"50 times .*0000.V1.foreground.png, .*: no such file, the foreground mask of"
    ):
        check_foreground_files(config.data, index)
    for view in (view for sample in index.samples for view in sample.views):
        half = np.zeros((32, 32), np.uint8)
        half[:, 16:] = 255
        Image.fromarray(half).save(root / view.image.replace(".png", ".foreground.png"))
    index = open_data(root)
    assert len(index) == 10  # the masks are no images
    read = foreground_reader(config.data, index, np.zeros((10, 5, 2, 2, 1)))
    assert read(np.arange(10))[..., 1].all()
    assert not read(np.arange(10))[..., 0].any()


# ---- PAD


def test_images_of_pad_are_samples_of_one_view_and_its_poses_are_told(tmp_path):
    root = LAYOUTS["pad"](tmp_path)
    assert detected(root) == ["pad", "single_view"]
    index = open_data(root)
    assert index.views == ("view",)
    assert {sample.id.partition("/")[0] for sample in index.samples} == {"good", "Burrs", "Missing", "Stains"}
    assert any("6 poses of training images; test images have none" in note for note in index.notes)


def edit_poses(change):
    return lambda root: edit_json(root / "01Gorilla/transforms.json", change)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (edit_poses(lambda own: own["frames"].pop(2)), "has no pose of 1 images (002); unpack"),
        (
            lambda root: (root / "01Gorilla/train/good/004.png").unlink(),
            "has poses of 1 images that are not there (004); unpack",
        ),
        (
            edit_poses(lambda own: own["frames"][1].update(transform_matrix=[[1, 0], [0, 1]])),
            "frames[1].transform_matrix is no pose: 4 x 4, a rotation and a place",
        ),
        (
            edit_poses(lambda own: own["frames"][3]["transform_matrix"][0].__setitem__(0, 2.0)),
            "frames[3].transform_matrix is no pose",
        ),
        (edit_poses(lambda own: own["frames"][0].pop("file_path")), "frames[0] has no file_path; unpack"),
        (edit_poses(lambda own: own.pop("frames")), "has no list 'frames' of objects; unpack"),
        (lambda root: (root / "01Gorilla/transforms.json").write_text("{"), "not JSON ("),
    ],
)
def test_damaged_poses_of_pad_get_one_line(damage, line, tmp_path):
    root = LAYOUTS["pad"](tmp_path)
    damage(root)
    assert one_line(root).startswith(f"01Gorilla/transforms.json: {line}")


def test_a_category_of_pad_without_its_poses_or_a_mask_is_told(tmp_path):
    root = LAYOUTS["pad"](tmp_path)
    shutil.copytree(root / "01Gorilla", root / "02Unicorn")
    (root / "02Unicorn/transforms.json").unlink()
    with pytest.raises(
        UserError, match=r"02Unicorn/transforms.json: no such file, the poses of train/good/; unpack"
    ):
        open_data(root, ["02Unicorn"])
    (root / "01Gorilla/ground_truth/Burrs/001_mask.png").unlink()
    with pytest.raises(UserError, match=r"01Gorilla/ground_truth/Burrs/001: no such mask, and others"):
        open_data(root, ["01Gorilla"])


# ---- M2AD

META = "jsons/meta_unsupervised.json"


def samples_of(root, *options):
    index = open_data(root, options=options, incomplete="error")
    test = index.select(split="test").samples
    return {sample.id: {view.name: view.label for view in sample.views} for sample in test}


def test_lights_of_m2ad_are_views_or_samples_or_one_is_chosen(tmp_path):
    root = LAYOUTS["m2ad"](tmp_path)
    assert detected(root) == ["m2ad"]
    hidden = {"000_01": 1, "000_02": 1, "030_01": 1, "030_02": 0}  # the defect does not show in the last
    good = dict.fromkeys(hidden, 0)
    assert samples_of(root) == {"NG/001": hidden, "NG/002": hidden, "good/050": good, "good/051": good}
    found = samples_of(root, "lights=samples")
    assert len(found) == 8
    assert found["NG/001_01"] == {"000": 1, "030": 1}
    assert found["NG/001_02"] == {"000": 1, "030": 0}
    assert samples_of(root, "lights=02")["NG/002"] == {"000": 1, "030": 0}
    assert {sample.label for sample in open_data(root).samples if sample.id.startswith("NG")} == {1}


def test_images_whose_defect_is_not_detectable_are_left_out_as_in_the_protocol_invariant(tmp_path):
    root = LAYOUTS["m2ad"](tmp_path)
    found = samples_of(root, "undetectable=drop", "lights=samples")
    assert found["NG/001_02"] == {"000": 1}
    assert len(found) == 8
    assert samples_of(root, "undetectable=drop")["NG/001"].keys() == {"000_01", "000_02", "030_01"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("lights=all", "lights=all': write views, samples, or a light such as 01"),
        ("undetectable=keep", "undetectable=keep': write normal or drop"),
        (
            "size=512",
            "no image of the list is there; looked for .*M2AD_512/Bird/Good/001/C000_L01.png; unpack",
        ),
        ("lights=07", "Bird: no image under light 07; set data.options=lights="),
        ("light=07", "m2ad has no such option, did you mean 'lights'"),
    ],
)
def test_options_that_m2ad_does_not_have_are_told(options, line, tmp_path):
    with pytest.raises(UserError, match=line) as error:
        open_data(LAYOUTS["m2ad"](tmp_path), options=[options])
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            lambda root: shutil.rmtree(root / "M2AD_256/Bird/NG"),
            f"8 times (test.Bird[8], test.Bird[9], test.Bird[10], ...): {META}: test.Bird[8] 'M2AD_256/Bird/NG/",
        ),
        (
            lambda root: (root / "M2AD_256/Bird/GT/002/C000_L02_mask.png").unlink(),
            f"{META}: test.Bird[13] 'M2AD_256/Bird/GT/002/C000_L02_mask.png' no such file; unpack",
        ),
        (
            lambda root: edit_json(root / META, lambda own: own["test"]["Bird"][2].pop("image_anomaly")),
            f"{META}: test.Bird[2] is not an object with img_path, image_anomaly; unpack",
        ),
        (
            lambda root: edit_json(root / META, lambda own: own["test"]["Bird"].pop(2)),
            "Bird: test sample good/050 has no 030_01; leave such samples out by data.incomplete=drop",
        ),
        (
            lambda root: edit_json(root / META, lambda own: own["train"].clear()),
            "Bird: the list has no training image of it; unpack the list again",
        ),
        (
            lambda root: edit_json(
                root / META, lambda own: own["test"]["Bird"].append(own["test"]["Bird"][0])
            ),
            "M2AD_256/Bird/Good/050/C000_L01.png: listed more than once; keep one",
        ),
    ],
)
def test_a_damaged_copy_of_m2ad_gets_one_line(damage, line, tmp_path):
    root = LAYOUTS["m2ad"](tmp_path)
    damage(root)
    assert one_line(root).startswith(line)


def test_m2ad_without_its_list_or_its_images_is_told(tmp_path):
    root = LAYOUTS["m2ad"](tmp_path)
    shutil.copytree(root / "M2AD_256", root / "M2AD_1024")
    with pytest.raises(UserError, match="images in M2AD_1024, M2AD_256; choose one by data.options=size=256"):
        open_data(root)
    assert len(open_data(root, options=["size=1024"])) == 10
    for folder in ("M2AD_1024", "M2AD_256"):
        (root / folder).rename(root / f"packed_{folder}")
    with pytest.raises(
        UserError, match="no image of the list is there; looked for .*; unpack the images beside jsons/"
    ):
        open_data(root)
    shutil.rmtree(root / "jsons")
    (root / "packed_M2AD_256").rename(root / "M2AD_256")
    with pytest.raises(
        UserError, match="meta_unsupervised.json: no such list; unpack jsons/ beside the images"
    ):
        open_data(root)


# ---- 3D data


def mvtec_3d(root):
    for folder, ending in (("rgb", ".png"), ("xyz", ".tiff"), ("gt", ".png")):
        save(root / f"bagel/train/good/{folder}/000{ending}", np.zeros((8, 8, 3), np.uint8))
    return "MVTec 3D-AD, or data in its layout (bagel/train/good/xyz/)"


def real_iad_d3(root):
    save(root / "Real-IAD_D3/audio_jack/OK/S0001/rgb.jpg", np.zeros((8, 8, 3), np.uint8))
    return "Real-IAD D3 (Real-IAD_D3/)"


def clouds(root):
    save(root / "gear/train/good/0001/top.png", np.zeros((8, 8, 3), np.uint8))
    (root / "gear/train/good/0001/scan.PLY").write_bytes(b"ply")
    return "3D data such as Real-IAD D3 or Real3D-AD (gear/train/good/0001/scan.PLY)"


@pytest.mark.parametrize("write", [mvtec_3d, real_iad_d3, clouds])
def test_3d_data_is_refused_by_name_in_one_line(write, tmp_path):
    said = write(tmp_path / "data")
    for job in (open_data, check_data, lambda root: train(config_for(root), tmp_path / "run")):
        with pytest.raises(UserError) as error:
            job(tmp_path / "data")
        assert f"{said} is not read: point clouds and depth have no place in this program" in str(error.value)
        assert len(str(error.value).splitlines()) == 1


def test_a_drawing_beside_ones_own_images_is_no_3d_data(tmp_path):
    root = LAYOUTS["mpdd"](tmp_path)
    (root / "tubes/tube.stl").write_bytes(b"solid")
    assert not check_data(root).problems


# ---- all


@pytest.mark.parametrize("name", ["mpdd", "visa", "real_iad_variety", "manta", "pad", "m2ad"])
def test_prepared_data_holds_the_same_samples_and_pixels(name, tmp_path):
    root = LAYOUTS[name](tmp_path / "data")
    prepare(root, tmp_path / "prepared")
    raw, prepared = open_data(root), open_data(tmp_path / "prepared")
    assert prepared.samples == raw.samples
    for view in (view for sample in raw.samples for view in sample.views):
        for path in filter(None, (view.image, view.mask)):
            assert digest(raw.root / path) == digest(prepared.root / path)
            pixels = [np.asarray(open_image(index.root / path)) for index in (raw, prepared)]
            np.testing.assert_array_equal(*pixels)


def test_prepared_again_nothing_is_made_anew_until_a_source_changes(tmp_path):
    root = LAYOUTS["visa"](tmp_path / "data")
    records = lambda: {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*array_record*")}  # noqa: E731
    prepare(root, tmp_path / "out")
    before = records()
    prepare(root, tmp_path / "out")
    assert records() == before
    path = root / "candle/Data/Masks/Anomaly/0000.png"
    Image.fromarray(np.asarray(Image.open(path))[::-1]).save(path)
    prepare(root, tmp_path / "out")
    assert records() != before


def sample(category, split, number, label):
    name = f"{category}/{split}/{number}"
    return Sample(name, category, split, (View("view", name, label, f"{name}_mask" if label else None),))


@pytest.mark.parametrize("name", _PUBLISHED)
def test_counts_that_are_not_the_published_ones_are_told_for_all_categories_only(name):
    known, expected = _PUBLISHED[name]
    categories = known.split()
    good = expected.get("test samples OK", 0)
    samples = [
        sample(categories[at % len(categories)], "train", at, 0) for at in range(expected["train images"])
    ]
    samples += [
        sample(categories[at % len(categories)], "test", at, int(at >= good))
        for at in range(expected["test images"])
    ]
    assert other_counts(samples) == []
    (line,) = other_counts(samples[1:])
    assert line == f"train images {expected['train images'] - 1:,}, {name} has {expected['train images']:,}"
    assert other_counts([one for one in samples if one.category != categories[0]]) == []
