"""Decisions from images on disk to files of results: what training leaves, what scoring says."""

import csv
import json
import random
import shutil

import numpy as np
import pytest
from calling import call
from fake_realiad import edit_list, write_realiad

from mvead_jax.config.io import override
from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.decision.by_hand import SCHEMA
from mvead_jax.decision.calibration import read_calibrations
from mvead_jax.decision.conformal import p_value, threshold
from mvead_jax.decision.decide import BY_USER, OPTIMISTIC
from mvead_jax.decision.rates import clopper_pearson
from mvead_jax.jobs.decision import check_held_out
from mvead_jax.jobs.evaluate_again import evaluate_again
from mvead_jax.jobs.inputs import open_index
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.runtime.errors import UserError
from mvead_jax.scoring.model_store import STATE, bank_sizes
from mvead_jax.serving.inspector import Inspector

SAMPLES = ["category", "sample", "label", "score", "worst_view"]
IMAGES = ["category", "sample", "view", "image_path", "label", "score"]


def config_for(root, **changes):
    fields = {"decision.held_out": "0.5", "decision.false_alarms": "0.25", "eval.bootstrap": "10"}
    fields |= {key.replace("__", "."): value for key, value in changes.items()}
    return override(
        PatchCoreConfig(
            data=DataConfig(root=str(root), image_size=32),
            backbone=BackboneConfig(name="efficientnet-lite0", batch_size=2),
        ),
        fields,
    )


