"""Several studies beside each other: levels, the floor, hardware that is not there."""

import copy
import json
import math
import re
from pathlib import Path

import pytest

from mvead_jax.commands.compare import main
from mvead_jax.runtime.errors import UserError
from mvead_jax.study.matrix import BIT_EQUAL, DECISIONS, DIFFERENT, WITHIN, format_matrix, matrix
from mvead_jax.study.report import read_study
from mvead_jax.study.runs import STAGES

DOCS = Path(__file__).parents[2] / "docs"


def study(devices=1, offset=0.0, decisions=(False, False, True), weights="random", **digests):
    """A study whose runs gave these scores, with the same bytes in all stages but those named."""
    environment = dict.fromkeys(("driver", "xla_flags", "cpu", "python"), "")
    environment |= {"backend": "cpu", "device": "Some CPU", "device_count": devices, "processes": 1}
    environment |= {"packages": {"jax": "1.0", "jaxlib": "1.0"}, "of_gpus": {}}
    run = {"name": "float32", "status": "passed", "seconds": 1.0, "runs": 5, "compiled_anew": True}
    run |= {"stages": {stage: {"digest": digests.get(stage, "0"), "equal": True} for stage in STAGES}}
    run |= {
        "floor": 0.0,
        "same_decisions": True,
        "scores": [1.0, 2.0 + offset, 3.0],
        "decisions": [*decisions],
    }
    other = {"name": "bfloat16", "status": "not run", "seconds": 0.0, "reason": "no time"}
    rest = {"correctness": [], "controls": [], "throughput": [], "scaling": []}
    told = {"version": 1, "minutes": 1.0, "seconds": 1.0, "passed": True, "weights": weights}
    return told | {"environment": environment, "repeatability": [run, other]} | rest


@pytest.mark.parametrize(
    ("other", "level"),
    [
        (study(4), BIT_EQUAL),
        (study(4, 1e-6, bank="1"), WITHIN),
        (study(4, 0.5, bank="1"), DECISIONS),
        (study(4, 1e-6, (True, False, True), bank="1"), DIFFERENT),
    ],
)
def test_the_strictest_level_that_holds_is_told(other, level):
    found = matrix({"one": study(), "four": other})
    assert found["rows"][0]["against"]["four"]["level"] == level
    assert found["pass"] == (level not in (DECISIONS, DIFFERENT))
    assert level in format_matrix(found)


def test_the_order_of_studies_changes_no_level():
    a, b = study(), study(4, 1e-6, bank="1")
    assert matrix({"a": a, "b": b})["rows"][0]["against"]["b"]["level"] == WITHIN
    assert matrix({"b": b, "a": a})["rows"][0]["against"]["a"]["level"] == WITHIN


def test_what_was_not_run_and_hardware_that_is_not_there_say_so():
    text = format_matrix(matrix({"one": study(), "four": study(4)}))
    (bfloat16, *_) = [line for line in text.splitlines() if "bfloat16" in line]
    assert "not run" in bfloat16
    for name in ("GPU", "TPU"):
        (row,) = [line for line in text.splitlines() if f"| {name} " in line]
        assert row.count("not run") == 9  # all but its name and the first column


def changed(**fields):
    """A study whose run in float32 has other fields; those that are None are left out."""
    own = study(4)
    run = own["repeatability"][0] | fields
    own["repeatability"][0] = {name: value for name, value in run.items() if value is not None}
    return own


def without_a_run():
    return study(4) | {"repeatability": []}


STAGE = {"digest": "0", "equal": True}
NOT_COMPARED = [
    (without_a_run(), "not run"),
    (study(4, weights="trained"), "other weights"),
    (changed(stages={"features": STAGE}), "only one has the stages bank, .*thresholds"),
    (changed(stages=study()["repeatability"][0]["stages"] | {"more": STAGE}), "only one has the stages more"),
    (changed(scores=[1.0, 2.0]), "other test samples, 3 and 2 scores"),
    (changed(decisions=[True]), "other test samples, 3 and 1 decisions"),
    (changed(scores=[1.0, None, 3.0]), "a score is no number"),
    (changed(scores=[1.0, math.nan, 3.0]), "a score is no number"),
]


@pytest.mark.parametrize(("other", "why"), NOT_COMPARED)
def test_where_no_two_studies_can_be_compared_there_is_no_verdict(other, why):
    with pytest.raises(UserError, match=f"nothing to compare: one and four: .*{why}"):
        matrix({"one": study(), "four": other})


