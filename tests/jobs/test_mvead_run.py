"""MVEAD from images on disk to results: what it leaves, what stopping it costs, what it refuses."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_realiad import edit_list, write_cameras, write_realiad

from mvead_jax.backbones.info import Info, Tap
from mvead_jax.config.io import load_config
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.methods.base import Spec
from mvead_jax.methods.mvead.method import Mvead
from mvead_jax.methods.patchcore.method import PatchCore
from mvead_jax.report.attention import read_attended
from mvead_jax.runtime.errors import UserError
from mvead_jax.scoring.model_store import bank_sizes

ROOT = Path(__file__).parents[2]
SIZE = 40  # of the stored images
STEPS = 36


def fields_for(root, **changes):
    """A small MVEAD: three steps an epoch, 4 x 4 patches."""
    fields = {
        "data.root": str(root),
        "data.image_size": "64",
        "backbone.name": "efficientnet-lite0",
        "backbone.batch_size": "2",
        "geometry.cameras": "cameras.json",
        "fusion.init": "random",
        "train.epochs": "2",
        "train.batch_size": "2",
        "train.centers": "3",
        "train.learning_rate": "1e-3",
        "eval.bootstrap": "20",
    }
    return fields | {key.replace("__", "."): value for key, value in changes.items()}


def config_for(root, **changes):
    return load_config("configs/realiad.py", fields_for(root, **changes))


def write_data(root):
    """`cap` from three sides; `pin` from two others, and a sample of each split lacks one."""
    write_realiad(root, categories=("cap",), train=5, normal=3, defective=3, views=3, size=SIZE)
    write_realiad(root, categories=("pin",), train=4, normal=2, defective=2, views=2, size=SIZE)
    edit_list(root, "pin", lambda content: (content["train"].pop(3), content["test"].pop(3)))
    write_cameras(root, SIZE, cap=(0, 1, 2), pin=(4, 3))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all workdirs, so that they share their features."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(root, runs):
    train(config_for(root, data__categories="cap"), runs / "one")
    score(runs / "one")
    return runs / "one"


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def scores(folder, name="images.csv"):
    return np.array([float(line["score"]) for line in lines(folder / name)])


def results(folder):
    names = [*folder.glob("*.csv"), *(folder / "maps").iterdir()]
    assert len(names) > 2
    return {path.relative_to(folder): path.read_bytes() for path in names}


def test_what_patches_attended_to_is_kept_of_the_telling_samples(run):
    kept = read_attended(run / "scores/attended/cap.npz")
    samples = {line["sample"] for line in lines(run / "scores/samples.csv")}
    assert 1 <= len(kept.samples) <= 12
    assert set(kept.samples) <= samples
    count, views, patches, top = kept.patches.shape
    assert (count, views) == (len(kept.samples), len(kept.views))
    weights = kept.weights.astype(np.float32)
    assert (np.diff(weights, axis=-1) <= 0).all()
    assert 0 < weights.sum(-1).max() <= 1.001
    own_view = np.arange(views)[None, :, None, None] == kept.patches // patches
    assert not (own_view & (weights > 0)).any()
    assert top == min(8, views * patches)


def test_the_workdir_holds_what_scoring_and_going_on_need(run):
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert files > {
        *("config.json", "environment.json", "command.json", "metrics.jsonl", "manifest.json"),
        *("geometry/cap.json", "geometry/pictures/cap.png"),
        *(f"models/cap/{name}" for name in ("state.safetensors", "facts.json", "score_statistics.json")),
        *("scores/samples.csv", "scores/images.csv", "scores/maps/cap.npz", "scores/metrics.json"),
        *("scores/environment.json", "scores/command.json", "scores/bootstrap.npz", "scores/regions.csv"),
        *("scores/attended/cap.npz", "scores/report/index.html"),
    }
    manifest = json.loads((run / "manifest.json").read_text())
    assert set(manifest) == {
        *("config.json", "geometry/cap.json", "models/cap/state.safetensors", "models/cap/facts.json"),
        "models/cap/score_statistics.json",
    }
    assert bank_sizes(run / "models/cap").keys() == {f"banks/C{v}" for v in (1, 2, 3)}
    assert {path.name for path in (run / "checkpoints/cap").iterdir()} == {"origin.json", "3", "6"}
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [event["stage"] for event in events] == ["start", *["training"] * 6, "model"]
    assert [event["step"] for event in events[1:7]] == list(range(6))


def test_training_parts_score_lower_than_normal_and_those_lower_than_defective_ones(root, run, tmp_path):
    score(
        run, tmp_path / "train", images=root / "realiad_64/cap/OK", report=False
    )  # training samples are 1 to 5
    seen, new = scores(tmp_path / "train", "samples.csv")[:5], scores(tmp_path / "train", "samples.csv")[5:]
    assert seen.max() < new.min()
    found = json.loads((run / "scores/metrics.json").read_text())
    assert found["mean"]["sample"]["auroc"] == 1


# ---- killed and stopped


def start(workdir, fields):
    """scripts/train.py as its own process, on as many devices as the tests have: bytes are compared."""
    command = [sys.executable, "scripts/train.py", "--config", "configs/realiad.py", "--workdir", workdir]
    command += [f"--config.{key}={value}" for key, value in fields.items()]
    cache = ROOT / ".pytest_cache" / "jax"
    return subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_COMPILATION_CACHE_DIR": str(cache)},
        stderr=subprocess.PIPE,
        text=True,
    )


def training(workdir):
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines() if '"training"' in line and line.endswith("}")]


def wait_for_step(process, workdir, step):
    while not any(f'"step": {step},' in line for line in training(workdir)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


def test_killed_twice_and_stopped_once_it_goes_on_to_the_same_bytes(root, runs):
    changes = {"data__categories": "cap", "train__epochs": str(STEPS // 3)}
    train(config_for(root, **changes), runs / "whole")
    score(runs / "whole", report=False)
    workdir, rng = runs / "killed", random.Random()
    for moment in (rng.randrange(0, 10), rng.randrange(12, 20)):
        process = start(workdir, fields_for(root, **changes))
        wait_for_step(process, workdir, moment)
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, moment
        assert not (workdir / "models").exists()
    process = start(workdir, fields_for(root, **changes))
    wait_for_step(process, workdir, 22)
    process.terminate()
    _, said = process.communicate()
    assert process.returncode == 143, said
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("training cap: stopped after step ")
    assert last.endswith("; run the same command again to go on")
    stopped = int(last.split(";")[0].split()[-1])
    assert not (workdir / "models").exists()
    train(config_for(root, **changes), workdir)
    score(workdir, report=False)
    assert results(workdir / "scores") == results(runs / "whole/scores")
    assert training(workdir) == training(runs / "whole")
    assert len(training(workdir)) == STEPS > stopped + 1


# ---- settings


@pytest.fixture(scope="module")
def multi(root, runs):
    """One model for two categories with cameras of their own."""
    changes = {"setting": "multi", "data__incomplete": "keep", "train__center_update": "epoch"}
    train(config_for(root, **changes), runs / "multi")
    score(runs / "multi", report=False)
    return runs / "multi"


def test_one_model_for_categories_with_cameras_of_their_own(multi):
    assert [path.name for path in (multi / "models").iterdir()] == ["all"]
    assert {path.stem for path in (multi / "geometry").glob("*.json")} == {"cap", "pin"}
    assert [len(json.loads(p.read_text())["pairs"]) for p in sorted(multi.glob("geometry/*.json"))] == [3, 1]
    images = lines(multi / "scores/images.csv")
    assert len(images) == 6 * 3 + 4 * 2 - 1
    assert np.isfinite(scores(multi / "scores")).all()
    assert np.isfinite(np.load(multi / "scores/maps/pin.npz")["maps"]).all()


def test_a_category_scored_alone_has_the_scores_that_it_has_among_others(multi, tmp_path):
    score(multi, tmp_path / "pin", overrides={"data.categories": "pin"}, report=False)
    together = [line for line in lines(multi / "scores/images.csv") if line["category"] == "pin"]
    for alone, line in zip(lines(tmp_path / "pin/images.csv"), together, strict=True):
        assert alone["image_path"] == line["image_path"]
        # another batch of the attention's matrix products: float32 in another order
        assert float(alone["score"]) == pytest.approx(float(line["score"]), rel=1e-5)


def test_evidence_of_the_other_views_changes_scores_and_the_protocol_says_so(run, multi, tmp_path):
    found = {}
    for workdir, evidence in ((run, "epipolar"), (run, "all"), (multi, "epipolar")):
        output = tmp_path / f"{workdir.name}_{evidence}"
        told = score(workdir, output, overrides={"score.evidence": evidence}, report=False)["protocol"]
        assert told != json.loads((workdir / "scores/metrics.json").read_text())["protocol"]
        found[workdir, evidence] = scores(output)
        assert np.isfinite(scores(output)).all()
        assert (scores(output) != scores(workdir / "scores")).all()
    assert (found[run, "epipolar"] != found[run, "all"]).any()


def test_evidence_without_weight_orders_the_pictures_of_a_view_as_plain_scores_do(run, tmp_path):
    changes = {"score.evidence": "epipolar", "score.weight": "0"}
    score(run, tmp_path / "out", overrides=changes, report=False)
    found, plain = scores(tmp_path / "out"), scores(run / "scores")
    for view in range(3):
        np.testing.assert_array_equal(np.argsort(found[view::3]), np.argsort(plain[view::3]))


@pytest.mark.parametrize("name", ["mvas", "patchcore"])
def test_methods_without_geometry_can_be_trained_for_evidence_and_scored_without(root, runs, name):
    workdir = runs / name
    fields = fields_for(root, data__categories="cap", score__evidence="epipolar", train__epochs="1")
    if name == "mvas":
        fields["fusion.kind"] = "mvas"
    else:
        fields = {key: text for key, text in fields.items() if not key.startswith(("fusion.", "train."))}
        fields["method"] = "patchcore"
    train(load_config("configs/realiad.py", fields), workdir)
    score(workdir, report=False)
    score(workdir, workdir / "without", overrides={"score.evidence": "none"}, report=False)
    assert (scores(workdir / "scores") != scores(workdir / "without")).all()
    (workdir / "geometry/cap.json").unlink()
    assert re.search(
        "geometry.cap.json: no such file, and evidence along epipolar lines .section score. needs it",
        refusal(score, workdir),
    )


# ---- mistakes


def refusal(function, *arguments, **options):
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_geometry_changed_after_training_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run/geometry/cap.json"
    path.write_text(path.read_text().replace('"ok": true', '"ok": false', 1))
    assert re.search(
        r"geometry.cap.json: missing or changed since training", refusal(score, tmp_path / "run")
    )
    path.unlink()
    assert re.search(
        r"geometry.cap.json: no such file, and method=mvead needs it", refusal(score, tmp_path / "run")
    )


@pytest.mark.parametrize(
    "key",
    ["geometry.threshold", "fusion.kind", "fusion.heads", "method", "seed", "train.epochs", "features.dtype"],
)
def test_what_training_fixed_is_not_changed_at_scoring(run, key):
    value = {"fusion.kind": "mvas", "method": "patchcore", "features.dtype": "bfloat16"}.get(key, "2")
    assert re.search(f"config.{key}: fixed by the training", refusal(score, run, overrides={key: value}))


def test_a_damaged_state_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run/models/cap/state.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    assert re.search(
        r"state.safetensors: missing or changed since training", refusal(score, tmp_path / "run")
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"data__categories": "cap", "fusion__heads": "7"},
            "fusion.heads=7: must divide .* width 152",
        ),
        ({"train__mask_ratio": "1.5"}, "train.mask_ratio=1.5: must be at least 0 and at most 1"),
        ({"data__categories": "cap", "geometry__cameras": "one.json"}, "no view 'C2'; it has C1, C3, C9"),
    ],
)
def test_a_wrong_config_is_refused_in_one_line(root, tmp_path, changes, match):
    (root / "one.json").write_text((root / "cameras.json").read_text().replace('"C2"', '"C9"'))
    assert re.search(match, refusal(lambda: train(config_for(root, **changes), tmp_path / "run")))


# ---- the rows of the paper's table 3


ROWS = [
    "none,none",
    *(f"{fusion},{how}" for fusion in ("mvas", "eam") for how in ("copy", "deepsvdd", "mcp", "mcp+reg")),
]


WIDTH = 152


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_ablation_is_a_method(row):
    info = Info("any", "random", False, "none", "none", 16, {"patches": Tap(16, WIDTH)}, ())
    spec = Spec(("C1", "C2"), ("cap",), 32, info, {"patches": (2, 2, WIDTH)}, "cap")
    for bank in ("shared", "per_view"):
        config = load_config(f"configs/ablation.py:{row},{bank}", {"backbone.name": "efficientnet-lite0"})
        method = config.build(spec)
        fusion, objective = row.split(",")
        assert method.bank.per_view == (bank == "per_view")
        assert isinstance(method, PatchCore if fusion == "none" else Mvead)
        assert config.fusion.kind == fusion
        assert config.fusion.init == "copy"
        assert config.train.objective == ("none" if objective in ("none", "copy") else objective)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("eam,mcp", "eam,mcp: give <fusion>,<pretraining>,<bank>"),
        ("eam,mpc,shared", "'mpc' is none of none, copy, deepsvdd, mcp, mcp"),
        ("epi,mcp,shared", "'epi' is none of none, mvas, eam"),
        ("eam,mcp,both", "'both' is none of shared, per_view"),
        ("eam,none,shared", "fusion none goes with pretraining none"),
        ("none,mcp,shared", "fusion none goes with pretraining none"),
    ],
)
def test_a_row_that_is_none_is_refused_in_one_line(row, match):
    assert re.search(match, refusal(load_config, f"configs/ablation.py:{row}"))
