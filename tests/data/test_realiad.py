import random
import shutil

import pytest
from fake_realiad import edit_list, write_realiad
from PIL import Image

from mvead_jax.data.new_images import load_new_images
from mvead_jax.data.realiad import load_index
from mvead_jax.data.realiad_names import sample_of_name
from mvead_jax.runtime.errors import DataProblems, UserError


@pytest.fixture
def root(tmp_path):
    return write_realiad(tmp_path / "data", size=16)


def test_groups_views_into_samples_with_labels_of_their_own(root):
    index = load_index(root)
    assert index.categories == ("bolt", "cap")
    assert index.views == ("C1", "C2", "C3", "C4", "C5")
    defective = [sample for sample in index.samples if sample.label]
    assert {sample.id for sample in defective if sample.category == "cap"} == {
        f"cap_{number:04d}_NG_HS" for number in (8, 9, 10)
    }
    for sample in defective:  # under NG/, and yet normal where the defect does not show
        assert [view.label for view in sample.views] == [1, 1, 1, 0, 0]
        assert all("/NG/" in view.image for view in sample.views)
        assert [view.mask is not None for view in sample.views] == [True] * 3 + [False] * 2


def test_the_order_of_the_lists_does_not_matter(root):
    before = load_index(root)

    def shuffle(content):
        random.Random(0).shuffle(content["train"])
        random.Random(1).shuffle(content["test"])

    for category in ("bolt", "cap"):
        edit_list(root, category, shuffle)
    assert load_index(root) == before


@pytest.mark.parametrize("place", ["realiad_jsons", "realiad_jsons/realiad_jsons", "explicit_full", "."])
def test_finds_the_lists_in_every_known_place(tmp_path, place):
    images = place if place in ("explicit_full", ".") else "realiad_64"
    root = write_realiad(tmp_path / "data", size=16, lists=place, images=images)
    (root / "cameras.json").write_text("{}")  # a JSON that is no list
    assert len(load_index(root)) == 20


@pytest.mark.parametrize("views", [1, 4, 6])
def test_any_number_of_views(tmp_path, views):
    root = write_realiad(tmp_path, size=16, views=views)
    index = load_index(root, ["cap"])
    assert index.views == tuple(f"C{view}" for view in range(1, views + 1))
    assert index.present().all()


def test_a_variant_of_the_lists_is_chosen_by_name(root):
    shutil.copytree(root / "realiad_jsons", root / "realiad_jsons_sv")
    edit_list(root, "bolt", lambda content: content.update(test=[]), lists="realiad_jsons_sv")
    assert len(load_index(root, ["bolt"], lists="realiad_jsons_sv")) == 4


def test_several_image_folders_need_a_choice(root):
    shutil.copytree(root / "realiad_64", root / "realiad_512")
    with pytest.raises(DataProblems, match=r"several folders \(realiad_512, realiad_64\).*data.images"):
        load_index(root)
    assert load_index(root, images="realiad_512").samples[0].views[0].image.startswith("realiad_512/")


@pytest.mark.parametrize("prefix", ["", "./", "bolt"])
def test_a_prefix_may_be_empty_or_lack_its_slash(root, prefix):
    def change(content):
        content["meta"]["prefix"] = prefix
        for entry in content["train"] + content["test"]:
            if prefix != "bolt":
                entry["image_path"] = "bolt/" + entry["image_path"]
                entry["mask_path"] = entry["mask_path"] and "bolt/" + entry["mask_path"]

    before = load_index(root, ["bolt"])
    edit_list(root, "bolt", change)
    assert load_index(root, ["bolt"]) == before


def drop_one_view(root):
    edit_list(root, "bolt", lambda content: content["train"].pop(7))


def test_an_incomplete_sample_is_an_error_by_default(root):
    drop_one_view(root)
    with pytest.raises(DataProblems, match=r"train sample bolt_0002_OK has no C3.*data.incomplete=drop"):
        load_index(root)


def test_incomplete_samples_are_dropped_or_kept_on_demand(root):
    drop_one_view(root)
    dropped = load_index(root, ["bolt"], incomplete="drop")
    assert len(dropped) == 9
    assert "1 samples lack a view and are left out" in dropped.notes[0]
    kept = load_index(root, ["bolt"], incomplete="keep")
    assert kept.present().sum() == 49
    assert not kept.select(split="train").present()[1, 2]


def rename_view(root, number, view, new):
    """Renames one image of bolt's training samples on disk and in the list."""

    def change(content):
        entry = content["train"][5 * (number - 1) + view - 1]
        old = entry["image_path"]
        entry["image_path"] = new(old)
        (root / "realiad_64/bolt" / old).rename(root / "realiad_64/bolt" / entry["image_path"])

    edit_list(root, "bolt", change)


def test_a_doubled_underscore_before_the_number_belongs_to_the_same_sample(root):
    rename_view(root, 1, 2, lambda path: path.replace("bolt_0001", "bolt__0001"))
    index = load_index(root)
    assert [view.name for view in index.select(split="train").samples[0].views] == [
        "C1",
        "C2",
        "C3",
        "C4",
        "C5",
    ]


