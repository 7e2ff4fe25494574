"""Prepared data is the files again: the same index, the same bytes, the same refusals."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_realiad import edit_list, write_realiad

from mvead_jax.backbones.base import Backbone
from mvead_jax.backbones.info import Info, Tap
from mvead_jax.config.schema import FeaturesConfig
from mvead_jax.data.file_check import check_files
from mvead_jax.data.image_files import digest
from mvead_jax.data.images import image_size, open_image
from mvead_jax.data.loading import load_sample
from mvead_jax.data.readers import open_data
from mvead_jax.data.realiad import load_index
from mvead_jax.data.tfds_realiad import builder as builder_module
from mvead_jax.data.tfds_realiad import prepare as prepare_module
from mvead_jax.data.tfds_realiad.builder import RealIad, config_for, in_shards
from mvead_jax.data.tfds_realiad.prepare import prepare
from mvead_jax.features.cache import Extraction
from mvead_jax.features.extraction import extract
from mvead_jax.geometry.matching import picture_sizes
from mvead_jax.runtime.errors import DataProblems, UserError
from mvead_jax.runtime.files import sha256


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return write_realiad(tmp_path_factory.mktemp("data") / "raw", size=40)


@pytest.fixture(scope="module")
def kept(drawn, tmp_path_factory):
    output = tmp_path_factory.mktemp("prepared") / "out"
    prepare(drawn, output)
    return output


@pytest.fixture
def root(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "raw")


@pytest.fixture
def prepared(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "out")


FOLDER = Path("cap/realiad/64-realiad_jsons/1.0.0")


def test_the_index_is_that_of_the_files(drawn, kept):
    files, records = load_index(drawn), open_data(kept)
    assert records.samples == files.samples
    assert (records.views, records.notes) == (files.views, files.notes)
    assert open_data(kept, ["cap"]).samples == load_index(drawn, ["cap"]).samples
    assert open_data(drawn).samples == files.samples  # a folder of files is still one


def test_pictures_and_masks_are_the_files_byte_for_byte(drawn, kept):
    index = open_data(kept)
    for sample in index.samples:
        for view in sample.views:
            for path in filter(None, (view.image, view.mask)):
                assert (index.root / path).open().read() == (drawn / path).read_bytes()
                assert digest(index.root / path) == digest(drawn / path) == sha256(drawn / path)
    picture = index.root / index.samples[0].views[0].image
    assert image_size(picture) == open_image(picture).size == (40, 40)
    assert picture_sizes(index.select(split="train")) == ((40, 40),) * 5
    check_files(index)


def test_tfds_reads_it_alone(drawn, kept):
    source = tfds.builder_from_directory(kept / FOLDER).as_data_source("test")
    samples = load_index(drawn, ["cap"]).select(split="test").samples
    assert len(source) == len(samples)
    for element, sample in zip(source, samples, strict=True):
        assert element["sample"].decode() == sample.id
        assert (element["category"], element["label"]) == (b"cap", sample.label)
        views = element["views"]
        assert [name.decode() for name in views["name"]] == [view.name for view in sample.views]
        assert list(views["label"]) == [view.label for view in sample.views]
        for at, view in enumerate(sample.views):
            assert views["image"][at] == (drawn / view.image).read_bytes()
            assert views["mask"][at] == ((drawn / view.mask).read_bytes() if view.mask else b"")
            assert views["mask_path"][at].decode() == (view.mask or "")


def test_the_builder_alone_makes_all_categories_from_a_manual_directory(drawn, tmp_path):
    builder = RealIad(config=config_for("realiad_64", "realiad_jsons"), data_dir=tmp_path / "own")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=drawn))
    assert open_data(tmp_path / "own").samples == load_index(drawn).samples
    assert len(builder.as_data_source("train")) == 8


def test_the_builder_alone_checks_the_files_too(root, tmp_path):
    next((root / "realiad_64/cap/OK").rglob("*.jpg")).write_text("text")
    builder = RealIad(config=config_for("realiad_64", "realiad_jsons"), data_dir=tmp_path / "own")
    with pytest.raises(DataProblems, match="not an image"):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
    assert not list((tmp_path / "own").rglob("*array_record*"))


def test_there_is_a_config_for_each_resolution_and_list():
    names = set(RealIad.builder_configs)
    assert {"256-realiad_jsons", "512-realiad_jsons_sv", "raw-realiad_jsons_fuiad_0.4"} <= names
    assert len(names) == 24
    assert config_for("realiad_1024", "realiad_jsons") is RealIad.builder_configs["1024-realiad_jsons"]
    assert config_for("my/256", "lists").name == "in_my_256-lists"
    assert config_for("", "lists").name == "in_root-lists"


def colours(images):
    """A backbone of four patches: every pixel of theirs."""
    patches = np.asarray(images).reshape(len(images), 2, 8, 2, 8, 3).swapaxes(2, 3)
    return {"patches": patches.reshape(len(images), 2, 2, 192)}


def test_features_are_the_same_byte_for_byte(drawn, kept, tmp_path):
    info = Info("colours", "none", True, "none", "none", 8, {"patches": Tap(8, 192)}, ())
    backbone = Backbone(info, ("patches",), {"patches": (2, 2, 192)}, 16, "one", None, colours)
    stores = []
    for name, root in (("files", drawn), ("records", kept)):
        index = open_data(root, ["cap"]).select(split="test")
        stores.append(extract(Extraction(index, backbone, FeaturesConfig(), tmp_path / name, 8))["patches"])
    np.testing.assert_array_equal(stores[0][:], stores[1][:])
    chunks = [
        [path.read_bytes()[:-32] for path in (tmp_path / name).glob("*.npy")]  # the seal has the name in it
        for name in ("files", "records")
    ]
    assert chunks[0] == chunks[1]


def test_shards_are_cut_before_they_are_too_large_and_read_in_order(drawn, tmp_path, monkeypatch):
    samples = load_index(drawn, ["cap"]).select(split="test").samples
    most = max(builder_module.bytes_of(drawn, [sample]) for sample in samples)
    shards = in_shards(drawn, samples, 2 * most)
    assert [sample for shard in shards for sample in shard] == list(samples)
    assert len(shards) >= 3
    assert in_shards(drawn, samples, 1) == [[sample] for sample in samples]
    assert in_shards(drawn, [], 1) == []
    monkeypatch.setattr(builder_module.in_shards, "__defaults__", (2 * most,))
    prepare(drawn, tmp_path / "out", ["cap"])
    assert len(list((tmp_path / "out" / FOLDER).glob("realiad-test.array_record-*"))) == len(shards)
    assert open_data(tmp_path / "out").samples == load_index(drawn, ["cap"]).samples
    index = open_data(tmp_path / "out")
    np.testing.assert_array_equal(
        load_sample(index, index.samples[-1], 32)[0], load_sample(load_index(drawn), index.samples[-1], 32)[0]
    )


# Run again.


def written(output):
    return {path: path.stat().st_mtime_ns for path in output.rglob("*array_record*")}


def test_what_is_there_is_not_made_again(drawn, kept):
    before = written(kept)
    prepare(drawn, kept)
    assert written(kept) == before


def test_a_changed_picture_means_its_category_again(root, tmp_path):
    output = tmp_path / "out"
    prepare(root, output)
    before = written(output)
    one, other = sorted((root / "realiad_64/cap/OK").rglob("*_C1_*.jpg"))[:2]
    shutil.copyfile(one, other)
    prepare(root, output)
    changed = {path for path, time in written(output).items() if before[path] != time}
    assert {path.relative_to(output).parts[0] for path in changed} == {"cap"}
    path = other.relative_to(root).as_posix()
    assert (open_data(output).root / path).open().read() == one.read_bytes()


def test_a_changed_list_means_its_category_again(root, tmp_path):
    prepare(root, tmp_path / "out")
    edit_list(root, "bolt", lambda content: content["test"][0].update(anomaly_class="HS"))
    prepare(root, tmp_path / "out")
    assert open_data(tmp_path / "out").samples == load_index(root).samples


def test_only_the_chosen_categories_are_made_and_more_can_be_added(drawn, tmp_path):
    output = tmp_path / "out"
    prepare(drawn, output, ["cap"])
    assert open_data(output).categories == ("cap",)
    before = written(output)
    prepare(drawn, output, ["bolt"])
    assert open_data(output).categories == ("bolt", "cap")
    assert before.items() <= written(output).items()


def test_a_run_that_stops_leaves_nothing_that_looks_whole(drawn, tmp_path, monkeypatch):
    output, read = tmp_path / "out", builder_module._read

    def failing(root, view):
        if "cap_0006" in view.image:
            raise KeyboardInterrupt
        return read(root, view)

    monkeypatch.setattr(builder_module, "_read", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare(drawn, output)
    assert open_data(output, ["bolt"]).categories == ("bolt",)
    for categories in ([], ["cap"], ["bolt", "cap"]):
        with pytest.raises(UserError, match=r"preparing cap was not finished; run mvead prepare again"):
            open_data(output, categories)
    monkeypatch.undo()
    before = written(output)
    prepare(drawn, output)
    assert before.items() <= written(output).items()
    assert open_data(output).samples == load_index(drawn).samples
    assert not list(output.rglob("incomplete*"))


# What a data set may be.


def test_incomplete_samples_are_kept_and_settled_by_who_reads(root, tmp_path):
    edit_list(root, "bolt", lambda content: content["train"].pop(7))
    prepare(root, tmp_path / "out")
    with pytest.raises(
        DataProblems, match=r"bolt: train sample bolt_0002_OK has no C3.*data.incomplete=drop"
    ):
        open_data(tmp_path / "out")
    for policy in ("drop", "keep"):
        files, records = (open_data(place, incomplete=policy) for place in (root, tmp_path / "out"))
        assert (files.samples, files.notes) == (records.samples, records.notes)
        assert len(records.notes) == 1


def test_training_views_labelled_defective_are_noted_as_from_files(root, tmp_path):
    edit_list(root, "cap", lambda content: content["train"][0].update(anomaly_class="HS"))
    prepare(root, tmp_path / "out")
    assert open_data(tmp_path / "out").notes == load_index(root).notes != ()


def test_without_test_samples(root, tmp_path):
    edit_list(root, "cap", lambda content: content.update(test=[]))
    prepare(root, tmp_path / "out", ["cap"])
    assert open_data(tmp_path / "out").samples == load_index(root, ["cap"]).samples


@pytest.mark.parametrize("place", ["explicit_full", "."])
def test_the_other_layouts(tmp_path, place):
    root = write_realiad(tmp_path / "raw", size=16, lists=place, images=place, categories=("cap",))
    prepare(root, tmp_path / "out")
    assert open_data(tmp_path / "out").samples == load_index(root).samples


def test_several_lists_and_resolutions_lie_beside_each_other(root, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(root / "realiad_64", root / "realiad_512")
    shutil.copytree(root / "realiad_jsons", root / "realiad_jsons_sv")
    edit_list(root, "cap", lambda content: content.update(test=[]), lists="realiad_jsons_sv")
    prepare(root, output, ["cap"], images="realiad_64")
    prepare(root, output, ["cap"], images="realiad_512")
    prepare(root, output, ["cap"], images="realiad_512", lists="realiad_jsons_sv")
    with pytest.raises(
        UserError, match=r"cap was prepared more than once \(.*512.*64.*\); choose by data.images"
    ):
        open_data(output)
    assert open_data(output, images="realiad_512").samples[0].views[0].image.startswith("realiad_512/")
    assert len(open_data(output, lists="realiad_jsons_sv")) == 4
    with pytest.raises(
        UserError, match="prepared without lists 'none' of any images; has data.lists=realiad_j"
    ):
        open_data(output, lists="none")


def test_an_unknown_category_names_the_nearest(kept):
    with pytest.raises(UserError, match="unknown category 'cup', did you mean 'cap'.* holds: bolt, cap"):
        open_data(kept, ["cup"])


# Damage, and hostile input.


def _set(field, value):
    return lambda content: content["train"][2].update({field: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("image_path", "../../../secret.jpg"), "leaves the image folder"),
        (_set("image_path", "/etc/passwd"), "is absolute"),
        (_set("mask_path", "../x.png"), "leaves the image folder"),
        (_set("image_path", "OK/S0001/none.jpg"), "no such file"),
        (lambda content: content["meta"].update(prefix="../"), "meta.prefix '../' leaves"),
    ],
)
def test_what_the_reader_of_files_refuses_is_refused_before_anything_is_written(
    root, tmp_path, change, message
):
    edit_list(root, "cap", change)
    with pytest.raises(DataProblems, match=message):
        prepare(root, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_pictures_that_are_none_are_all_named_before_anything_is_written(root, tmp_path):
    for path in sorted((root / "realiad_64/cap/OK").rglob("*.jpg"))[:2]:
        path.write_text("text")
    with pytest.raises(DataProblems) as error:
        prepare(root, tmp_path / "out")
    assert len(error.value.problems) == 2
    assert not written(tmp_path / "out")


def test_a_file_that_vanishes_while_it_is_prepared_is_named(root, tmp_path, monkeypatch):
    monkeypatch.setattr(
        prepare_module,
        "check_files",
        lambda index: next((root / "realiad_64/cap").rglob("*C3*.jpg")).unlink(),
    )
    with pytest.raises(UserError, match=r"C3.*\.jpg: No such file"):
        prepare(root, tmp_path / "out", ["cap"])
    assert not written(tmp_path / "out")


def read_all(prepared):
    index = open_data(prepared, ["cap"])
    for sample in index.samples:
        load_sample(index, sample, 16)


def damaged(prepared, kind):
    folder = prepared / FOLDER
    shard = next(folder.glob("realiad-train*"))
    content = shard.read_bytes()
    if kind == "flipped":
        at = 5_000  # inside an image
        shard.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif kind == "cut":
        shard.write_bytes(content[:-65536])
    elif kind == "gone":
        shard.unlink()
    elif kind == "swapped":  # a whole file of another category
        shutil.copyfile(next((prepared / "bolt").rglob("realiad-train*")), shard)
    elif kind == "text":
        (folder / "metadata.json").write_text("{")
    elif kind == "empty":
        (folder / "metadata.json").write_text("{}")
    elif kind == "climbing":
        path = folder / "metadata.json"
        path.write_text(path.read_text().replace('"category": "cap"', '"category": "../cap"'))
    elif kind == "label":
        path = folder / "metadata.json"
        path.write_text(path.read_text().replace('"label": 0', '"label": "0"', 1))
    elif kind == "another label":
        path = folder / "metadata.json"
        path.write_text(path.read_text().replace('"label": 1', '"label": 0', 1))
    elif kind == "info":
        (folder / "dataset_info.json").write_text("{}")
    elif kind == "cut info":
        path = folder / "dataset_info.json"
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "no category":
        path = folder / "metadata.json"
        path.write_text(path.read_text().replace('"category": "cap"', '"category": ""', 1))
    elif kind == "twice":
        content = json.loads((folder / "metadata.json").read_text())
        content["samples"]["test"][1]["views"] = content["samples"]["test"][0]["views"]
        (folder / "metadata.json").write_text(json.dumps(content))
    elif kind == "fewer":
        content = json.loads((folder / "metadata.json").read_text())
        content["samples"]["train"].pop()
        (folder / "metadata.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("flipped", "can't be read .*hash mismatch"),
        ("cut", "a shard of train is cut"),
        ("gone", "No such file"),
        ("swapped", "is not what was prepared"),
        ("text", "metadata.json: not readable as JSON"),
        ("empty", "not what mvead prepare writes .'lists'."),
        ("climbing", "not what mvead prepare writes .record 0 of train."),
        ("label", "not what mvead prepare writes .record 0 of train."),
        ("another label", "metadata.json: changed since it was written; delete this folder"),
        ("info", "not what mvead prepare writes|no records of"),
        ("cut info", "not what mvead prepare writes .*"),
        ("no category", "not what mvead prepare writes .record 0 of train."),
        ("twice", "not what mvead prepare writes .*jpg more than once"),
        ("fewer", "not what mvead prepare writes .4 records of train."),
    ],
)
def test_damaged_prepared_data_is_one_line_that_names_it(prepared, kind, message):
    damaged(prepared, kind)
    with pytest.raises(UserError, match=message) as error:
        read_all(prepared)
    assert "cap/realiad" in str(error.value)
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    "kind", ["cut", "gone", "text", "empty", "another label", "cut info", "twice", "fewer"]
)
def test_damaged_prepared_data_is_made_again(drawn, prepared, kind):
    damaged(prepared, kind)
    prepare(drawn, prepared)
    assert open_data(prepared).samples == load_index(drawn).samples


@pytest.mark.parametrize("entry", [{"category": 1, "images": "", "lists": ""}, {"category": "cap"}, "cap"])
def test_a_strange_list_of_what_is_not_finished_is_one_line(prepared, entry):
    (prepared / "unfinished.json").write_text(json.dumps([entry]))
    with pytest.raises(UserError, match="unfinished.json: not what mvead prepare writes; delete it"):
        open_data(prepared)


def test_one_path_of_two_pictures_is_refused(prepared):
    listed = {name: prepared / name / FOLDER.relative_to("cap") / "metadata.json" for name in ("bolt", "cap")}
    bolt, cap = (json.loads(path.read_text()) for path in listed.values())
    del cap["seal"]  # as of an earlier version
    cap["samples"]["test"][0]["views"][0]["image"] = bolt["samples"]["test"][0]["views"][0]["image"]
    listed["cap"].write_text(json.dumps(cap))
    with pytest.raises(UserError, match=r"cap/.*: realiad_64/bolt/.*jpg is another image in .*bolt/"):
        open_data(prepared)


def test_no_folder_but_its_own_is_removed(drawn, tmp_path):
    theirs = tmp_path / "out/cap/downloads/file"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("text")
    prepare(drawn, tmp_path / "out", ["cap"])
    assert theirs.read_text() == "text"
    assert not list((tmp_path / "out").rglob("incomplete*"))


def test_a_full_disk_is_noticed_before_the_work(drawn, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"GB needed, 0.00 GB free; make room"):
        prepare(drawn, tmp_path / "out")
    assert not written(tmp_path / "out")


def test_memory_holds_a_few_samples_and_few_files_are_open(kept):
    index = open_data(kept)
    for sample in index.samples:
        load_sample(index, sample, 16)
    assert index.root._record.cache_info().currsize == 16 < len(index)
    assert len(os.listdir("/proc/self/fd")) < 200