@pytest.mark.parametrize(("other", "why"), NOT_COMPARED)
def test_a_study_that_is_compared_with_no_other_fails_the_matrix(other, why):
    found = matrix({"one": study(), "two": study(2), "four": other})
    (line,) = found["problems"]
    assert line.startswith("four: compared with no other study, float32: one: ")
    assert re.search(why, format_matrix(found))


def test_a_study_in_which_nothing_ran_is_not_said_to_have_failed():
    nothing = without_a_run() | {"passed": False}
    (line,) = matrix({"one": study(), "two": study(2), "four": nothing})["problems"]
    assert line.startswith("four: compared with no other study")


def test_a_floor_that_is_no_number_is_shown_as_none():
    other = study(4, bank="1")
    other["repeatability"][0]["floor"] = None
    other["repeatability"][0]["stages"]["bank"]["equal"] = False
    found = matrix({"one": study(), "four": other})
    assert found["rows"][0]["against"]["four"]["floor"] is None
    assert "- (5 runs)" in format_matrix(found)


def test_a_failed_item_decides_whatever_the_study_says_of_itself():
    failed = study(4)
    failed["correctness"] = [{"name": "hull", "status": "failed", "seconds": 1.0}]
    assert matrix({"one": study(), "four": failed})["problems"] == ["four: the study itself failed"]


def test_a_study_that_failed_fails_the_matrix():
    failed = study(4) | {"passed": False}
    assert "four: the study itself failed" in matrix({"one": study(), "four": failed})["problems"]


def written(folder, content):
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps(content))
    return str(folder)


def test_the_command_compares_any_number_of_studies(tmp_path, capsys):
    paths = [written(tmp_path / str(n), study(n)) for n in (1, 2, 4)]
    with pytest.raises(SystemExit) as ended:
        main([*paths, "--json", str(tmp_path / "found.json")])
    assert ended.value.code == 0
    assert "PASS" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "found.json").read_text())["rows"]) == 6
    worse = written(tmp_path / "worse", study(1, 1.0, bank="1"))
    with pytest.raises(SystemExit) as ended:
        main([paths[0], worse])
    assert ended.value.code == 1


def test_mistakes_are_told_in_a_line(tmp_path):
    good, other = (written(tmp_path / name, study()) for name in ("good", "other"))
    damaged = copy.deepcopy(study())
    del damaged["environment"]["backend"]
    bad = written(tmp_path / "bad", damaged)
    (tmp_path / "run").mkdir()
    for arguments, words in (
        ([good, bad], "environment: 'backend' is a required property.*run the study again"),
        ([good, str(tmp_path / "run")], "no study, and others are"),
        ([good, good], "the same study twice"),
        ([good, other, "--tolerance-score", "abc"], "--tolerance 'abc': expected a number"),
        (
            [good, other, "--tolerance-metric", "0.1"],
            "--tolerance-metric 0.1: of scored runs; studies have 0.0001 always",
        ),
        ([str(tmp_path / "run"), str(tmp_path / "run"), str(tmp_path / "x")], "two by two"),
        ([str(tmp_path / "run"), str(tmp_path / "x")], "images.csv"),
    ):
        with pytest.raises(UserError, match=words):
            main(arguments)


@pytest.mark.parametrize("file", ["a/study.json", "b.json", "a/new.json", "link.json"])
def test_a_study_that_is_read_is_not_written(tmp_path, file):
    a = written(tmp_path / "a", study())
    (tmp_path / "b.json").write_text(json.dumps(study(4)))
    (tmp_path / "link.json").symlink_to("b.json")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    with pytest.raises(UserError, match=f"--json .*{file}: .* is read; name a file outside"):
        main([a, str(tmp_path / "link.json"), "--json", str(tmp_path / file)])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before
    assert (tmp_path / "link.json").is_symlink()


def test_the_committed_studies_make_the_matrix_of_the_docs():
    paths = sorted((DOCS / "studies").glob("*.json"))
    assert len(paths) >= 4
    found = matrix({f"docs/studies/{path.name}": read_study(path) for path in paths})
    assert found["pass"]
    page = (DOCS / "reproducibility.md").read_text()
    assert all(line in page for line in format_matrix(found).splitlines())