def test_a_doubled_underscore_keeps_two_full_samples_apart(root):
    for view in range(1, 6):
        rename_view(
            root, 2, view, lambda path: path.replace("S0002", "S0001").replace("bolt_0002", "bolt__0001")
        )
    ids = [sample.id for sample in load_index(root, ["bolt"]).select(split="train").samples]
    assert ids == ["bolt_0001_OK", "bolt_0003_OK", "bolt_0004_OK", "bolt__0001_OK"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("audiojack_0001_OK_C1_20230921114200.jpg", ("audiojack_0001_OK", "C1")),
        ("audiojack__0064_NG_HS_C3_20230922.jpg", ("audiojack__0064_NG_HS", "C3")),
        ("rolled_strip_base_0123_NG_AK_C5_1.jpg", ("rolled_strip_base_0123_NG_AK", "C5")),
        ("transistor1_0001_OK_C2_1.jpg", ("transistor1_0001_OK", "C2")),
        ("audiojack_001_OK_C1_1.jpg", None),
        ("0001_OK_C1_1.jpg", None),
        ("audiojack_0001_OK_1.jpg", None),
    ],
)
def test_sample_and_view_come_from_the_file_name(name, expected):
    assert sample_of_name(name) == expected


def _set(field, value, number=2):
    return lambda content: content["train"][number].update({field: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _set("image_path", "../../../secret.jpg"),
            r"train\[2\] '../../../secret.jpg' leaves the image folder",
        ),
        (_set("image_path", "/etc/passwd"), "is absolute"),
        (_set("image_path", "C:\\secret.jpg"), "is absolute"),
        (_set("image_path", "OK\\..\\..\\x.jpg"), "leaves the image folder"),
        (_set("image_path", "OK/x\0.jpg"), "NUL"),
        (_set("image_path", 7), "is not a file name"),
        (_set("image_path", "OK/S0001/none.jpg"), "no such file"),
        (_set("mask_path", "../x.png"), "leaves the image folder"),
        (_set("category", "cap"), "category is 'cap', not 'bolt'"),
        (_set("anomaly_class", None), "anomaly_class None is not a name"),
        (lambda content: content["train"].__setitem__(2, "x"), r"train\[2\] is not an object"),
        (lambda content: content.update(train=[]), "the train list is empty"),
        (lambda content: content.update(test={}), "needs 'test' to be a list"),
        (lambda content: content["meta"].update(prefix="../"), "meta.prefix '../' leaves"),
        (lambda content: content["meta"].update(prefix="none/"), "no folder of images; tried .*data.images"),
        (lambda content: content["meta"].update(prefix="OK/"), "no folder of images; tried .*data.images"),
        (
            lambda content: content["meta"].update(normal_class="good"),
            "meta.normal_class 'good' is the anomaly_class",
        ),
        (_set("image_path", "OK/" + "x" * 300 + ".jpg", 0), "no such file"),
        (_set("image_path", "x" * 300 + "/y.jpg", 0), "no such file"),
        (lambda content: content["test"].append(content["train"][0]), "listed in both splits"),
        (
            lambda content: content["train"].append(content["train"][0]),
            "sample bolt_0001_OK has view C1 twice, keep one: ",
        ),
    ],
)
def test_a_wrong_list_names_the_file_the_entry_and_the_reason(root, change, message):
    edit_list(root, "bolt", change)
    with pytest.raises(DataProblems, match=message) as error:
        load_index(root)
    assert "bolt.json: " in str(error.value)
    assert "\n" not in str(error.value)  # the one mistake is one line, without consequences as problems


def test_a_wrong_image_folder_is_one_problem_and_not_one_for_each_picture(root):
    (root / "realiad_512" / "bolt").mkdir(parents=True)
    with pytest.raises(
        DataProblems, match=r"none of its 50 images is below \S*realiad_512/bolt; check meta.prefix"
    ):
        load_index(root, ["bolt"], images="realiad_512")


@pytest.mark.parametrize("images", ["/tmp", "../other"])
def test_the_image_folder_stays_below_the_root(root, images):
    with pytest.raises(UserError, match="data.images .* name a folder below"):
        load_index(root, images=images)


def test_a_list_that_is_a_folder_is_named(root):
    (root / "realiad_jsons/nut.json").mkdir()
    with pytest.raises(DataProblems, match=r"nut.json: no such file"):
        load_index(root)


def test_a_variant_that_is_not_there_is_never_replaced_by_the_full_lists(tmp_path):
    root = write_realiad(tmp_path, size=16, lists="explicit_full", images="explicit_full")
    assert len(load_index(root)) == 20
    with pytest.raises(UserError, match="no list <category>.json in any of"):
        load_index(root, lists="realiad_jsons_fuiad_0.2")


def test_noisy_training_is_used_and_said(root):
    edit_list(root, "bolt", _set("anomaly_class", "HS"))
    index = load_index(root, ["bolt"])
    assert index.notes == ("bolt: 1 training views are labelled defective and are used",)
    assert index.select(split="train").samples[0].label == 1


