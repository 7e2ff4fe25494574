"""The two jobs from images on disk to files of results."""

import csv
import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from calling import call
from fake_realiad import edit_list, write_realiad
from PIL import Image
from sklearn import metrics as sklearn_metrics

from mvead_jax.config.io import load_config, override
from mvead_jax.config.schema import BackboneConfig, DataConfig, EvalConfig
from mvead_jax.jobs import checked_scoring as checked_scoring_module
from mvead_jax.jobs import evaluate_again as evaluate_again_module
from mvead_jax.jobs import train as train_module
from mvead_jax.jobs.evaluate_again import evaluate_again
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.runtime.errors import DataProblems, UserError
from mvead_jax.runtime.files import locked
from mvead_jax.scoring.model_store import STATE, bank_sizes, map_rows
from mvead_jax.serving.inspector import Inspector

ROOT = Path(__file__).parents[2]
SMALL = {"backbone__name": "dinov2-small", "backbone__weights": "random"}


def config_for(root, **changes):
    return override(
        PatchCoreConfig(
            data=DataConfig(root=str(root), image_size=32),
            backbone=BackboneConfig(name="efficientnet-lite0", batch_size=2),  # whatever is read, one program
            eval=EvalConfig(bootstrap=20),
        ),
        {key.replace("__", "."): value for key, value in changes.items()},
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_realiad(tmp_path_factory.mktemp("data"), size=40)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "one"
    train(config_for(root), workdir)
    score(workdir)
    return workdir


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def state(workdir, name="cap"):
    return workdir / "models" / name / STATE


def rows_of(workdir, bank, name="cap"):
    return map_rows(state(workdir, name), f"banks/{bank}")


def results(workdir):
    return {name: (workdir / "scores" / name).read_bytes() for name in ("samples.csv", "images.csv")}


def test_the_workdir_holds_what_the_design_says(run):
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    files -= {".lock", "scores/.lock"}
    learned = ("state.safetensors", "facts.json", "score_statistics.json")
    scores = {"samples.csv", "images.csv", "metrics.json", "maps/bolt.npz", "maps/cap.npz"}
    scores |= {"environment.json", "command.json", "bootstrap.npz", "regions.csv"}
    report = {f"scores/report/{name}" for name in ("index.html", "report.css", "list.js", "samples/11.js")}
    assert report <= files
    assert {name for name in files if not name.startswith("scores/report/")} == {
        *("config.json", "environment.json", "command.json", "metrics.jsonl", "manifest.json"),
        *(f"models/{category}/{name}" for category in ("bolt", "cap") for name in learned),
        *(f"scores/{name}" for name in scores),
    }
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(event["stage"], event.get("name")) for event in events] == [
        ("start", None),
        ("model", "bolt"),
        ("model", "cap"),
    ]


def test_the_csv_files_have_the_contracts_columns_and_every_test_picture_once(run, root):
    images, samples = lines(run / "scores/images.csv"), lines(run / "scores/samples.csv")
    assert list(images[0]) == ["category", "sample", "view", "image_path", "label", "score"]
    assert list(samples[0]) == ["category", "sample", "label", "score", "worst_view"]
    assert len(samples) == 12
    listed = {(root / line["image_path"]) for line in images}
    assert len(listed) == len(images) == 60
    assert all(path.is_file() for path in listed)
    assert {line["label"] for line in images} == {"0", "1"}


def test_sample_scores_are_the_largest_image_scores_and_those_the_largest_of_the_maps(run):
    images = lines(run / "scores/images.csv")
    for category in ("bolt", "cap"):
        maps = np.load(run / f"scores/maps/{category}.npz")["maps"]
        own = [line for line in images if line["category"] == category]
        assert maps.dtype == np.float16
        assert maps.shape == (len(own), 2, 2)
        np.testing.assert_allclose(maps.max((1, 2)), [float(line["score"]) for line in own], rtol=1e-3)
    for line in lines(run / "scores/samples.csv"):
        own = {i["view"]: float(i["score"]) for i in images if i["sample"] == line["sample"]}
        assert float(line["score"]) == max(own.values()) == own[line["worst_view"]]


