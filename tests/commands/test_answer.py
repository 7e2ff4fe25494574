"""What training and scoring say when they are done: the answer first, the protocol to files and --verbose."""

import json
import subprocess
import sys

import pytest
from calling import call
from fake_realiad import write_realiad

from mvead_jax.config.io import load_config
from mvead_jax.jobs.events import read_events
from mvead_jax.jobs.train import train

TINY = ["--config.data.image_size=32", "--config.backbone.batch_size=2", "--config.eval.bootstrap=5"]
DECIDES = ["--config.decision.held_out=0.4", "--config.decision.false_alarms=0.4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that decides, and what its training printed."""
    folder = tmp_path_factory.mktemp("answer")
    root = write_realiad(folder / "data", categories=("cap",), train=6, views=2, size=24)
    given = ["--config", "folder:patchcore", "--workdir", folder / "run", f"--config.data.root={root}"]
    done = call("train", *given, *TINY, *DECIDES)
    assert done.returncode == 0, done.stderr
    return folder, root, done


def test_training_ends_with_what_was_learned_the_threshold_and_the_next_command(run):
    folder, _, done = run
    learned, fails, end = done.stdout.splitlines()
    assert learned == "cap: learned from 4 samples, 8 images"
    (event,) = (one for one in read_events(folder / "run") if one["stage"] == "decision")
    assert fails == (
        f"cap: a sample fails above {event['threshold']:.4g}, by 2 held-out samples and at most 40 % false alarms"
    )
    assert end == f"trained: {folder / 'run'}; next: mvead score --workdir {folder / 'run'}"
    assert "weights:" not in done.stderr


def test_scoring_says_verdict_table_and_report_and_nothing_else(run):
    folder, *_ = run
    done = call("score", "--workdir", folder / "run")
    verdict, head, _, row, *places = done.stdout.splitlines()
    assert verdict.startswith("cap: ")
    assert all(word in verdict for word in (" fail, ", " pass; false alarms ", "; found "))
    assert head.split(" | ")[:2] == ["| percent", "sample AUROC"]
    metrics = json.loads((folder / "run/scores/metrics.json").read_text())["categories"]["cap"]
    assert row.split()[3] == f"{100 * metrics['sample']['auroc']:.1f}"
    assert row.split()[-2] == f"{100 * metrics['pixel']['aupro']:.1f}"
    assert places == [
        f"written to {folder / 'run/scores'}",
        f"report: {folder / 'run/scores/report/index.html'}",
    ]


def test_verbose_has_the_protocol_and_a_named_protocol_its_own_table(run):
    folder, *_ = run
    full = call("score", "--workdir", folder / "run", "--from-maps", "--verbose")
    assert "evaluation_digest: " in full.stdout
    assert "mean of 1" in full.stdout
    named = call("score", "--workdir", folder / "run", "--from-maps", "--protocol", "mvad,official")
    assert "protocol mvad:\n| percent" in named.stdout
    assert "protocol official:\n| percent" in named.stdout
    assert "digest" not in named.stdout


def test_without_a_threshold_the_highest_samples_are_named_and_what_would_give_one(run):
    folder, root, _ = run
    fields = {"data.root": str(root), "data.image_size": "32", "backbone.batch_size": "2"}
    train(load_config("folder:patchcore", fields), folder / "plain")
    new = folder / "new"
    for sample in ("a", "b"):
        for view in ("C1", "C2"):
            target = new / sample / f"{view}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(next(root.rglob(f"*_{view}_*.jpg")).read_bytes())
    done = call("score", "--workdir", folder / "plain", "--input", new, "--no-report")
    assert done.returncode == 0, done.stderr
    highest, undecided, place = done.stdout.splitlines()
    assert highest.startswith("2 samples scored; highest: ")
    assert "train with --config.decision.held_out=0.3" in undecided
    assert place == f"written to {folder / 'plain/scores_new'}"


_ALARM = """
import argparse, sys
from mvead_jax.runtime import console
console.apply(console.flags().parse_args(sys.argv[1:]))
import os
print(os.environ.get("TF_CPP_MIN_LOG_LEVEL"), "jax" in sys.modules)
"""


@pytest.mark.parametrize(("flags", "level"), [([], "3"), (["--quiet"], "3"), (["--verbose"], "None")])
def test_the_alarms_of_xla_are_heard_with_verbose_only(flags, level, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    done = subprocess.run([sys.executable, "-c", _ALARM, *flags], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [level, "False"]