def test_all_problems_come_at_once(root):
    edit_list(root, "bolt", _set("image_path", "../a.jpg"))
    edit_list(root, "cap", _set("image_path", "../b.jpg", 3))
    (root / "realiad_64/cap/OK/S0001/cap_0001_OK_C1_20240101010000.jpg").unlink()
    with pytest.raises(DataProblems) as error:
        load_index(root)
    text = "\n".join(error.value.problems)
    assert "'../a.jpg'" in text
    assert "'../b.jpg'" in text
    assert "cap_0001_OK_C1_20240101010000.jpg' no such file" in text


def test_links_that_leave_the_root_are_refused(root, tmp_path):
    outside = tmp_path / "outside.jpg"
    victim = root / "realiad_64/bolt/OK/S0001/bolt_0001_OK_C1_20240101010000.jpg"
    shutil.move(victim, outside)
    victim.symlink_to(outside)
    with pytest.raises(DataProblems, match="is a link out of"):
        load_index(root)
    victim.unlink()
    shutil.move(root / "realiad_64/bolt/OK/S0002", tmp_path / "S0002")
    (root / "realiad_64/bolt/OK/S0002").symlink_to(tmp_path / "S0002")
    with pytest.raises(DataProblems, match="its folder is a link out of"):
        load_index(root)


def test_the_image_folder_itself_may_be_a_link(root, tmp_path):
    before = load_index(root)
    shutil.move(root / "realiad_64", tmp_path / "big_disk")
    (root / "realiad_64").symlink_to(tmp_path / "big_disk")
    assert load_index(root) == before


def test_broken_json_is_named(root):
    (root / "realiad_jsons/cap.json").write_text("[" * 100_000)
    with pytest.raises(DataProblems, match=r"cap.json: not JSON"):
        load_index(root)


def test_missing_root_and_unknown_category_name_the_fix(root, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_index(tmp_path / "none")
    with pytest.raises(UserError, match="data.root is empty"):
        load_index("")
    with pytest.raises(UserError, match=r"unknown category 'bot', did you mean 'bolt'\? .* holds: bolt, cap"):
        load_index(root, ["bot"])
    with pytest.raises(UserError, match="no list <category>.json"):
        load_index(root, lists="none")


def test_new_pictures_are_grouped_by_name_and_masks_left_out(root):
    index = load_new_images(root / "realiad_64/bolt/NG")
    assert [sample.id for sample in index.samples] == [f"bolt_{n:04d}_NG_HS" for n in (8, 9, 10)]
    assert {sample.label for sample in index.samples} == {None}
    assert index.categories == ("bolt",)
    assert all(view.image.endswith(".jpg") for sample in index.samples for view in sample.views)


def test_a_mask_without_its_picture_is_no_picture_and_not_passed_over(root, tmp_path):
    folder = tmp_path / "new"
    shutil.copytree(root / "realiad_64/bolt/NG/HS/S0008", folder)
    next(folder.glob("*_C1_*.jpg")).unlink()
    with pytest.raises(DataProblems, match=r"_C1_\d+.png: a mask without its image, or an image among"):
        load_new_images(folder)


def test_views_of_a_good_part_may_have_other_formats(root, tmp_path):
    folder = tmp_path / "new"
    shutil.copytree(root / "realiad_64/bolt/OK/S0001", folder)
    one = next(folder.glob("*_C2_*.jpg"))
    Image.open(one).save(one.with_suffix(".png"))
    one.unlink()
    (sample,) = load_new_images(folder).samples
    assert len(sample.views) == 5
    assert sample.views[1].image == one.with_suffix(".png").name


def test_a_root_that_is_a_link_is_read_and_a_list_may_be_a_link_inside_it(root, tmp_path):
    (root / "realiad_jsons/cap.json").rename(root / "old.json")
    (root / "realiad_jsons/cap.json").symlink_to("../old.json")
    (tmp_path / "today").symlink_to(root)
    assert load_index(tmp_path / "today").samples == load_index(root).samples
    with pytest.raises(UserError, match=r"data.lists '../x' leaves .* name a folder below"):
        load_index(root, lists="../x")


def test_new_pictures_of_one_sample_belong_together_in_spite_of_a_doubled_underscore(root, tmp_path):
    folder = tmp_path / "new"
    shutil.copytree(root / "realiad_64/bolt/OK/S0001", folder)
    one = next(folder.glob("*_C3_*"))
    one.rename(folder / one.name.replace("bolt_0001", "bolt__0001"))
    (folder / "._bolt_0001_OK_C1_1.jpg").write_bytes(b"what a Mac leaves")
    (sample,) = load_new_images(folder).samples
    assert (sample.id, sample.category, len(sample.views)) == ("bolt_0001_OK", "bolt", 5)


def test_new_pictures_with_other_names_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_new_images(tmp_path / "none")
    with pytest.raises(UserError, match="no image"):
        load_new_images(tmp_path)
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(DataProblems, match=r"holiday.jpg: rename it: a name is <category>"):
        load_new_images(tmp_path)