def test_metrics_are_scikit_learns_on_the_csv_files(run):
    found = json.loads((run / "scores/metrics.json").read_text())
    for level, name in (("sample", "samples.csv"), ("image", "images.csv")):
        for category, values in found["categories"].items():
            own = [line for line in lines(run / "scores" / name) if line["category"] == category]
            labels, scores = [int(line["label"]) for line in own], [float(line["score"]) for line in own]
            precision, recall, _ = sklearn_metrics.precision_recall_curve(labels, scores)
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
            assert values[level]["auroc"] == pytest.approx(
                sklearn_metrics.roc_auc_score(labels, scores), abs=1e-9
            )
            expected = sklearn_metrics.average_precision_score(labels, scores)
            assert values[level]["ap"] == pytest.approx(expected, abs=1e-9)
            assert values[level]["f1_max"] == pytest.approx(f1.max(), abs=1e-9)
            assert values[level]["base_rate"] == pytest.approx(np.mean(labels))


def test_the_protocol_tells_what_was_done(root, tmp_path):
    edit_list(shutil.copytree(root, tmp_path / "data"), "cap", mark_first_training_view)
    changes = {"setting": "multi", "bank__per_view": "false", "backbone__block": "2", "seed": "5"}
    config = config_for(
        tmp_path / "data", data__image_size="28", features__dtype="bfloat16", **changes, **SMALL
    )
    train(config, tmp_path / "run")
    told = score(tmp_path / "run")["protocol"]
    assert told["setting"] == "one model for all"
    assert told["features"] == "patches of block 2"
    assert told["seed"] == 5
    assert told["precision"] == "float32 computed, bfloat16 stored"
    assert told["input"].startswith("28 x 28")
    assert told["bank"] == "full, one for all views"
    assert told["lists"] == "realiad_jsons"
    assert told["training"] == "8 samples, 40 images, 1 of them labelled defective"
    for key in (
        "image_score",
        "sample_score",
        "image_label",
        "sample_label",
        "pixel_metrics",
        "smoothing",
        "masks",
        "intervals",
        "evaluation",
        "trained",
        "mean",
    ):
        assert told[key]


def mark_first_training_view(content):
    content["train"][0]["anomaly_class"] = "HS"


def test_defects_that_anyone_sees_score_highest(run):
    found = json.loads((run / "scores/metrics.json").read_text())
    assert found["mean"]["sample"]["auroc"] > 0.9
    assert found["mean"]["image"]["auroc"] > 0.9


def test_two_runs_give_the_same_bytes(run, root, tmp_path):
    train(config_for(root), tmp_path / "two")
    score(tmp_path / "two")
    assert results(tmp_path / "two") == results(run)
    for category in ("bolt", "cap"):
        assert state(tmp_path / "two", category).read_bytes() == state(run, category).read_bytes()
    for name in ("maps/bolt.npz", "report/index.html", "report/samples/0.js", "report/pictures/0/0.webp"):
        assert (tmp_path / "two/scores" / name).read_bytes() == (run / "scores" / name).read_bytes()


def test_the_precision_of_the_search_does_not_change_a_score(run, tmp_path):
    score(run, tmp_path / "scores", overrides={"score.search": "bfloat16"})
    for name in ("samples.csv", "images.csv"):
        assert (tmp_path / "scores" / name).read_bytes() == (run / "scores" / name).read_bytes()


def test_shuffled_lists_give_the_same_bytes(run, root, tmp_path):
    shutil.copytree(root, tmp_path / "data")
    for category in ("bolt", "cap"):
        for split in ("train", "test"):
            edit_list(
                tmp_path / "data", category, lambda content, s=split: random.Random(0).shuffle(content[s])
            )
    train(config_for(tmp_path / "data"), tmp_path / "runs/two")
    score(tmp_path / "runs/two")
    assert results(tmp_path / "runs/two") == results(run)


@pytest.mark.parametrize(("views", "setting"), [(1, "single"), (4, "multi"), (6, "single")])
def test_any_number_of_views_in_both_settings(tmp_path, views, setting):
    root = write_realiad(tmp_path / "data", size=32, views=views)
    write_realiad(tmp_path / "data", size=32, views=3, categories=("pin",))
    train(config_for(root, setting=setting), tmp_path / "run")
    score(tmp_path / "run")
    assert len(lines(tmp_path / "run/scores/images.csv")) == 6 * (2 * views + 3)
    folders = {path.name for path in (tmp_path / "run/models").iterdir()}
    assert folders == ({"all"} if setting == "multi" else {"bolt", "cap", "pin"})


def test_incomplete_samples_keep_their_rows_and_nothing_else(tmp_path):
    root = write_realiad(tmp_path / "data", categories=("cap",), size=32)
    edit_list(root, "cap", lambda content: (content["train"].pop(3), content["test"].pop(6)))
    train(config_for(root, data__incomplete="keep"), tmp_path / "run")
    score(tmp_path / "run")
    assert len(lines(tmp_path / "run/scores/images.csv")) == 29
    assert np.isfinite(np.load(tmp_path / "run/scores/maps/cap.npz")["maps"]).all()


