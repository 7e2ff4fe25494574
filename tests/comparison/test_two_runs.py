"""compare_runs.py: the same run passes, another fails, and what differs is named.

A run on other devices goes through `compare` like any other (`agree` below): a multi-device test trains and
scores two workdirs and calls it.
"""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_realiad import edit_list, write_realiad
from jobs.test_evaluate import WORDS, config_for, drawn_scores

from mvead_jax.comparison.agreement_text import format_comparison
from mvead_jax.comparison.two_runs import Tolerances, compare, read_run
from mvead_jax.config.io import override, to_dict
from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.data.realiad import load_index
from mvead_jax.jobs.evaluate import evaluate
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import write_json

ROOT = Path(__file__).parents[2]
main = runpy.run_path(str(ROOT / "scripts/compare_runs.py"), run_name="compare_runs")["main"]


def agree(a, b, **tolerances):
    return compare(read_run(a), read_run(b), Tolerances(**tolerances))


def edit_replicates(workdir, **changes):
    path = workdir / "scores/bootstrap.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | changes)


def edit_metrics(workdir, change):
    """As a version before seals would have written it."""
    path = workdir / "scores/metrics.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps({key: found[key] for key in found if key not in ("files", "seal")}))


def unsealed(workdir):
    edit_metrics(workdir, lambda found: None)
    return workdir


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_realiad(tmp_path_factory.mktemp("data"), size=40, normal=6, defective=6, views=3)


@pytest.fixture(scope="module")
def make(root):
    """Makes a workdir of drawn scores; `change(line)` edits each line of images.csv before the metrics."""

    def make(workdir, scores=0, change=None, devices=("cpu",), data=root, **fields):
        index = load_index(data).select(split="test")
        config = config_for(data, **fields)
        write_json(workdir / "config.json", to_dict(config))
        write_json(workdir / "environment.json", {"devices": devices, "packages": {"jax": "1"}})
        drawn_scores(index, workdir / "scores", scores)
        if change:
            path = workdir / "scores/images.csv"
            head, *lines = path.read_text().splitlines()
            path.write_text("\n".join([head, *(",".join(change(line.split(","))) for line in lines)]) + "\n")
        evaluate(workdir / "scores", index, {**WORDS, "seed": config.seed}, config)
        return workdir

    return make


@pytest.fixture(scope="module")
def run(make, tmp_path_factory):
    return make(tmp_path_factory.mktemp("runs") / "a")


def scaled(factor):
    def change(line):
        return [*line[:-1], f"{np.float32(line[-1]) * np.float32(factor):.9g}"]

    return change


def test_a_run_agrees_with_itself_to_the_bit(run):
    found = agree(run, run / "scores", score=0, metric=0)
    assert found["pass"], found["problems"]
    assert all(own["equal"] == own["count"] == 36 for own in found["scores"].values())
    assert all(own["moved"] == 0 for own in found["ranks"].values())
    for levels in found["metrics"].values():
        assert list(levels) == ["sample", "image", "pixel"]
        for own in levels.values():
            assert all((one["difference"], one["p"]) == (0, 1) for one in own.values())


def test_rounding_passes_and_what_exceeds_the_tolerance_does_not(run, make, tmp_path):
    make(tmp_path / "b", change=scaled(1 + 1e-6), devices=("cpu", "cpu"))
    found = agree(run, tmp_path / "b")
    assert found["pass"], found["problems"]
    assert found["environment"] == ["train devices: ['cpu'] and ['cpu', 'cpu']"]
    own = found["scores"]["cap"]
    assert 0 < own["relative_mean"] <= own["relative_largest"] < 1e-5
    assert "PASS" in format_comparison(found)
    strict = agree(run, tmp_path / "b", score=1e-7)
    assert not strict["pass"]
    assert any("cap: scores differ by up to" in one for one in strict["problems"])


def test_other_scores_fail_by_score_and_by_metric_with_paired_intervals(run, make, tmp_path):
    found = agree(run, make(tmp_path / "b", scores=5))
    text = format_comparison(found)
    assert not found["pass"]
    assert "FAIL" in text
    assert text.isascii()
    assert any("scores differ" in one for one in found["problems"])
    assert any("image auroc differs" in one for one in found["problems"])
    for levels in found["metrics"].values():
        for own in levels.values():
            for one in own.values():
                assert one["interval"][0] <= one["interval"][1]
                assert 0 < one["p"] <= 1
    mean = found["metrics"]["mean"]["pixel"]["aupro"]
    own = [found["metrics"][name]["pixel"]["aupro"]["difference"] for name in ("bolt", "cap")]
    assert mean["difference"] == pytest.approx(np.mean(own))


def test_another_seed_is_another_experiment_even_with_the_same_scores(run, make, tmp_path):
    found = agree(run, make(tmp_path / "b", seed="1"))
    assert not found["pass"]
    assert "not the same experiment: config seed: 0 and 1" in found["problems"]


