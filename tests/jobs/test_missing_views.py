"""scripts/reproduce.py missing-views: which views are left out, what is counted, and what is refused."""

import csv
import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fake_realiad import write_realiad
from reproducing import run_reproduce

from mvead_jax.commands import tables
from mvead_jax.config.io import load_config
from mvead_jax.data.readers import open_data
from mvead_jax.evaluation.ranking import auroc
from mvead_jax.jobs import missing_views
from mvead_jax.jobs.missing_views import left, score_with_missing_views
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.runtime.errors import UserError
from mvead_jax.scoring.scorer import Inputs

VIEWS = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_realiad(root, categories=("bolt", "usb"), train=4, normal=3, defective=3, views=VIEWS, size=32)
    return root


@pytest.fixture(scope="module")
def workdir(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "patchcore"
    fields = {
        "data.root": str(root),
        "data.image_size": "32",
        "backbone.name": "efficientnet-lite0",
        "backbone.batch_size": "4",
        "eval.bootstrap": "5",
    }
    train(load_config("configs/patchcore.py", fields), workdir)
    score(workdir, report=False)
    return workdir


def test_views_are_left_out_of_each_sample_one_more_at_a_time_and_by_its_name_alone(root):
    index = open_data(root).select(split="test")
    kept = [left(index, missing, (0, 1)) for missing in range(VIEWS)]
    for missing, own in enumerate(kept):
        assert (own.sum(1) == VIEWS - missing).all()
    assert all((more <= fewer).all() for fewer, more in pairwise(kept))
    assert len({tuple(np.flatnonzero(row)) for row in kept[2]}) > 1  # not the same view of all samples
    assert (left(index, 1, (0, 2)) != kept[1]).any()
    some = replace(index, samples=index.samples[3:5])
    np.testing.assert_array_equal(left(some, 1, (0, 1)), kept[1][3:5])


def test_a_method_whose_views_are_independent_scores_the_views_that_are_left_as_before(workdir, root):
    """The sample's score is the highest of the views that are left, whose scores are in images.csv."""
    found = score_with_missing_views(workdir, draws=2)
    assert [(one.missing, one.draw) for one in found if one.category == "usb"] == [
        (0, 0), (1, 0), (1, 1), (2, 0), (2, 1),
    ]  # fmt: skip
    with (workdir / "scores/images.csv").open(newline="") as file:
        scores = {
            (one["category"], one["sample"], one["view"]): float(one["score"]) for one in csv.DictReader(file)
        }
    index = open_data(root).select(split="test")
    for one in found:
        present = left(index, one.missing, (0, one.draw))
        rows = [at for at, sample in enumerate(index.samples) if sample.category == one.category]
        samples = [index.samples[at] for at in rows]
        names = [{view for view, has in zip(index.views, present[at], strict=True) if has} for at in rows]
        highest = np.array([
            max(scores[one.category, sample.id, view] for view in own)
            for sample, own in zip(samples, names, strict=True)
        ])  # fmt: skip
        labels = np.array([sample.label for sample in samples])
        assert one.auroc == pytest.approx(auroc(highest, labels))
        seen = [
            not sample.label or any(view.label and view.name in own for view in sample.views)
            for sample, own in zip(samples, names, strict=True)
        ]
        assert one.seen == pytest.approx(auroc(highest[seen], labels[seen]), nan_ok=True)


def test_nothing_of_a_view_that_is_left_out_reaches_the_method():
    ones = np.ones((2, 3, 2, 2, 3), np.float32)
    inputs = Inputs({}, np.ones((2, 3), bool), lambda rows: ones[rows], lambda rows: ones[rows][..., 0] > 0)
    present = np.array([[True, False, True], [False, False, True]])
    found = inputs.only(present)
    rows = np.array([1, 0])
    np.testing.assert_array_equal(found.present, present)
    np.testing.assert_array_equal(found.images(rows).any((2, 3, 4)), present[rows])
    np.testing.assert_array_equal(found.foreground(rows).any((2, 3)), present[rows])


def test_the_command_puts_workdirs_of_one_name_on_one_line(workdir, tmp_path, capsys):
    second = shutil.copytree(workdir, tmp_path / "more" / workdir.name)
    output = tmp_path / "out"
    assert run_reproduce("missing-views", "--workdir", workdir, "--workdir", second, "--output", output) == 0
    (row,) = json.loads((output / "missing-views.json").read_text())["rows"]
    assert list(row["sample AUROC"]) == ["0", "1", "2"]
    assert len(row["cells"]["1"]) == 4  # two categories under two folders
    values = [100 * np.mean([one.auroc for one in score_with_missing_views(workdir) if one.missing == 1])]
    assert row["sample AUROC"]["1"]["mean"] == pytest.approx(values[0])
    assert "| patchcore |" in capsys.readouterr().out


def test_the_command_counts_a_run_once_and_refuses_a_row_of_two_methods(workdir, tmp_path, monkeypatch):
    link, output = tmp_path / workdir.name, tmp_path / "out"
    link.symlink_to(workdir)
    assert run_reproduce("missing-views", "--workdir", workdir, "--workdir", link, "--output", output) == 0
    (row,) = json.loads((output / "missing-views.json").read_text())["rows"]
    assert len(row["cells"]["1"]) == 2
    other = tmp_path / "other" / workdir.name

    def read_metrics(path):
        return {"protocol": {"method": "another" if path == other else "patchcore"}}

    monkeypatch.setattr(tables, "read_metrics", read_metrics)
    with pytest.raises(UserError, match=r"another method than .*rename the folder"):
        run_reproduce("missing-views", "--workdir", workdir, "--workdir", other, "--output", output)


def test_runs_that_are_not_finished_and_samples_of_one_view_are_refused(workdir, root, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"metrics\.json"):
        run_reproduce("missing-views", "--workdir", tmp_path, "--output", tmp_path / "out")
    with pytest.raises(UserError, match="--draws 0"):
        run_reproduce("missing-views", "--workdir", workdir, "--output", tmp_path / "out", "--draws", "0")
    original = missing_views.opened_model

    def one_view(job, name, part):
        opened = original(job, name, part)
        samples = [replace(sample, views=sample.views[:1]) for sample in opened.index.samples]
        return opened._replace(index=replace(opened.index, samples=tuple(samples)))

    monkeypatch.setattr(missing_views, "opened_model", one_view)
    with pytest.raises(UserError, match="none can be left out"):
        score_with_missing_views(workdir)