def test_a_shared_bank(root, tmp_path):
    train(config_for(root, bank__per_view="false"), tmp_path / "run")
    score(tmp_path / "run")
    assert bank_sizes(tmp_path / "run/models/cap").keys() == {"banks/shared"}


def test_dinov2_with_random_weights_says_so_everywhere(root, tmp_path, caplog):
    config = config_for(root, data__image_size="28", data__categories="cap", backbone__block="1", **SMALL)
    train(config, tmp_path / "run")
    found = score(tmp_path / "run")
    assert "UNTRAINED" in caplog.text
    assert found["protocol"]["backbone_trained"] is False
    assert "UNTRAINED" in found["protocol"]["backbone"]
    assert np.load(tmp_path / "run/scores/maps/cap.npz")["maps"].shape == (30, 2, 2)


def test_training_again_changes_nothing(run, root):
    before = {path: path.stat().st_mtime_ns for path in run.glob("models/*/*")}
    train(config_for(root), run)
    assert len(before) == 6
    assert before == {path: path.stat().st_mtime_ns for path in run.glob("models/*/*")}


def test_a_changed_training_picture_means_training_again(root, tmp_path):
    shutil.copytree(root, tmp_path / "data")
    config = config_for(tmp_path / "data", data__categories="cap")
    train(config, tmp_path / "run")
    before = rows_of(tmp_path / "run", "C1").copy()
    one, other = sorted((tmp_path / "data/realiad_64/cap/OK").rglob("*_C1_*.jpg"))[:2]
    shutil.copyfile(one, other)
    train(config, tmp_path / "run")
    assert (rows_of(tmp_path / "run", "C1") != before).any()


def test_a_training_picture_that_is_replaced_with_its_size_and_time_kept_means_training_again(root, tmp_path):
    shutil.copytree(root, tmp_path / "data")
    pictures = sorted((tmp_path / "data/realiad_64/cap/OK").rglob("*_C1_*.jpg"))
    longest = max(path.stat().st_size for path in pictures)
    for path in pictures:
        path.write_bytes(path.read_bytes().ljust(longest, b"\0"))  # what follows the image is passed over
        os.utime(path, (0, 0))
    config = config_for(tmp_path / "data", data__categories="cap")
    train(config, tmp_path / "run")
    before = rows_of(tmp_path / "run", "C1").copy()
    shutil.copyfile(pictures[0], pictures[1])
    os.utime(pictures[1], (0, 0))
    train(config, tmp_path / "run")
    assert (rows_of(tmp_path / "run", "C1") != before).any()


def test_a_copy_of_the_data_with_other_times_gives_the_same_models(run, root, tmp_path):
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    train(config_for(tmp_path / "copy"), tmp_path / "runs/run")
    for category in ("bolt", "cap"):
        assert state(tmp_path / "runs/run", category).read_bytes() == state(run, category).read_bytes()


def test_two_shifts_of_the_same_names_sizes_and_times_have_their_own_scores(run, tmp_path):
    for shift, colour in (("shift1", 10), ("shift2", 200)):
        (tmp_path / shift).mkdir()
        for view in range(1, 6):
            path = tmp_path / shift / f"bolt_0001_OK_C{view}_1.bmp"
            Image.new("RGB", (40, 40), (colour,) * 3).save(path)
            os.utime(path, (0, 0))
    cache = {"features.cache": str(tmp_path / "cache")}
    for shift in ("shift1", "shift2"):
        score(run, tmp_path / f"scores_{shift}", images=tmp_path / shift, overrides=cache)
    alone = {"features.cache": str(tmp_path / "own_cache")}
    score(run, tmp_path / "scores_alone", images=tmp_path / "shift2", overrides=alone)
    found = {
        name: [line["score"] for line in lines(tmp_path / f"scores_{name}/images.csv")]
        for name in ("shift1", "shift2", "alone")
    }
    assert found["shift2"] == found["alone"] != found["shift1"]


def test_an_interrupted_training_goes_on_to_the_same_bytes(run, root, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("cap", "scores"))
    state(tmp_path / "run", "bolt").write_bytes(b"half")
    with pytest.raises(UserError, match="bolt/state.safetensors: missing or changed"):
        score(tmp_path / "run")
    train(config_for(root), tmp_path / "run")
    score(tmp_path / "run")
    assert results(tmp_path / "run") == results(run)


