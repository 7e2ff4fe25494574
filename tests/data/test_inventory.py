import shutil

import pytest
from fake_realiad import edit_list, write_realiad

from mvead_jax.data import realiad_counts as module
from mvead_jax.data.check import check_data
from mvead_jax.data.inventory import as_markdown, data_report, digests_of, identical_images
from mvead_jax.data.realiad import load_index
from mvead_jax.data.realiad_counts import unexpected_counts
from mvead_jax.data.records import DatasetIndex, Sample, View, build_index


@pytest.fixture
def root(tmp_path):
    return write_realiad(
        tmp_path / "raw", size=16, categories=("bolt", "cap"), train=4, normal=2, defective=3
    )


def report_on(root, lists="realiad_jsons"):
    index = load_index(root, lists=lists, incomplete="keep")
    return data_report(index, lists, digests_of(index))


def test_counts_by_category_split_class_view_and_defect(root):
    found = report_on(root)
    test = found["categories"]["cap"]["test"]
    assert (test["samples"], test["samples_ok"], test["samples_ng"]) == (5, 2, 3)
    assert (test["images"], test["images_ok"], test["images_ng"], test["masks"]) == (25, 16, 9, 9)
    assert test["images_ok_of_ng_samples"] == 6  # defective samples from the sides where nothing shows
    assert (test["base_rate_samples"], test["base_rate_images"]) == (3 / 5, 9 / 25)
    assert test["by_view"]["C1"] == {"images_ok": 2, "images_ng": 3}
    assert test["by_view"]["C5"] == {"images_ok": 5, "images_ng": 0}
    assert test["by_defect"] == {"HS": {"samples": 3, "images_ok": 6, "images_ng": 9}}
    train = found["categories"]["cap"]["train"]
    assert (train["samples"], train["images"], train["base_rate_samples"]) == (4, 20, 0.0)
    assert train["by_defect"] == {}


def test_the_total_is_the_sum_of_the_categories(root):
    found = report_on(root)
    for split in ("train", "test"):
        own = [counts[split] for counts in found["categories"].values()]
        total = found["total"][split]
        for key in ("samples", "samples_ok", "samples_ng", "images", "images_ok", "images_ng", "masks"):
            assert total[key] == sum(counts[key] for counts in own)
    assert found["total"]["test"]["by_view"]["C2"] == {"images_ok": 4, "images_ng": 6}
    assert found["total"]["test"]["base_rate_samples"] == 0.6


def test_what_is_odd_is_counted(root):
    def change(content):
        content["test"] = [entry for entry in content["test"] if "0001" not in entry["image_path"]]
        del content["train"][7]
        for entry in content["test"][-5:]:
            entry["mask_path"] = None

    edit_list(root, "cap", change)
    found = report_on(root)["categories"]
    assert found["cap"]["train"]["incomplete_samples"] == 1
    assert found["cap"]["test"]["incomplete_samples"] == 0
    assert found["cap"]["test"]["ng_samples_without_mask"] == 1
    assert found["bolt"]["test"]["ng_samples_without_mask"] == 0


def test_images_of_the_same_bytes_within_and_across_splits_are_named(root):
    pictures = sorted((root / "realiad_64").rglob("*_C1_*.jpg"))
    train, other, test = (next(p for p in pictures if f"cap_000{n}" in p.name) for n in (1, 2, 5))
    shutil.copyfile(train, other)
    assert report_on(root)["identical"]["within_a_split"] == 1
    shutil.copyfile(train, test)
    same = report_on(root)["identical"]
    assert (same["across_splits"], same["within_a_split"], same["images"]) == (1, 0, 3)
    assert [name.split("/")[-1] for name in same["first"][0]] == [test.name, train.name, other.name]
    assert same["first"][0][0].startswith("test: realiad_64/cap/OK/S0005/")


