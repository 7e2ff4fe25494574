"""train --add: parts that a person labelled good are learned too, by a bank that grows or by a new model."""

import json
import shutil

import numpy as np
import pytest
from calling import call
from fake_realiad import write_realiad

from mvead_jax.config.io import override
from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.data.added import SCHEMA
from mvead_jax.evaluation.score_files import read_samples
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.postprocess.statistics import FILE as STATISTICS
from mvead_jax.runtime.errors import UserError
from mvead_jax.scoring.model_store import STATE, map_rows, read_facts


def config_for(root, **changes):
    fields = {"decision.held_out": "0.34", "decision.false_alarms": "0.34", "eval.bootstrap": "0"}
    return override(
        PatchCoreConfig(
            data=DataConfig(root=str(root), image_size=32),
            backbone=BackboneConfig(name="efficientnet-lite0", batch_size=2),
        ),
        fields | {key.replace("__", "."): value for key, value in changes.items()},
    )


def labels(path, *samples, scored="test split", schema=SCHEMA):
    entries = [{"category": category, "sample": name, "label": label} for category, name, label in samples]
    path.write_text(json.dumps({"schema": schema, "scored": scored, "samples": entries}))
    return path


def rows(workdir, view="C1"):
    return np.array(map_rows(workdir / "models/cap" / STATE, f"banks/{view}"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_realiad(
        tmp_path_factory.mktemp("data"), size=32, views=3, train=6, normal=4, categories=("cap",)
    )


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "one"
    train(config_for(root), workdir)
    score(workdir, report=False)
    return workdir


def names_of(workdir, label=0):
    return [line.sample for line in read_samples(workdir / "scores") if line.label == label]


def test_a_full_bank_grows_to_what_a_fit_of_all_would_be(run, root, tmp_path, caplog):
    caplog.set_level("INFO")
    workdir = shutil.copytree(run, tmp_path / "run")
    one, two = names_of(run)[:2]
    before = rows(run)
    first = labels(tmp_path / "a.json", ("cap", one, "good"), ("cap", names_of(run, 1)[0], "defective"))
    train(config_for(root), workdir, add=[first])
    assert "its bank grows by 1 samples, without a refit" in caplog.text
    np.testing.assert_array_equal(rows(workdir)[: len(before)], before)
    assert len(rows(workdir)) == len(before) + 4
    second = labels(tmp_path / "b.json", ("cap", two, "good"))
    train(config_for(root), workdir, add=[second])
    fresh = tmp_path / "fresh"
    train(config_for(root), fresh, add=[first, second])
    for name in (STATE, STATISTICS, "facts.json"):
        assert (workdir / "models/cap" / name).read_bytes() == (fresh / "models/cap" / name).read_bytes()
    assert read_facts(workdir / "models/cap")["added"] == [
        ["test split", "cap", one],
        ["test split", "cap", two],
    ]
    told = score(workdir, tmp_path / "out", report=False)
    assert told["protocol"]["added"].startswith("cap 2: parts that a person labelled good")
    scored = {line.sample for line in read_samples(tmp_path / "out")}
    assert not scored & {one, two}
    assert len(scored) == len(read_samples(run / "scores")) - 2
    stamp = (workdir / "models/cap" / STATE).stat().st_mtime_ns
    train(config_for(root), workdir)  # without --add: what was added stays
    assert (workdir / "models/cap" / STATE).stat().st_mtime_ns == stamp


def test_a_coreset_is_fitted_anew(root, run, tmp_path, caplog):
    caplog.set_level("INFO")
    config = config_for(root, bank__kind="coreset", decision__held_out="0")
    train(config, tmp_path / "run")
    train(config, tmp_path / "run", add=[labels(tmp_path / "a.json", ("cap", names_of(run)[0], "good"))])
    assert "grows" not in caplog.text
    fresh = tmp_path / "fresh"
    train(config, fresh, add=[tmp_path / "a.json"])
    np.testing.assert_array_equal(rows(tmp_path / "run"), rows(fresh))


def test_the_attention_of_a_trained_model_stays_and_its_bank_grows(root, run, tmp_path):
    changes = {"method": "mvead", "train__epochs": "1", "train__centers": "2", "decision__held_out": "0"}
    config = config_for(root, **changes, geometry__on_failure="unconstrained")
    train(config, tmp_path / "run")
    before, weights = rows(tmp_path / "run"), (tmp_path / "run/models/cap" / STATE).read_bytes()
    train(config, tmp_path / "run", add=[labels(tmp_path / "a.json", ("cap", names_of(run)[0], "good"))])
    np.testing.assert_array_equal(rows(tmp_path / "run")[: len(before)], before)
    assert len(rows(tmp_path / "run")) == len(before) + 4
    assert (tmp_path / "run/models/cap" / STATE).read_bytes() != weights
    assert score(tmp_path / "run", report=False)["protocol"]["added"].startswith("cap 1:")


def test_new_images_of_a_folder_are_added_where_they_lie(root, run, tmp_path):
    images = tmp_path / "new" / "part 7"
    images.mkdir(parents=True)
    index_line = next(line for line in (run / "scores/images.csv").read_text().splitlines() if "C1" in line)
    for view in ("C1", "C2", "C3"):
        shutil.copyfile(root / index_line.split(",")[3], images / f"{view}.jpg")
    score(run, tmp_path / "out", images=tmp_path / "new", report=False)
    (line,) = read_samples(tmp_path / "out")
    workdir = shutil.copytree(run, tmp_path / "run")
    listed = labels(tmp_path / "a.json", ("cap", line.sample, "good"), scored=str(tmp_path / "new"))
    train(config_for(root), workdir, add=[listed])
    assert len(rows(workdir)) == len(rows(run)) + 4
    assert len(read_samples(run / "scores")) == len(
        score(workdir, report=False) and read_samples(workdir / "scores")
    )
    shutil.rmtree(tmp_path / "new")
    with pytest.raises(UserError, match="no such folder"):
        train(config_for(root), workdir)


def test_lists_that_name_no_good_parts_are_refused_in_one_line(root, run, tmp_path):
    good = names_of(run)[0]
    held = sorted(path.name for path in (run / "models/cap").iterdir())
    for path, message in (
        (tmp_path / "none.json", "none.json: no such file"),
        (labels(tmp_path / "a.json", ("cap", good, "good"), schema="x"), "no list of labels .*schema 'x'"),
        (labels(tmp_path / "b.json", ("cap", good, "fine")), "label 'fine'"),
        (labels(tmp_path / "c.json", ("cap", good, "defective")), "labels no part as good"),
        (
            labels(tmp_path / "d.json", ("cap", "cap_9999_OK", "good")),
            "cap_9999_OK of cap: no such sample in",
        ),
        (labels(tmp_path / "e.json", ("cap", good, "good"), scored=str(tmp_path / "x")), "no such folder"),
    ):
        with pytest.raises(UserError, match=message) as error:
            train(config_for(root), run, add=[path])
        assert "\n" not in str(error.value)
    assert held == sorted(path.name for path in (run / "models/cap").iterdir())
    assert not (run / "added.json").exists()
    done = call(
        "train",
        "--config",
        "configs/demo.py:patchcore",
        "--workdir",
        tmp_path / "w",
        "--add",
        tmp_path,
        "--dry_run",
    )
    assert done.returncode == 2
    assert "leave out --add" in done.stderr