def test_places_and_batch_sizes_may_differ(run, make, tmp_path, root):
    shutil.copytree(root, tmp_path / "data")
    fields = {"features.cache": "x", "backbone.batch_size": "2", "backbone.directory": "y"}
    fields |= {"geometry.cameras": "z.json", "score.search": "bfloat16"}
    found = agree(run, make(tmp_path / "b", data=tmp_path / "data", **fields))
    assert found["pass"], found["problems"]


def test_other_protocols_are_named_and_pixels_not_compared(run, make, tmp_path):
    found = agree(run, make(tmp_path / "b", **{"eval.protocol": "dinomaly"}))
    assert not found["pass"]
    assert list(found["metrics"]["mean"]) == ["sample", "image"]
    assert "pixel metrics not compared: other evaluation protocols" in found["problems"]
    assert any(one.startswith("not the same experiment: protocol smoothing") for one in found["problems"])


def test_figures_are_those_of_metrics_json_by_whatever_protocol(run, make, tmp_path):
    own = {"eval.protocol": "mvad"}
    a, b = make(tmp_path / "a", **own), make(tmp_path / "b", scores=5, **own)
    found = agree(a, b)
    for name, levels in found["metrics"].items():
        for at, workdir in (("a", a), ("b", b)):
            told = json.loads((workdir / "scores/metrics.json").read_text())
            told = told["mean"] if name == "mean" else told["categories"][name]
            for level, of_level in levels.items():
                for metric, one in of_level.items():
                    assert one[at] == pytest.approx(told[level][metric], abs=1e-12)
    assert agree(a, a, metric=0)["pass"]
    # Not images.csv alone: under mvad it is the maps that are compared.
    path = b / "scores/images.csv"
    path.write_bytes((a / "scores/images.csv").read_bytes())
    with pytest.raises(UserError, match="b/scores/images.csv: changed since it was written; score again"):
        agree(a, b)
    problems = agree(a, unsealed(b))["problems"]
    assert any("image auroc differs" in one for one in problems)
    assert not any("scores differ" in one for one in problems)


def test_without_resamples_there_are_figures_and_no_intervals(make, tmp_path):
    workdir = make(tmp_path / "a", **{"eval.bootstrap": "0"})
    found = agree(workdir, workdir)
    assert found["pass"], found["problems"]
    assert np.isnan(found["metrics"]["mean"]["image"]["auroc"]["p"])
    assert "p 1" not in format_comparison(found)


def test_missing_samples_and_other_labels_are_named_and_the_rest_is_compared(run, make, root, tmp_path):
    shutil.copytree(root, tmp_path / "data")

    def change(content):
        content.update(test=content["test"][3:])
        content["test"][-3].update(anomaly_class="OK", mask_path=None)

    edit_list(tmp_path / "data", "cap", change)
    found = agree(run, make(tmp_path / "b", data=tmp_path / "data"))
    assert found["only_a"] == [f"cap/cap_0005_OK/C{view}" for view in (1, 2, 3)]
    assert found["other_labels"] == ["cap/cap_0016_NG_HS/C1"]
    assert found["images"] == 69
    assert "3 images only in A: cap/cap_0005_OK/C1" in found["problems"][0]
    assert list(found["metrics"]["mean"]) == ["sample", "image"]


def test_two_real_runs_agree_and_one_with_another_seed_does_not(tmp_path):
    counts = {"train": 3, "normal": 3, "defective": 3}
    root = write_realiad(tmp_path / "data", categories=("cap",), size=32, views=2, **counts)
    untrained = BackboneConfig(name="dinov2-small", weights="random", block=1)
    config = PatchCoreConfig(data=DataConfig(root=str(root), image_size=28), backbone=untrained)
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        fields = {"seed": seed, "eval.bootstrap": "50", "features.cache": str(tmp_path / f"cache-{name}")}
        own = override(config, fields)
        train(own, tmp_path / name)
        score(tmp_path / name, report=False)
    found = agree(tmp_path / "a", tmp_path / "b", score=0, metric=0)
    assert found["pass"], found["problems"]
    assert not found["environment"]
    found = agree(tmp_path / "a", tmp_path / "c")
    assert not found["pass"]
    assert any("scores differ" in one for one in found["problems"])
    assert any("backbone_digest" in one for one in found["problems"])


# The script.


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare_runs.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr().out

    return call