FUSED = {
    "method": "mvead",
    "train__epochs": "1",
    "train__centers": "2",
    "geometry__on_failure": "unconstrained",
    "fusion__kind": "mvas",
    "fusion__windows": "1",
    "fusion__top_windows": "1",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_realiad(tmp_path_factory.mktemp("data"), size=32, views=3, train=8, normal=4)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "one"
    train(config_for(root), workdir)
    score(workdir)
    return workdir


@pytest.fixture(scope="module")
def fused(root, run):
    workdir = run.parent / "fused"
    train(config_for(root, data__categories="cap", **FUSED), workdir)
    score(workdir)
    return workdir


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def calibration(workdir, category="cap"):
    return read_calibrations(workdir / f"models/{category}/decision.safetensors")[0][category]


def test_held_out_samples_are_in_no_bank_and_no_file_of_training_but_the_calibration(run, root):
    for category in ("bolt", "cap"):
        banks = bank_sizes(run / "models" / category)
        assert {name: rows for name, (rows, _) in banks.items()} == {f"banks/C{v}": 4 * 4 for v in (1, 2, 3)}
        held = calibration(run, category).samples
        index = open_index(config_for(root)).select(category=category)
        assert held == tuple(one.id for one in index.select(split="held_out").samples)
        assert len(held) == len(index.select(split="train")) == 4
    told = json.loads((run / "scores/metrics.json").read_text())
    assert told["protocol"]["training"].startswith("8 samples, 24 images")
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    decided = [event for event in events if event["stage"] == "decision"]
    assert [(event["category"], event["held_out"]) for event in decided] == [("bolt", 4), ("cap", 4)]


def test_pictures_of_held_out_samples_change_no_model(run, root, tmp_path):
    """The strict reading of "never seen": other pixels in them, the same model, byte for byte."""
    shutil.copytree(root, tmp_path / "data")
    index = open_index(config_for(root)).select(category="cap", split="held_out")
    for sample in index.samples:
        for view in sample.views:
            shutil.copyfile(root / index.samples[0].views[0].image, tmp_path / "data" / view.image)
    train(config_for(tmp_path / "data", data__categories="cap"), tmp_path / "run")
    for name in (STATE, "score_statistics.json"):
        own, expected = (workdir / "models/cap" / name for workdir in (tmp_path / "run", run))
        assert own.read_bytes() == expected.read_bytes()
    assert not np.array_equal(calibration(run).scores["111"], calibration(tmp_path / "run").scores["111"])


def test_the_files_say_what_the_definitions_say(run):
    samples, images = lines(run / "scores/samples.csv"), lines(run / "scores/images.csv")
    assert list(samples[0]) == [*SAMPLES, "p_value", "decision", "reason"]
    assert list(images[0]) == [*IMAGES, "p_value"]
    for line in samples:
        held = calibration(run, line["category"]).scores["111"]
        value = np.float32(line["score"])
        assert float(line["p_value"]) == p_value(held.max(1), value)
        fails = float(line["p_value"]) <= 0.25
        assert fails == (value > threshold(held.max(1), 0.25))
        assert line["decision"] == ("fail" if fails else "pass")
        if fails:
            of_views = {i["view"]: i for i in images if i["sample"] == line["sample"]}
            assert line["reason"].startswith("the sample scores")
            blamed = line["reason"].split("; ")[1].split()[0]
            assert float(of_views[blamed]["p_value"]) == min(float(i["p_value"]) for i in of_views.values())
            assert " x its view threshold, at (" in line["reason"]
        else:
            assert line["reason"].startswith("the sample scores")
    for line in images:
        held = calibration(run, line["category"]).scores["111"][:, int(line["view"][1]) - 1]
        assert float(line["p_value"]) == p_value(held, np.float32(line["score"]))


def test_drawn_defects_fail_and_are_found_where_they_are(run, root):
    index = open_index(config_for(root)).select(split="test")
    masks = {(s.category, s.id, v.name): v.mask for s in index.samples for v in s.views}
    failed = [line for line in lines(run / "scores/samples.csv") if line["label"] == "1"]
    assert [line["decision"] for line in failed] == ["fail"] * 6
    for line in failed:
        assert masks[line["category"], line["sample"], line["reason"].split("; ")[1].split()[0]]


def test_metrics_count_the_decisions_with_exact_intervals(run):
    told = json.loads((run / "scores/metrics.json").read_text())
    samples = lines(run / "scores/samples.csv")
    assert "conformal p-value is at most 0.25" in told["protocol"]["decision"]
    assert "(bolt 4, cap 4)" in told["protocol"]["decision"]
    for category, levels in told["categories"].items():
        found = levels["decision"]
        own = [line for line in samples if line["category"] == category]
        assert (found["basis"], found["target"], found["held_out"]) == ("held_out", 0.25, 4)
        held = calibration(run, category).scores["111"].max(1)
        assert found["threshold"] == pytest.approx(threshold(held, 0.25))
        for key, label in (("false_alarms", "0"), ("detections", "1")):
            of_label = [line["decision"] for line in own if line["label"] == label]
            hits, count = of_label.count("fail"), len(of_label)
            assert (found[key]["count"], found[key]["of"]) == (hits, count)
            assert found[key]["rate"] == pytest.approx(hits / count)
            assert found[key]["interval"] == pytest.approx(clopper_pearson(hits, count))


def test_maps_are_evaluated_again_to_the_same_bytes(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/models/cap/decision.safetensors").unlink()
    before = (tmp_path / "run/scores/metrics.json").read_bytes()
    evaluate_again(tmp_path / "run")
    assert (tmp_path / "run/scores/metrics.json").read_bytes() == before


def test_the_target_changes_when_scoring_and_moves_decisions_only(run, tmp_path):
    score(run, tmp_path / "out", overrides={"decision.false_alarms": "0.6"})
    before, after = lines(run / "scores/samples.csv"), lines(tmp_path / "out/samples.csv")
    for old, new in zip(before, after, strict=True):
        assert (old["score"], old["p_value"]) == (new["score"], new["p_value"])
        assert (new["decision"] == "fail") == (float(new["p_value"]) <= 0.6)
    first, second = (json.loads((d / "metrics.json").read_text()) for d in (run / "scores", tmp_path / "out"))
    assert first["protocol"]["config_digest"] == second["protocol"]["config_digest"]
    with pytest.raises(
        UserError, match=r"cap|bolt: .*=0.1 needs 9 good held-out samples.* are 4; train with"
    ):
        score(run, tmp_path / "none", overrides={"decision.false_alarms": "0.1"})
    assert not (tmp_path / "none").exists()


def test_nothing_held_out_decides_nothing_and_writes_what_it_always_wrote(root, run, tmp_path):
    workdir = run.parent / "without"
    train(
        config_for(root, decision__held_out="0", decision__false_alarms="0.05", data__categories="cap"),
        workdir,
    )
    told = score(workdir)
    assert (workdir / "scores/samples.csv").read_text().splitlines()[0] == ",".join(SAMPLES)
    assert (workdir / "scores/images.csv").read_text().splitlines()[0] == ",".join(IMAGES)
    assert "decision" not in told["protocol"]
    assert "decision" not in told["categories"]["cap"]
    assert {path.name for path in (workdir / "models/cap").iterdir()} == {
        *(STATE, "facts.json", "score_statistics.json")
    }
    with pytest.raises(UserError, match="decision.held_out=0 and decides nothing"):
        score(workdir, tmp_path / "out", overrides={"decision.false_alarms": "0.1"})
    # A config without the section is one with its defaults.
    config = json.loads((workdir / "config.json").read_text())
    del config["decision"]
    (workdir / "config.json").write_text(json.dumps(config))
    train(
        config_for(root, decision__held_out="0", decision__false_alarms="0.05", data__categories="cap"),
        workdir,
    )


def test_training_again_scores_nothing_again_and_a_killed_one_goes_on(run, root, tmp_path):
    path = run / "models/cap/decision.safetensors"
    before = path.stat().st_mtime_ns
    train(config_for(root), run)
    assert path.stat().st_mtime_ns == before
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/models/cap/decision.safetensors").unlink()
    with pytest.raises(UserError, match="decision.safetensors: missing or changed"):
        score(tmp_path / "run")
    train(config_for(root), tmp_path / "run")
    assert (tmp_path / "run/models/cap/decision.safetensors").read_bytes() == path.read_bytes()
    score(tmp_path / "run")
    for name in ("samples.csv", "images.csv"):
        assert (tmp_path / "run/scores" / name).read_bytes() == (run / "scores" / name).read_bytes()


def test_a_new_model_is_calibrated_anew(run, root, tmp_path):
    """A calibration never outlives the model that it was made with."""
    shutil.copytree(root, tmp_path / "data")
    config = config_for(tmp_path / "data", data__categories="cap")
    train(config, tmp_path / "run")
    before = calibration(tmp_path / "run").scores["111"]
    index = open_index(config).select(split="train")
    one, other = (tmp_path / "data" / sample.views[0].image for sample in index.samples[:2])
    shutil.copyfile(one, other)
    train(config, tmp_path / "run")
    assert not np.array_equal(before, calibration(tmp_path / "run").scores["111"])


def test_shuffled_lists_give_the_same_decisions(run, root, tmp_path):
    shutil.copytree(root, tmp_path / "data")
    for category in ("bolt", "cap"):
        edit_list(tmp_path / "data", category, lambda content: random.Random(0).shuffle(content["train"]))
    train(config_for(tmp_path / "data"), tmp_path / "run")
    score(tmp_path / "run")
    assert (tmp_path / "run/scores/samples.csv").read_bytes() == (run / "scores/samples.csv").read_bytes()


def test_one_model_for_all_is_calibrated_by_category(root, tmp_path):
    train(config_for(root, setting="multi"), tmp_path / "run")
    told = score(tmp_path / "run")
    found = read_calibrations(tmp_path / "run/models/all/decision.safetensors")[0]
    assert {name: len(own.samples) for name, own in found.items()} == {"bolt": 4, "cap": 4}
    assert {line["decision"] for line in lines(tmp_path / "run/scores/samples.csv")} == {"pass", "fail"}
    assert (
        told["categories"]["bolt"]["decision"]["threshold"]
        != (told["categories"]["cap"]["decision"]["threshold"])
    )


def test_one_model_for_categories_of_other_cameras_is_refused_at_once(tmp_path):
    root = write_realiad(tmp_path / "data", categories=("bolt",), size=32, views=3, train=8)
    other = write_realiad(tmp_path / "other", categories=("cap",), size=32, views=2, train=8)
    shutil.copytree(other, root, dirs_exist_ok=True)
    with pytest.raises(
        UserError, match="cap: its views are C1, C2, those of .* C1, C2, C3, .* setting=single"
    ):
        train(config_for(root, setting="multi"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config, index = config_for(root), open_index(config_for(root))
    check_held_out(config, index)  # a model for each category may


def without(root, sample, view, folder):
    """A folder of one sample's images but for one view."""
    shutil.copytree(next((root / "realiad_64/cap").rglob(sample)), folder)
    for path in folder.glob(f"*_{view}_*"):
        path.unlink()
    return folder


@pytest.mark.parametrize("view", ["C1", "C3"])
def test_a_missing_view_is_decided_by_held_out_samples_without_it(run, fused, root, tmp_path, view):
    pictures = without(root, "S0013", view, tmp_path / "new")
    for workdir in (run, fused):
        score(workdir, tmp_path / workdir.name, images=pictures)
        (line,) = lines(tmp_path / workdir.name / "samples.csv")
        own = calibration(workdir)
        present = np.array([name != view for name in ("C1", "C2", "C3")])
        held = own.of(present)
        assert np.isnan(held[:, ~present]).all()
        assert len(held) == 4
        assert float(line["p_value"]) == p_value(held[:, present].max(1), np.float32(line["score"]))
        assert line["label"] == ""


def test_a_fused_method_scores_held_out_samples_with_every_pattern_as_scoring_does(fused, root, tmp_path):
    own = calibration(fused)
    assert not own.independent
    assert len(own.scores) == 7
    assert not np.array_equal(own.scores["111"][:, :2], own.scores["110"][:, :2])
    index = open_index(config_for(root)).select(category="cap", split="held_out")
    sample = index.samples[0]
    pictures = tmp_path / "new"
    pictures.mkdir()
    for view in sample.views[:2]:
        shutil.copy(root / view.image, pictures)
    score(fused, tmp_path / "out", images=pictures)
    found = [float(line["score"]) for line in lines(tmp_path / "out/images.csv")]
    np.testing.assert_allclose(found, own.scores["110"][own.samples.index(sample.id), :2], rtol=1e-5)


def test_another_way_to_score_than_the_held_out_samples_had_decides_nothing_and_says_so(
    run, tmp_path, caplog
):
    told = score(run, tmp_path / "out", overrides={"score.evidence": "all"})
    assert "no decision: the held-out samples were scored with " in caplog.text
    assert "score.evidence=none, these with score.evidence=all" in caplog.text
    assert "decision" not in told["protocol"]
    assert list(lines(tmp_path / "out/samples.csv")[0]) == SAMPLES


def test_evidence_from_other_views_asks_for_every_pattern(root, run):
    workdir = run.parent / "evidence"
    train(config_for(root, data__categories="cap", score__evidence="all"), workdir)
    told = score(workdir)
    assert len(calibration(workdir).scores) == 7
    assert told["categories"]["cap"]["decision"]["detections"]["of"] == 3


def test_too_few_samples_are_refused_before_anything_is_made(root, tmp_path):
    for changes, message in (
        (
            {"decision__false_alarms": "0.05"},
            "needs 19 .* there are 4; take more than the 8 training samples",
        ),
        (
            {"decision__held_out": "0.2"},
            "needs 3 .* are 2; hold out more of the 8 by decision.held_out=0.375",
        ),
        ({"decision__held_out": "0.99"}, "decision.held_out=0.99 leaves no training sample of 8"),
        ({"decision__held_out": "1"}, "decision.held_out=1.0: must be at least 0 and below 1"),
        ({"decision__false_alarms": "0"}, "false_alarms=0.0: must be above 0 and below 1"),
        ({"decision__false_alarms": "nan"}, "false_alarms=nan: must be a finite number, above 0 and below 1"),
    ):
        with pytest.raises(UserError, match=message) as error:
            train(config_for(root, **changes), tmp_path / "run")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "feature_cache").exists()


def test_held_out_samples_that_are_labelled_defective_do_not_calibrate_and_are_told(root, tmp_path, caplog):
    shutil.copytree(root, tmp_path / "data")
    config = config_for(tmp_path / "data", data__categories="cap")
    name = open_index(config).select(split="held_out").samples[0].id

    def mark(content):
        for entry in content["train"]:
            if name in entry["image_path"]:
                entry["anomaly_class"] = "HS"

    edit_list(tmp_path / "data", "cap", mark)
    train(config, tmp_path / "run")
    own = calibration(tmp_path / "run")
    assert name not in own.samples
    assert (len(own.samples), own.defective) == (3, 1)
    assert "1 of 4 held-out samples are labelled defective and calibrate nothing" in caplog.text
    assert "contaminated: 1 held-out samples" in score(tmp_path / "run")["protocol"]["decision"]
    index = open_index(config)
    assert len(index.select(split="train")) == 4  # it is not learned either


def test_thresholds_from_test_labels_are_flagged_everywhere(run, root, tmp_path):
    told = score(run, tmp_path / "out", from_test_labels=True)
    assert told["protocol"]["decision"].startswith("OPTIMISTIC")
    for category, levels in told["categories"].items():
        found = levels["decision"]
        assert (found["basis"], found["target"]) == ("test_labels", None)
        assert found["threshold"] == levels["sample"]["f1_max_threshold"]
        own = [line for line in lines(tmp_path / "out/samples.csv") if line["category"] == category]
        assert all(OPTIMISTIC in line["reason"] and not line["p_value"] for line in own)
        for line in own:
            assert (line["decision"] == "fail") == (np.float32(line["score"]) >= found["threshold"])
    edit_list(
        shutil.copytree(root, tmp_path / "data"),
        "cap",
        lambda content: content.update(test=[e for e in content["test"] if "/OK/" in f"/{e['image_path']}"]),
    )
    with pytest.raises(UserError, match="cap: a threshold from test labels needs good and defective samples"):
        score(run, tmp_path / "no", from_test_labels=True, overrides={"data.root": str(tmp_path / "data")})


def test_a_users_threshold_decides_and_is_called_one_everywhere(run, tmp_path):
    known = {line["sample"]: line for line in lines(run / "scores/samples.csv")}
    scores = sorted(float(line["score"]) for line in known.values())
    lowest = scores[len(scores) // 2]
    told = score(run, tmp_path / "out", overrides={"decision.threshold": repr(lowest)})
    assert told["protocol"]["decision"].startswith(
        "set by the user: a sample fails if its score is at least bolt "
    )
    assert told["protocol"]["config_digest"] == lasting(run)["config_digest"]
    for category, levels in told["categories"].items():
        found = levels["decision"]
        held = calibration(run, category).scores["111"].max(1)
        target = (1 + int((held >= np.float32(lowest)).sum())) / 5
        assert (found["basis"], found["target"], found["held_out"]) == ("user", target, 4)
        assert found["threshold"] == pytest.approx(lowest)
        assert found["held_out_threshold"] == pytest.approx(threshold(held, 0.25))
        assert found["held_out_scores"] == pytest.approx(sorted(held))
        own = [line for line in lines(tmp_path / "out/samples.csv") if line["category"] == category]
        for line in own:
            assert (line["decision"] == "fail") == (float(line["score"]) >= lowest)
            assert BY_USER in line["reason"]
            assert line["p_value"] == known[line["sample"]]["p_value"]  # the held-out samples still tell
        counted = [line["decision"] for line in own if line["label"] == "1"].count("fail")
        assert found["detections"]["count"] == counted
    page = (tmp_path / "out/report/index.html").read_text()
    assert "Outcomes follow the threshold that the user set." in page
    again = evaluate_again(run, tmp_path / "out", report=False, overlays=True)
    drawn = [line["file"] for line in lines(tmp_path / "out/overlays/overlays.csv")]
    assert len(drawn) == len(lines(tmp_path / "out/images.csv"))
    assert all((tmp_path / "out/overlays" / name).is_file() for name in drawn)
    assert again["categories"] == told["categories"]


def lasting(run):
    return json.loads((run / "scores/metrics.json").read_text())["protocol"]


def test_a_file_of_thresholds_is_taken_by_scoring_and_by_an_inspector_of_its_model_only(run, root, tmp_path):
    digest = lasting(run)["scores_digest"]
    path = tmp_path / "threshold.json"
    path.write_text(json.dumps({"schema": SCHEMA, "model": digest, "thresholds": {"bolt": 0.0, "cap": 1e6}}))
    done = call("score", "--workdir", run, "--output", tmp_path / "out", "--threshold", path, "--no-report")
    assert done.returncode == 0, done.stderr
    made = {(line["category"], line["decision"]) for line in lines(tmp_path / "out/samples.csv")}
    assert made == {("bolt", "fail"), ("cap", "pass")}
    images = {view: root / name for view, name in first_sample(run).items()}
    inspector = Inspector.load(run, category="cap", threshold=path, warm=False)
    found = inspector.inspect(images)
    assert (found.decision.decision, found.decision.basis) == ("pass", "user")
    assert found.as_json()["decision"]["basis"] == "user"
    strict = Inspector.load(run, category="cap", threshold=0, warm=False)
    assert strict.inspect(images).text.endswith(f"({BY_USER})")
    assert (
        len({one.digest for one in (inspector, strict, Inspector.load(run, category="cap", warm=False))}) == 3
    )
    other = {"score.distance": "hull"}
    with pytest.raises(UserError, match="chosen for another model, or for scores by other settings"):
        score(run, tmp_path / "no", overrides={"decision.threshold": str(path)} | other)
    with pytest.raises(UserError, match="a file belongs to a trained model"):
        train(config_for(root, decision__threshold=str(path)), tmp_path / "new")


def first_sample(run):
    of_cap = [line for line in lines(run / "scores/images.csv") if line["category"] == "cap"]
    return {line["view"]: line["image_path"] for line in of_cap if line["sample"] == of_cap[0]["sample"]}


def test_options_that_do_not_go_with_a_users_threshold_are_said(run, tmp_path):
    for flags, message in (
        (["--threshold", "1", "--from-maps"], "--threshold: decides while samples are scored"),
        (
            ["--threshold", "1", "--threshold-from-test-labels"],
            "--threshold: decides while samples are scored",
        ),
        (["--threshold", "1", "--config.decision.threshold=2"], "leave out one of both"),
        (["--config.decision.threshold=2", "--threshold-from-test-labels"], "leave out one of both"),
        (["--threshold="], "--threshold: no value"),
        (["--overlays", "--watch", f"--input={tmp_path}"], "--watch: writes decisions and no images"),
        (["--threshold", "1.5x"], "threshold '1.5x': neither a number nor a file"),
    ):
        done = call("score", "--workdir", run, "--output", tmp_path / "out", *flags)
        assert done.returncode == 2, flags
        assert message in done.stderr
        assert done.stderr.count("error:") == 1
        assert done.stderr.splitlines()[-1].startswith("error:")


def test_the_terminal_shows_the_decisions(run, tmp_path):
    command = ["score", "--workdir", run, "--output", tmp_path / "out"]
    done = call(*command)
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith("bolt: ")
    assert "; false alarms " in first
    assert "; found 3 of 3 (100.0 %, 95 % 29.2 to 100.0)" in first
    for flag in ("--from-maps", f"--input={run}"):
        done = call(*command, "--threshold-from-test-labels", flag)
        assert done.returncode == 2
        assert "decides while the test split is scored" in done.stderr
