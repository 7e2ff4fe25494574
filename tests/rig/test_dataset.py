"""The rendered set on disk: layout, reuse, resumption, and what is refused."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvead_jax.data.realiad import load_index
from mvead_jax.rig.camera_file import cameras_json
from mvead_jax.rig.dataset import render_rig
from mvead_jax.rig.layout import SampleName
from mvead_jax.rig.sample import render_sample
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import locked

SMALL = {"families": ["flange", "terminal"], "train": 1, "test_normal": 1, "test_defective": 5, "size": 64}


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    root = tmp_path_factory.mktemp("rig")
    render_rig(root, **SMALL, workers=1)
    return root


@pytest.fixture
def copy(rig, tmp_path):
    return shutil.copytree(rig, tmp_path / "rig")


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_the_lists_are_those_of_real_iad(rig):
    assert not list(rig.glob("rig.partial*"))
    content = json.loads((rig / "realiad_jsons/flange.json").read_text())
    assert content["meta"] == {"prefix": "flange/", "normal_class": "OK"}
    assert len(content["train"]) == 5
    assert len(content["test"]) == 30
    for one in content["train"] + content["test"]:
        assert set(one) == {"category", "anomaly_class", "image_path", "mask_path"}
        with Image.open(rig / "realiad_64/flange" / one["image_path"]) as picture:
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (64, 64), "RGB")
        assert (one["mask_path"] is None) == (one["anomaly_class"] == "OK")
        if one["mask_path"]:
            with Image.open(rig / "realiad_64/flange" / one["mask_path"]) as mask:
                assert (mask.format, mask.size, mask.mode) == ("PNG", (64, 64), "L")
                assert set(np.unique(mask)) == {0, 255}
            assert one["anomaly_class"] in one["image_path"]
    classes = {one["anomaly_class"] for one in content["test"]}
    assert classes == {"OK", "HS", "AK", "ZW", "QS", "YW"}
    listed = {one["image_path"] for one in content["train"] + content["test"]}
    found = {
        str(p.relative_to(rig / "realiad_64/flange")) for p in (rig / "realiad_64/flange").rglob("*.jpg")
    }
    assert listed == found


def test_the_reader_takes_it_without_a_complaint(rig):
    index = load_index(rig, ["flange", "terminal"])
    assert index.notes == ()
    for category in ("flange", "terminal"):
        assert len(index.select(category=category, split="train")) == 1
        test = index.select(category=category, split="test")
        assert test.present().all()
        assert test.present().shape == (6, 5)
        spoilt = [sample for sample in test.samples if sample.label]
        assert len(spoilt) == 5
        for sample in spoilt:  # a defect shows in some views only
            assert 0 < sum(view.label for view in sample.views) < 5


def test_the_number_of_workers_and_of_samples_changes_no_picture(rig, tmp_path):
    render_rig(tmp_path / "r", **(SMALL | {"train": 2, "families": ["terminal"]}), workers=2)
    mine, others = contents(rig), contents(tmp_path / "r")
    shared = [name for name in mine if name.startswith("realiad_64/terminal")]
    assert len(shared) > 35
    assert all(mine[name] == others[name] for name in shared)


def test_another_seed_gives_other_pictures(rig, tmp_path):
    render_rig(tmp_path, families=["terminal"], train=1, test_normal=0, test_defective=0, size=64, seed=1)
    mine, others = contents(rig), contents(tmp_path)
    shared = [name for name in others if name.endswith(".jpg")]
    assert len(shared) == 5
    assert all(mine[name] != others[name] for name in shared)


def test_a_finished_set_is_left_alone(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert render_rig(copy, **SMALL, workers=1).rendered == 0
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_what_is_stored_is_what_was_rendered(rig):
    name = SampleName("terminal", "test_defective", 2)
    rendered = render_sample(name, 0, 64)
    folder = rig / "realiad_64/terminal"
    for view in range(5):
        with Image.open(folder / name.folder / f"{name.stem(view)}.jpg") as picture:
            difference = np.abs(np.asarray(picture).astype(int) - rendered.images[view])
        assert difference.mean() < 4
        mask = folder / name.folder / f"{name.stem(view)}.png"
        if mask.exists():
            with Image.open(mask) as stored:
                np.testing.assert_array_equal(np.asarray(stored) > 0, rendered.masks[view])
        assert mask.exists() == (rendered.masks[view].sum() >= 1)
    assert json.loads((rig / "cameras.json").read_text()) == cameras_json(["flange", "terminal"], 64)


def test_what_was_lost_is_made_again(copy):
    before = contents(copy)
    sorted(copy.rglob("*.jpg"))[0].unlink()
    (copy / "realiad_jsons/terminal.json").unlink()
    assert render_rig(copy, **SMALL, workers=1).rendered == 1
    assert contents(copy) == before
    (copy / "cameras.json").unlink()
    assert render_rig(copy, **SMALL, workers=1).rendered == 0
    assert contents(copy) == before


@pytest.mark.parametrize("pattern", ["*.jpg", "*.png", "realiad_jsons/*.json", "cameras.json"])
def test_what_a_user_changed_is_named_and_kept(copy, pattern):
    mine = sorted(copy.rglob(pattern))[0]
    mine.write_bytes(b"mine")
    with pytest.raises(UserError, match=f"{mine.name}: changed since the rig wrote it; delete it"):
        render_rig(copy, **SMALL, workers=1)
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    render_rig(copy, **SMALL, workers=1)


def test_a_killed_run_goes_on(rig, tmp_path, monkeypatch):
    from mvead_jax.rig import sample

    calls = []

    def killed(root, name, *rest, write=sample.write_sample):
        calls.append(name)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return write(root, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(sample, "write_sample", killed)
        with pytest.raises(KeyboardInterrupt):
            render_rig(tmp_path, **SMALL, workers=1)
    assert not (tmp_path / "rig.json").exists()
    with (tmp_path / "rig.partial.jsonl").open("a") as journal:
        journal.write('{"sample": "fla')  # torn in the middle of a line
    assert render_rig(tmp_path, **SMALL, workers=1).rendered == 11
    assert contents(tmp_path) == contents(rig)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_rendering_processes_end_with_their_parent(tmp_path):
    script = Path(__file__).parents[2] / "scripts/render_rig.py"
    options = ["--output", tmp_path, "--size", "64", "--workers", "2", "--train", "500"]
    parent = subprocess.Popen([sys.executable, script, *options], stderr=subprocess.DEVNULL)
    journal = tmp_path / "rig.partial.jsonl"
    try:
        wait_for(lambda: journal.exists() and journal.read_text().count("\n") > 2)
        children = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/stat")
            if stat(path)[1:2] == [str(parent.pid)]
        ]
        assert len(children) >= 2
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not any(stat(Path(f"/proc/{child}/stat"))[:1] not in ([], ["Z"]) for child in children))
    few = {"families": ["terminal"], "train": 500, "test_normal": 16, "test_defective": 24, "size": 64}
    with pytest.raises(UserError, match="holds another rig .*families"):
        render_rig(tmp_path, **few)


def stat(path):
    """State and parent of a process, from what follows its name; empty if it is gone."""
    try:
        return path.read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return []


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_two_processes_do_not_write_one_set(copy):
    with locked(copy), pytest.raises(UserError, match="another process is at work here"):
        render_rig(copy, **SMALL, workers=1)
    assert render_rig(copy, **SMALL, workers=1).rendered == 0


def test_a_set_of_other_settings_is_refused(copy):
    before = contents(copy)
    with pytest.raises(UserError, match="holds another rig .test_defective is 5, not 0.*delete this one"):
        render_rig(copy, **(SMALL | {"test_defective": 0}))
    assert contents(copy) == before


@pytest.mark.parametrize("name", ["cameras.json", "realiad_jsons", "realiad_64"])
def test_what_the_rig_did_not_write_is_refused(tmp_path, name):
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(UserError, match=f"{name}: exists and was not written by the rig"):
        render_rig(tmp_path, **SMALL)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"settings": {}}', '{"settings": 1}', '{"settings": {}, "files": {}, "samples": {"a": 1}}'],
)
def test_a_damaged_manifest_is_one_clear_line(copy, text):
    (copy / "rig.json").write_text(text)
    with pytest.raises(UserError, match="rig.json: not what the rig writes"):
        render_rig(copy, **SMALL)


def test_a_manifest_cannot_name_files_elsewhere(copy):
    manifest = json.loads((copy / "rig.json").read_text())
    manifest["files"]["../precious"] = "0"
    (copy / "rig.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="'../precious' leaves"):
        render_rig(copy, **SMALL)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"families": ["gear"]}, "unknown family 'gear'; choose from flange, terminal, cogwheel"),
        ({"families": []}, "no family given"),
        ({"train": -1}, "train -1: give 0 to"),
        ({"train": 0, "test_normal": 0, "test_defective": 0}, "nothing to render"),
        ({"size": 8}, "size 8: give 64 to 2048"),
        ({"seed": -1}, "seed -1"),
        ({"workers": 0}, "workers 0"),
    ],
)
def test_bad_values_are_named(tmp_path, change, match):
    with pytest.raises(UserError, match=match):
        render_rig(tmp_path / "r", **(SMALL | change))
    assert not (tmp_path / "r").exists()


def test_an_impossible_folder_and_a_missing_extra_are_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        render_rig(tmp_path / "file", **SMALL)
    for place in (tmp_path / "file/rig", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="choose another --output"):
            render_rig(place, **SMALL)
    monkeypatch.delitem(sys.modules, "mvead_jax.rig.sample", raising=False)
    monkeypatch.delitem(sys.modules, "mvead_jax.rig.mesh", raising=False)
    monkeypatch.setitem(sys.modules, "embreex", None)
    monkeypatch.setitem(sys.modules, "embreex.mesh_construction", None)
    with pytest.raises(UserError, match="renderer is not installed.*pip install"):
        render_rig(tmp_path / "r", **SMALL)