def test_another_config_in_the_same_workdir_is_refused(run, root):
    with pytest.raises(UserError, match="seed: 0 is now 1.*another --workdir"):
        train(config_for(root, seed="1"), run)


def test_a_workdir_in_which_nothing_was_trained_yet_takes_a_mended_config(root, tmp_path):
    victim = tmp_path / "data/realiad_64/cap/OK/S0001/cap_0001_OK_C1_20240101010000.jpg"
    shutil.copytree(root, tmp_path / "data")
    victim.write_bytes(victim.read_bytes()[:700])
    with pytest.raises(DataProblems, match="damaged"):
        train(config_for(tmp_path / "data", data__categories="cap"), tmp_path / "run")
    train(config_for(root, data__categories="cap"), tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["data"]["root"] == str(root)


def between(monkeypatch, module, name, act):
    """Has `act` done just before a function of a module is called."""
    function = getattr(module, name)

    def acting(*arguments):
        act()
        return function(*arguments)

    monkeypatch.setattr(module, name, acting)


def assert_at_work(folder):
    with pytest.raises(UserError, match="another process is at work here"), locked(folder):
        pass


def test_a_model_is_not_trained_between_reading_its_thresholds_and_its_state(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    seen = []
    for name in ("read_for_scoring", "check_files"):
        between(
            monkeypatch, checked_scoring_module, name, lambda: seen.append(assert_at_work(tmp_path / "run"))
        )
    score(tmp_path / "run", tmp_path / "scores")
    assert len(seen) == 2
    with locked(tmp_path / "run"):
        pass


def test_scores_are_not_written_between_reading_and_evaluating_them(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    seen = []
    between(
        monkeypatch,
        evaluate_again_module,
        "check_score_files",
        lambda: seen.append(assert_at_work(tmp_path / "run/scores")),
    )
    evaluate_again(tmp_path / "run")
    assert len(seen) == 1
    with pytest.raises(UserError, match="metrics.json: no such file"):
        evaluate_again(run, tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_what_another_scoring_wrote_before_the_lock_was_had_is_not_overwritten(run, tmp_path, monkeypatch):
    other = json.dumps({"scored": "elsewhere", "categories": []})

    def meanwhile():
        (tmp_path / "scores").mkdir()
        (tmp_path / "scores/unfinished.json").write_text(other)

    between(monkeypatch, checked_scoring_module, "check_files", meanwhile)
    with pytest.raises(UserError, match="holds the scores of elsewhere; name another folder"):
        score(run, tmp_path / "scores")
    assert (tmp_path / "scores/unfinished.json").read_text() == other


def test_what_another_training_wrote_before_the_lock_was_had_is_not_overwritten(root, tmp_path, monkeypatch):
    one, two = (config_for(root, data__categories="cap", seed=seed) for seed in ("1", "2"))
    once = iter([lambda: train(one, tmp_path / "run")])
    between(monkeypatch, train_module, "check_files", lambda: next(once, lambda: None)())
    with pytest.raises(UserError, match=r"trained with another config \(seed: 1 is now 2\); take another"):
        train(two, tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["seed"] == 1
    score(tmp_path / "run")


def test_new_pictures_are_scored_without_labels(run, root):
    score(run, images=root / "realiad_64/bolt/NG")
    found = lines(run / "scores_NG/samples.csv")
    shutil.rmtree(run / "scores_NG")
    known = {line["sample"]: line for line in lines(run / "scores/samples.csv")}
    assert len(found) == 3
    for line in found:
        assert line["label"] == ""
        assert line["score"] == known[line["sample"]]["score"]


def test_new_samples_that_lack_a_view_are_scored_by_the_others_and_said(run, root, tmp_path, caplog):
    shutil.copytree(root / "realiad_64/bolt/NG/HS/S0008", tmp_path / "new")
    next((tmp_path / "new").glob("*_C2_*.jpg")).unlink()
    next((tmp_path / "new").glob("*_C2_*.png")).unlink()
    score(run, tmp_path / "out", images=tmp_path / "new")
    assert "bolt: 1 of 1 samples lack a view" in caplog.text
    assert [line["view"] for line in lines(tmp_path / "out/images.csv")] == ["C1", "C3", "C4", "C5"]


def test_scoring_finds_a_data_set_that_has_moved(run, root, tmp_path):
    shutil.copytree(root, tmp_path / "elsewhere")
    score(run, tmp_path / "out", overrides={"data.root": str(tmp_path / "elsewhere")})
    assert (tmp_path / "out/samples.csv").read_bytes() == results(run)["samples.csv"]


# What users do wrong: each is a UserError, whose text is one line or a list of problems (see errors.run).


def test_a_missing_workdir_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match="config.json: no such file; expected a workdir of train.py"):
        score(tmp_path)


def test_what_scoring_can_not_change_is_refused(run):
    with pytest.raises(UserError, match=r"config.bank.per_view: fixed by the training in .*/run"):
        score(run, overrides={"bank.per_view": "false"})


def test_files_in_the_way_are_named_before_the_work(run, root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output .*file: is a file"):
        score(run, tmp_path / "file")
    with pytest.raises(UserError, match="--workdir .*file: is a file"):
        train(config_for(root), tmp_path / "file")


def test_a_config_edited_by_hand_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run/config.json"
    path.write_text(path.read_text().replace('"image_size": 32', '"image_size": 64'))
    with pytest.raises(UserError, match=r"config.json: missing or changed since training"):
        score(tmp_path / "run")


def test_other_weights_than_those_of_training_are_refused(run):
    with pytest.raises(UserError, match="trained with other weights"):
        score(run, overrides={"backbone.weights": "random"})


def test_pictures_of_an_unknown_category_or_view_are_refused(run, tmp_path):
    write_realiad(tmp_path / "other", categories=("nut",), size=32)
    with pytest.raises(UserError, match=r"nut: not trained; .* holds bolt, cap"):
        score(run, images=tmp_path / "other/realiad_64")
    write_realiad(tmp_path / "six", categories=("cap",), size=32, views=6)
    with pytest.raises(UserError, match="cap has view C6; training saw C1, C2, C3, C4, C5"):
        score(run, images=tmp_path / "six/realiad_64/cap/OK")


def test_results_of_other_pictures_and_foreign_files_are_not_overwritten(run, root, tmp_path):
    for name in ("a/day", "b/day"):
        shutil.copytree(root / "realiad_64/bolt/OK", tmp_path / name)
    output = score(run, images=tmp_path / "a/day") and run / "scores_day"
    before = (output / "samples.csv").read_bytes()
    with pytest.raises(UserError, match=r"scores_day: holds the scores of .*a.day; name another folder"):
        score(run, images=tmp_path / "b/day")
    with pytest.raises(UserError, match="scores: holds the scores of test split"):
        score(run, run / "scores", images=tmp_path / "b/day")
    for folder in (run, run / "models", root / "realiad_64/bolt/OK"):
        with pytest.raises(UserError, match="holds other files; name a new folder"):
            score(run, folder)
    score(run, images=tmp_path / "a/day")
    assert (output / "samples.csv").read_bytes() == before
    shutil.rmtree(output)


@pytest.mark.parametrize("error", [UserError("no space left"), MemoryError("none left")])
def test_a_report_that_fails_takes_no_score_along(run, tmp_path, error, monkeypatch, caplog):
    def fails(*arguments):
        raise error

    monkeypatch.setattr("mvead_jax.jobs.report_pages.write_report", fails)
    monkeypatch.setattr("mvead_jax.jobs.report_pages.telling", fails)
    shutil.copytree(run, tmp_path / "run")
    assert score(tmp_path / "run")["categories"].keys() == {"bolt", "cap"}
    assert results(tmp_path / "run") == results(run)
    assert "the report is not there" in caplog.text
    assert "cap: what patches attended to is not there" in caplog.text
    assert not (tmp_path / "run/scores/unfinished.json").exists()
    assert not (tmp_path / "run/scores/report").exists()


def test_fewer_categories_leave_no_maps_of_the_others(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    score(tmp_path / "run", overrides={"data.categories": "cap"})
    assert [path.name for path in (tmp_path / "run/scores/maps").iterdir()] == ["cap.npz"]
    assert len(list((tmp_path / "run/scores/report/samples").iterdir())) == 6


@pytest.mark.parametrize("setting", ["single", "multi"])
def test_a_scoring_that_is_killed_leaves_whole_categories_and_is_done_again(
    run, root, tmp_path, setting, monkeypatch
):
    workdir = tmp_path / "run"
    if setting == "single":
        shutil.copytree(run, workdir)
    else:
        train(config_for(root, setting=setting), workdir)
    kept = []

    def killed(output, category, *arguments):
        if kept:
            raise KeyboardInterrupt
        kept.append(category)

    with monkeypatch.context() as patched:
        patched.setattr("mvead_jax.jobs.score.keep_attended", killed)
        with pytest.raises(KeyboardInterrupt):
            score(workdir)
    assert not (workdir / "scores/metrics.json").exists()
    listed = {line["category"] for line in lines(workdir / "scores/images.csv")}
    assert listed == {path.stem for path in (workdir / "scores/maps").iterdir()} == {"bolt", "cap"}
    told = json.loads((workdir / "scores/unfinished.json").read_text())
    assert told == {"scored": "test split", "categories": ["bolt", "cap"]}
    with pytest.raises(UserError, match="scores: holds the scores of test split; name another folder"):
        score(workdir, workdir / "scores", images=root / "realiad_64/bolt/OK")
    if setting == "single":  # what the next one does not score goes
        shutil.copytree(workdir, tmp_path / "fewer")
        score(tmp_path / "fewer", overrides={"data.categories": "bolt"})
        assert [path.stem for path in (tmp_path / "fewer/scores/maps").iterdir()] == ["bolt"]
        assert len(list((tmp_path / "fewer/scores/report/samples").iterdir())) == 6
    (workdir / "scores/maps/cap.npz").unlink()
    score(workdir)
    assert not (workdir / "scores/unfinished.json").exists()
    if setting == "single":
        assert results(workdir) == results(run)
        assert (workdir / "scores/metrics.json").read_bytes() == (run / "scores/metrics.json").read_bytes()


def test_maps_are_evaluated_again_by_the_script(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/models")
    (tmp_path / "run/manifest.json").unlink()
    before = (tmp_path / "run/scores/metrics.json").read_bytes()
    done = call(
        "score", "--workdir", tmp_path / "run", "--from-maps", "--protocol", "mvad,official", "--verbose"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| pixel") == 2
    assert "evaluation: mvad: " in done.stdout
    assert (tmp_path / "run/scores/metrics.json").read_bytes() == before
    assert json.loads((tmp_path / "run/scores/metrics_official.json").read_text())["mean"]["pixel"]["aupro"]
    done = call("score", "--workdir", run, "--input", run, "--from-maps")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --input: new images have no labels")


def test_one_model_for_all_refuses_a_category_it_never_saw(root, tmp_path):
    train(config_for(root, setting="multi"), tmp_path / "run")
    write_realiad(tmp_path / "other", categories=("nut",), size=32)
    with pytest.raises(UserError, match=r"nut: not trained; .*all learned bolt, cap"):
        score(tmp_path / "run", images=tmp_path / "other/realiad_64")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__image_size": "40"}, "data.image_size=40: .*multiples of 16"),
        ({"geometry__cameras": "none.json"}, "geometry.cameras .*none.json: no such file"),
        ({"backbone__name": "dinov2-smal"}, "backbone.name='dinov2-smal': .* did you mean 'dinov2-small'"),
        ({**SMALL, "backbone__block": "13"}, "backbone.block=13: this dinov2-small has 12 blocks"),
        ({"backbone__name": "dinov2-small", "backbone__weights": "none/of/these"}, "none/of/these"),
        ({"data__categories": "bolt,cup"}, "unknown category 'cup', did you mean 'cap'"),
        ({"eval__size": "512"}, "eval.size='512': read only by eval.protocol=custom"),
    ],
)
def test_a_wrong_config_is_refused_in_one_line(root, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        train(config_for(root, **changes), tmp_path / "run")
    assert "\n" not in str(error.value)


def test_damaged_pictures_and_masks_stop_training_with_their_names(root, tmp_path):
    shutil.copytree(root, tmp_path / "data")
    pictures = sorted((tmp_path / "data/realiad_64/bolt/OK").rglob("*.jpg"))
    pictures[0].write_text("text")
    with pytest.raises(DataProblems, match="not an image"):
        train(config_for(tmp_path / "data"), tmp_path / "run")
    pictures[0].write_bytes(pictures[1].read_bytes()[:700])
    with pytest.raises(DataProblems, match="damaged JPEG"):
        train(config_for(tmp_path / "data"), tmp_path / "run")


def test_empty_lists_are_refused(tmp_path):
    root = write_realiad(tmp_path / "data", size=32, categories=("cap",))
    edit_list(root, "cap", lambda content: content.update(test=[]))
    train(config_for(root), tmp_path / "run")
    with pytest.raises(UserError, match="the test lists are empty"):
        score(tmp_path / "run")


# The scripts, as people call them.

_ALONE = """
import importlib.abc, importlib.machinery, json, runpy, sys

class Refuse(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):  # to ask whether it is installed is no import
        if name.split(".")[0] in ("torch", "tensorflow"):
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise AssertionError(f"{spec.name} was imported")

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Refuse())
for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


def scripts(*commands, path=()):
    """Runs scripts of the checkout in a process of their own, one after the other until one fails; an import of
    torch or tensorflow ends it. path: more folders of packages."""
    lists = [[f"scripts/{script}.py", *map(str, arguments)] for script, *arguments in commands]
    return subprocess.run(
        [sys.executable, "-c", _ALONE, json.dumps(lists)],
        cwd=ROOT,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path))),
            "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
        },
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def alone(root, tmp_path_factory):
    """The scripts by themselves: MVEAD, and a method of an installed package; their folder and what is left of them."""
    folder = tmp_path_factory.mktemp("alone")
    installed = folder / "packages/toys-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[mvead_jax.methods]\ntoy-gaussian = methods.toys:GaussianConfig\n"
    )
    fields = [f"--config.data.root={root}", "--config.data.categories=cap", "--config.data.image_size=32"]
    fields += ["--config.backbone.name=efficientnet-lite0", "--config.backbone.batch_size=2"]
    pretraining = ["--config.train.epochs=2", "--config.train.centers=2"]
    mvead, toy = folder / "mvead", folder / "toy"
    done = scripts(
        ("train", "--config", "configs/realiad.py", "--workdir", mvead, *fields, *pretraining),
        ("score", "--workdir", mvead, "--verbose"),
        ("train", "--config", "configs/demo.py:toy-gaussian", "--workdir", toy, *fields),
        ("score", "--workdir", toy, "--no-report", "--verbose"),
        ("export", "--workdir", toy, "--output", folder / "shipped"),
        ("verify", folder / "shipped"),
        path=(installed.parent, ROOT / "tests"),
    )
    return folder, done


def test_the_scripts_run_without_torch_or_tensorflow_and_print_the_table(alone):
    folder, done = alone
    assert done.returncode == 0, done.stderr
    assert "mean of 1" in done.stdout
    assert "scored_images: the highest of its patch scores" in done.stdout
    assert (folder / "mvead/scores/report/index.html").is_file()


def test_a_method_of_an_installed_package_is_trained_scored_exported_and_verified(alone):
    """Nothing of the program knows it: an entry point names it."""
    folder, done = alone
    assert done.returncode == 0, done.stderr
    assert "method: toy-gaussian" in done.stdout
    assert "patch_score: deviation from the mean of its place" in done.stdout
    assert "every file is as exported" in done.stdout
    assert json.loads((folder / "shipped/config.json").read_text())["method"] == "toy-gaussian"


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ("realiad.py", ["--config.data.rot=x"], "unknown config key 'data.rot'; did you mean 'data.root'"),
        ("realiad.py", ["--config.seed=x"], "config seed='x': expected int"),
        ("realiad.py", ["--config.data.root=/none"], "data.root /none: no such folder"),
        (
            "demo.py:mvaed",
            [],
            "--config configs/demo.py:mvaed: config method='mvaed': there is none of that name, did you mean "
            "'mvad'? expected one of patchcore, mvead, mvad",
        ),
        (
            "realiad.py",
            ["--config.method=patchcor"],
            "config method='patchcor': there is none of that name, did you mean 'patchcore'? expected one of",
        ),
    ],
)
def test_a_users_mistake_ends_the_script_with_one_line_and_code_2(config, arguments, message, tmp_path):
    done = call("train", "--config", f"configs/{config}", "--workdir", tmp_path / "run", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_workdir_of_version_1_is_refused_in_one_line_by_all_that_would_read_it(run, root, tmp_path):
    workdir = tmp_path / "old"
    (workdir / "banks/cap").mkdir(parents=True)
    # As version 1 wrote it: sections and fields that are no more.
    config = json.loads((run / "config.json").read_text())
    config["bank"]["unfused"] = False
    config["fusion"] = {"gate": "none"}
    (workdir / "config.json").write_text(json.dumps(config))
    said = (
        f"{workdir}: made by version 1 of this program (it has banks/), which this one does not read; train into "
        "another --workdir"
    )
    for done in (
        call("train", "--config", "configs/patchcore.py", "--workdir", workdir, f"--config.data.root={root}"),
        call("score", "--workdir", workdir),
        call("export", "--workdir", workdir, "--output", tmp_path / "shipped"),
    ):
        assert (done.returncode, done.stderr) == (2, f"error: {said}\n")
    with pytest.raises(UserError) as error:
        Inspector.load(workdir)
    assert str(error.value) == said
    assert not (tmp_path / "shipped").exists()
    assert {path.name for path in workdir.iterdir()} <= {"banks", "config.json", ".lock"}


def test_realiad_configs_are_the_papers(tmp_path):
    config = load_config("configs/realiad.py")
    assert (config.backbone.name, config.backbone.block, config.data.image_size) == ("dinov2-base", 7, 224)
    multi = load_config("configs/realiad_multiclass.py")
    assert multi == dataclasses.replace(config, setting="multi")


def test_the_demo_in_small(tmp_path):
    rig = ["--families", "terminal", "--train", 4, "--test-normal", 2, "--test-defective", 5, "--size", 64]
    done = call("render_rig", "--output", tmp_path / "rig", *rig)
    assert done.returncode == 0, done.stderr
    assert "rendered 11 of 11 samples" in done.stdout
    done = call("render_rig", "--output", tmp_path / "rig", *rig)
    assert "found the finished set" in done.stdout
    done = call("render_rig", "--output", tmp_path / "rig", "--families", "gear")
    assert done.returncode == 2
    assert done.stderr == "error: families: unknown family 'gear'; choose from flange, terminal, cogwheel\n"
    fields = [f"--config.data.root={tmp_path / 'rig'}", f"--config.features.cache={tmp_path / 'cache'}"]
    fields += ["--config.data.image_size=32", "--config.backbone.batch_size=2"]
    fields += ["--config.train.epochs=2", "--config.train.centers=2"]
    fields += ["--config.geometry.on_failure=unconstrained"]  # of four small samples no pair is trusted
    done = call("train", "--config", "configs/demo.py", "--workdir", tmp_path / "run", *fields)
    assert done.returncode == 0, done.stderr
    done = call("score", "--workdir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run/scores/metrics.json").read_text())
    assert metrics["categories"]["terminal"]["sample"]["base_rate"] == pytest.approx(5 / 7)
    assert (tmp_path / "run/scores/attended/terminal.npz").is_file()
    page = tmp_path / "run/scores/report/index.html"
    assert f"report: {page}" in done.stdout
    before = page.read_bytes()
    page.unlink()
    done = call("score", "--workdir", tmp_path / "run", "--from-maps")
    assert done.returncode == 0, done.stderr
    assert page.read_bytes() == before
    done = call("score", "--workdir", tmp_path / "run", "--no-report")
    assert done.returncode == 0, done.stderr
    assert not page.parent.exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "coreset"}, "greedy coreset of 0.5 of the patches, distances in 128 random dimensions"),
        (
            {"kind": "coreset", "projection": "0"},
            "greedy coreset of 0.5 of the patches, distances of the",
        ),
        ({"kind": "kmeans", "per_view": "false"}, "k-means centres, 0.5 of the patches, one for all views"),
    ],
)
def test_smaller_banks_are_trained_scored_and_told(run, root, tmp_path, changes, told):
    config = config_for(root, bank__share="0.5", **{f"bank__{key}": value for key, value in changes.items()})
    train(config, tmp_path / "run")
    metrics = score(tmp_path / "run")
    assert metrics["protocol"]["bank"].startswith(told)
    full = json.loads((run / "scores/metrics.json").read_text())
    assert metrics["mean"]["sample"]["auroc"] == pytest.approx(full["mean"]["sample"]["auroc"], abs=0.1)
    kept, of_full = (
        sum(rows for rows, _ in bank_sizes(folder / "models/bolt").values())
        for folder in (tmp_path / "run", run)
    )
    assert kept == of_full // 2
    with pytest.raises(UserError, match="another config"):
        train(dataclasses.replace(config, bank=dataclasses.replace(config.bank, share=0.3)), tmp_path / "run")
    train(config, tmp_path / "two")
    assert score(tmp_path / "two")["mean"] == metrics["mean"]


def test_an_mvead_run_with_a_coreset(root, tmp_path):
    changes = {"method": "mvead", "bank__kind": "coreset", "train__epochs": "1"}
    changes |= {"geometry__on_failure": "unconstrained", "data__categories": "cap", "train__centers": "2"}
    train(config_for(root, **changes), tmp_path / "run")
    score(tmp_path / "run", report=False)
    sizes = bank_sizes(tmp_path / "run/models/cap")
    assert sizes.keys() == {f"banks/C{view}" for view in range(1, 6)}
    assert {rows for rows, _ in sizes.values()} == {1}  # of 16
    assert np.isfinite(np.load(tmp_path / "run/scores/maps/cap.npz")["maps"]).all()