def test_groups_across_splits_come_first_and_a_few_are_named():
    def sample(number, split):
        return Sample(f"x_{number:04d}_OK", "x", split, (View("C1", f"{split}/{number}"),))

    samples = [sample(number, split) for split in ("train", "test") for number in range(60)]
    digests = {f"train/{n}": f"{n // 2}" for n in range(60)} | {f"test/{n}": f"t{n}" for n in range(60)}
    digests["test/9"] = "20"
    found = identical_images(samples, digests)
    assert (found["across_splits"], found["within_a_split"], found["images"]) == (1, 29, 61)
    assert found["first"][0] == ["test: test/9", "train: train/40", "train: train/41"]
    assert len(found["first"]) == 20


def test_images_without_labels_have_no_base_rate(tmp_path):
    views = (View("C1", "a.jpg"), View("C2", "b.jpg"))
    index = build_index(tmp_path, [Sample("x_0001_OK", "x", "test", views)])
    counts = data_report(index, "none")["total"]["test"]
    assert (counts["samples_ok"], counts["samples_ng"], counts["base_rate_samples"]) == (0, 0, None)
    assert "| x | 1 | 0 | 0 | - | 2 | 0 | 0 | - |" in as_markdown(data_report(index, "none"))


def test_the_tables_hold_the_counts(root):
    text = as_markdown(report_on(root))
    assert "| cap | 5 | 2 | 3 | 60.0 % | 25 | 16 | 9 | 36.0 % | 9 | 0 | 0 |" in text
    assert "| total | 10 | 4 | 6 | 60.0 % | 50 | 32 | 18 | 36.0 % | 18 | 0 | 0 |" in text
    assert "| cap | 2 / 3 | 2 / 3 | 2 / 3 | 5 / 0 | 5 / 0 |" in text
    assert "| cap | 3 / 9 |" in text
    assert "0 images share their bytes" in text


RIGHT = {
    "train images": 40,
    "train samples": 8,
    "test images": 50,
    "test samples": 10,
    "test samples OK": 4,
    "test samples NG": 6,
    "test masks": 18,
}


def test_counts_are_checked_where_the_categories_and_lists_are_real_iads(root, monkeypatch):
    samples = load_index(root).samples
    assert unexpected_counts(samples, "realiad_jsons") == []  # not its categories
    monkeypatch.setattr(module, "CATEGORIES", frozenset({"bolt", "cap"}))
    monkeypatch.setitem(module.EXPECTED, "realiad_jsons", RIGHT)
    assert unexpected_counts(samples, "realiad_jsons") == []
    monkeypatch.setitem(module.EXPECTED, "realiad_jsons", RIGHT | {"train images": 1045, "test masks": 17})
    wrong = ["train images 40, Real-IAD has 1,045", "test masks 18, Real-IAD has 17"]
    assert unexpected_counts(samples, "realiad_jsons") == wrong
    assert set(wrong) <= set(check_data(root).notes)
    assert unexpected_counts(samples, "of_my_own") == []
    assert unexpected_counts([one for one in samples if one.category == "bolt"], "realiad_jsons") == []


def test_the_table_of_expected_counts_agrees_with_itself():
    assert len(module.CATEGORIES) == 30
    full = module.EXPECTED["realiad_jsons"]
    assert full["train images"] == 5 * full["train samples"]
    assert full["test images"] == 5 * full["test samples"]
    assert full["test samples"] == full["test samples OK"] + full["test samples NG"]
    assert full["test samples NG"] / full["test samples"] == pytest.approx(0.683, abs=1e-3)
    for lists in ("realiad_jsons_sv", "realiad_jsons_fuiad_0.0", "realiad_jsons_fuiad_0.4"):
        assert set(module.EXPECTED[lists]) == {"train images", "test images", "test masks"}


def test_an_index_of_one_split(root):
    index = load_index(root)
    part = DatasetIndex(index.root, index.select(split="test").samples, index.views)
    found = data_report(part, "realiad_jsons")
    assert found["total"]["train"]["samples"] == 0
    assert "## train" not in as_markdown(found)