def test_the_exit_code_is_the_verdict_and_json_holds_it_all(run, make, tmp_path, call):
    code, text = call(run, run, "--json", tmp_path / "found.json")
    assert code == 0
    assert text.strip().splitlines()[-1].startswith("PASS: the same samples and settings, scores")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["pass"] is True
    assert found["tolerances"] == {"score": 1e-4, "metric": 1e-3}
    code, text = call(run, make(tmp_path / "b", change=scaled(1.01)))
    assert (code, "FAIL" in text) == (1, True)
    assert call(run, tmp_path / "b", "--tolerance-score", "0.1")[0] == 0


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda run: None, ["none"], "none: holds no images.csv or scores/images.csv; name a workdir"),
        (
            lambda run: (run / "scores/metrics.json").unlink(),
            [],
            "metrics.json: no such file",
        ),
        (
            lambda run: (run / "scores/metrics.json").write_text("[]"),
            [],
            "metrics.json: not written by score.py",
        ),
        (lambda run: (run / "scores/bootstrap.npz").write_bytes(b"x"), [], "bootstrap.npz: not written by"),
        (
            lambda run: np.savez(run / "scores/bootstrap.npz", x=np.zeros(3)),
            [],
            "bootstrap.npz: not of the evaluation_digest of metrics.json beside it; score again",
        ),
        (lambda run: edit_replicates(run, evaluation_digest="x"), [], "not of the evaluation_digest"),
        (lambda run: edit_replicates(run, categories=["cap"]), [], "not of the categories of metrics.json"),
        (lambda run: edit_replicates(run, pixel_ap=np.zeros((1, 100))), [], "bootstrap.npz: not written by"),
        (lambda run: edit_replicates(run, pixel_other=np.zeros((2, 100))), [], "bootstrap.npz: not written"),
        (
            lambda run: edit_metrics(run, lambda found: found["categories"].clear()),
            [],
            "metrics.json: of other categories than images.csv; score again",
        ),
        (
            lambda run: edit_metrics(run, lambda found: found["categories"]["cap"].pop("pixel")),
            [],
            "metrics.json: not written by score.py",
        ),
        (
            lambda run: (run / "scores/environment.json").write_text("[1]"),
            [],
            "scores/environment.json: not what a run ran on.*delete it",
        ),
        (
            lambda run: (run / "environment.json").write_text("null"),
            [],
            "run/environment.json: not what a run ran on",
        ),
        (lambda run: None, ["--tolerance-score", "-1"], "--tolerance '-1': expected a number from 0 on"),
        (
            lambda run: None,
            ["--json", "a", "--html", "./a"],
            "--html a: --json writes this file too; name two",
        ),
        (lambda run: None, ["--tolerance-metric", "x"], "--tolerance 'x': expected a number"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, change, arguments, message):
    shutil.copytree(run, tmp_path / "run")
    unsealed(tmp_path / "run")
    change(tmp_path / "run")
    pair = [run, tmp_path / (arguments[0] if arguments == ["none"] else "run")]
    options = [] if arguments == ["none"] else arguments
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", *map(str, pair), *options])
    with pytest.raises(UserError, match=message) as error:
        main()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", ["run", "run/scores"])
@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize("file", ["scores/metrics.json", "scores/images.csv", "config.json"])
def test_a_run_that_is_read_is_not_written(run, tmp_path, monkeypatch, given, option, file):
    shutil.copytree(run, tmp_path / "run")
    before = (tmp_path / "run" / file).read_bytes()
    pair = [str(run), str(tmp_path / given)]
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", *pair, option, str(tmp_path / "run" / file)])
    with pytest.raises(UserError, match=f"{option} .*{file}: .* is read; name a file outside"):
        main()
    assert (tmp_path / "run" / file).read_bytes() == before


def test_a_scores_folder_that_is_a_link_is_not_written(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/scores").rename(tmp_path / "elsewhere")
    (tmp_path / "run/scores").symlink_to(tmp_path / "elsewhere")
    file = tmp_path / "elsewhere/metrics.json"
    monkeypatch.setattr(
        sys, "argv", ["compare_runs.py", str(run), str(tmp_path / "run"), "--json", str(file)]
    )
    with pytest.raises(UserError, match="is read; name a file outside"):
        main()


def test_runs_without_a_common_picture_are_refused(run, tmp_path):
    root = write_realiad(tmp_path / "data", categories=("nut",), size=40, views=2)
    index = load_index(root).select(split="test")
    drawn_scores(index, tmp_path / "scores")
    evaluate(tmp_path / "scores", index, WORDS, config_for(root))
    with pytest.raises(UserError, match="have no image in common; compare runs of one test split"):
        agree(run, tmp_path / "scores")


def test_two_methods_whose_configs_have_other_sections_are_compared(run, make, tmp_path):
    make(tmp_path / "b", scores=5)
    other = PatchCoreConfig(data=DataConfig(root="elsewhere", image_size=64))
    write_json(tmp_path / "b/config.json", to_dict(other))
    found = agree(run, tmp_path / "b")
    assert not found["pass"]
    assert [one for one in found["settings"] if one.startswith("config ")]
    assert agree(tmp_path / "b", run)["settings"]


def test_the_page_of_two_runs_needs_a_report_and_is_written_by_the_command(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["compare_runs.py", str(run), str(run), f"--html={tmp_path / 'two.html'}"]
    )
    with pytest.raises(UserError, match="--html: neither"):
        main()
    assert not (tmp_path / "two.html").exists()
