"""scripts/prepare_data.py, and the two jobs on what it made."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
from calling import call
from fake_realiad import write_realiad
from safetensors.numpy import load_file
from test_train_score import config_for, results

from mvead_jax.data import realiad_counts
from mvead_jax.data.readers import open_data
from mvead_jax.data.realiad import load_index
from mvead_jax.data.tfds_realiad.prepare import prepare
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import locked

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_realiad(tmp_path_factory.mktemp("data") / "raw", size=40)


def script(*arguments):
    return call("prepare_data", *arguments)


def test_training_and_scoring_give_the_same_as_from_files(root, tmp_path):
    prepared = tmp_path / "prepared"
    prepare(root, prepared, ["cap"])
    for name, place in (("files", root), ("records", prepared)):
        config = config_for(place, data__categories="cap", features__cache=str(tmp_path / f"cache_{name}"))
        train(config, tmp_path / name)
        score(tmp_path / name)
    assert results(tmp_path / "files") == results(tmp_path / "records")
    states = [load_file(tmp_path / run / "models/cap/state.safetensors") for run in ("files", "records")]
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        np.testing.assert_array_equal(states[0][name], states[1][name])
    for name in ("maps/cap.npz", "report/samples/0.js", "report/pictures/0/0.webp"):
        files, records = (tmp_path / run / "scores" / name for run in ("files", "records"))
        assert files.read_bytes() == records.read_bytes()
    # What was trained on files scores prepared data, and prepared data that was moved.
    shutil.move(prepared, tmp_path / "moved")
    score(tmp_path / "files", tmp_path / "out", overrides={"data.root": str(tmp_path / "moved")})
    assert (tmp_path / "out/samples.csv").read_bytes() == results(tmp_path / "files")["samples.csv"]


def test_it_prepares_reports_and_finds_what_is_there(root, tmp_path):
    output = tmp_path / "out"
    done = script("--root", root, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "preparing 2 categories: 20 samples, 118 files, 0.7 MB" in done.stderr
    assert "preparing 20/20 samples" in done.stderr
    assert "WARNING" not in done.stderr
    assert done.stdout.endswith(f"prepared: train with --config.data.root={output}\n")
    told = json.loads((output / "report-64-realiad_jsons.json").read_text())
    assert told["total"]["test"]["samples_ng"] == 6
    again = script("--root", root, "--output", output)
    assert "all 2 categories are there" in again.stderr
    printed = script("--root", output, "--report-only")
    assert printed.stdout == (output / "report-64-realiad_jsons.md").read_text()
    assert script("--root", root, "--report-only").stdout == printed.stdout


_KILLED = """
import os, runpy, signal, sys
from mvead_jax.data.tfds_realiad import builder
read = builder._read
def killed(root, view):
    if "cap_0008" in view.image:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(root, view)
builder._read = killed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_killed_in_the_middle_it_goes_on_with_what_is_not_whole(root, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, "-c", _KILLED, "scripts/prepare_data.py", "--root", root, "--output", output]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    assert list((output / "cap/realiad/64-realiad_jsons").glob("incomplete.*"))
    assert open_data(output, ["bolt"]).categories == ("bolt",)
    with pytest.raises(UserError, match="preparing cap was not finished"):
        open_data(output)
    before = {path: path.stat().st_mtime_ns for path in (output / "bolt").rglob("*array_record*")}
    done = script("--root", root, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "preparing 1 categories: 10 samples" in done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (output / "bolt").rglob("*array_record*")}
    assert open_data(output).samples == load_index(root).samples
    assert not list(output.rglob("incomplete*"))
    assert not list(output.rglob("unfinished*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "{root}"], "error: --output is missing; name a folder"),
        (["--root", "none", "--output", "{out}"], "error: --root none: no such folder"),
        (["--root", "{root}", "--output", "{root}"], "error: --output {root}: is the data set itself"),
        (
            ["--root", "{root}", "--output", "{root}/realiad_jsons/cap.json"],
            "error: --output {root}/realiad_jsons/cap",
        ),
        (
            ["--root", "{root}", "--output", "{out}", "--categories", "cup"],
            "error: unknown category 'cup', did you mean 'cap'",
        ),
        (["--root", "{root}", "--output", "{out}", "--lists", "none"], "error: data.root {root}: no list"),
        (["--root", "{root}", "--output", "{out}", "--images", "../x"], "error: data.images '../x' leaves"),
        (["--root", "{root}", "--output", "{out}", "--images", "realiad_512"], "error: {root}: 2 problems"),
        (["--root", "none", "--report-only"], "error: data.root none: no such folder"),
    ],
)
def test_a_mistake_ends_it_with_one_clear_line_and_code_2(root, tmp_path, arguments, message, monkeypatch):
    filled = [one.format(root=root, out=tmp_path / "out") for one in arguments]
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *filled])
    with pytest.raises(UserError) as error:
        run_path(str(ROOT / "scripts/prepare_data.py"))["main"]()
    assert f"error: {error.value}".startswith(message.format(root=root))
    assert not list((tmp_path / "out").rglob("*array_record*"))


def test_other_counts_than_real_iads_stop_it_unless_allowed(root, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(realiad_counts, "CATEGORIES", frozenset({"bolt", "cap"}))
    monkeypatch.setitem(realiad_counts.EXPECTED, "realiad_jsons", {"train images": 41, "test images": 60})
    with pytest.raises(UserError, match=f"{root}: train images 40, Real-IAD has 41; .*--allow-other-counts"):
        prepare(root, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    prepare(root, tmp_path / "out", allow_other_counts=True)
    assert caplog.text.count("train images 40, Real-IAD has 41") == 1
    prepare(root, tmp_path / "one", ["cap"])  # not all categories: nothing to compare with


def test_two_at_once_are_refused(root, tmp_path):
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"), pytest.raises(UserError, match="another process is at work here"):
        prepare(root, tmp_path / "out")
