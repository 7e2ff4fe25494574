"""The study as a whole: its files, its verdict, and what becomes of what does not fit."""

import json

import numpy as np
import pytest

from mvead_jax.commands.study_device import main
from mvead_jax.config.io import override
from mvead_jax.jobs.inputs import load_method_backbone
from mvead_jax.runtime.errors import UserError
from mvead_jax.study import controls, repeatability
from mvead_jax.study.bank_checks import bank_workloads
from mvead_jax.study.budget import Budget
from mvead_jax.study.repeatability import Repeated
from mvead_jax.study.report import STAGES, failures, page, read_study
from mvead_jax.study.runs import STAGES as OF_A_RUN
from mvead_jax.study.runs import Outcome, one_run, study_config
from mvead_jax.study.schema import problem_of
from mvead_jax.study.throughput import timed


def outcome(offset=0.0, **changed):
    digests = dict.fromkeys(OF_A_RUN, "0") | changed
    return Outcome(digests, [1.0, 2.0 + offset, 3.0], [False, False, True], lambda folder: 1)


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Repetitions of runs that a test makes up: by their names, else all the same."""

    def make(**named):
        monkeypatch.setattr(
            Repeated, "run", lambda self, name, *args, **kwargs: named.get(name.replace("-", "_"), outcome())
        )
        return Repeated(tmp_path)

    return make


def test_a_study_without_time_lists_everything_as_not_run_and_writes_both_files(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--output", str(tmp_path), "--minutes", "0.0001", "--quiet"])
    assert ended.value.code == 1
    study = read_study(tmp_path)
    assert {item["status"] for stage in STAGES for item in study[stage]} == {"not run"}
    assert not study["passed"]
    assert all(item["reason"] for item in study["correctness"])
    told, written = capsys.readouterr().out, (tmp_path / "study.md").read_text()
    assert "not run:" in told
    assert "## Scaling" in written
    assert "NOTHING RAN in" in told
    assert "NOTHING RAN in" in written
    assert "PASS" not in told + written
    assert {path.name for path in tmp_path.iterdir()} == {"study.json", "study.md"}


def test_stages_that_were_not_asked_for_are_listed_so(tmp_path):
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path), "--minutes", "0.0001", "--only", "throughput", "--quiet"])
    study = read_study(tmp_path)
    assert study["correctness"] == [
        {"name": "all", "status": "not run", "seconds": 0, "reason": "it was not asked for (--only)"}
    ]
    assert len(study["throughput"]) > 5


def test_runs_that_are_the_same_pass_and_say_so(made):
    float32, bfloat16 = repeatability.repeatability(Budget(1e4, shown=False), made())
    assert (float32["status"], float32["runs"], float32["compiled_anew"]) == ("passed", 5, True)
    assert all(stage["equal"] for stage in float32["stages"].values())
    assert (bfloat16["runs"], bfloat16["compiled_anew"]) == (2, False)


def test_a_stage_that_changes_is_named_and_fails_on_a_cpu(made):
    kept = made(float32_3=outcome(1e-6, bank="1", scores="1"))
    (float32, _) = repeatability.repeatability(Budget(1e4, shown=False), kept)
    assert float32["status"] == "failed"
    assert "bank, scores" in float32["reason"]
    assert float32["floor"] == pytest.approx(5e-7)


def test_scores_that_are_no_numbers_fail_even_where_their_bytes_are_the_same(made):
    (float32, _) = repeatability.repeatability(
        Budget(1e4, shown=False), made(**{f"float32_{run}": outcome(np.nan) for run in range(5)})
    )
    assert all(stage["equal"] for stage in float32["stages"].values())
    assert float32["status"] == "failed"
    assert float32["reason"] == "5 scores are no finite numbers"


def test_controls_pass_where_the_scores_move_and_fail_where_they_do_not(made):
    kept = made(seed=outcome(0.1))
    kept.outcomes = {"float32": outcome(), "bfloat16": outcome(1e-6)}
    budget = Budget(1e4, shown=False)
    found = {item["name"]: item for item in controls.controls(budget, kept)}
    assert found["another seed"]["status"] == "passed"
    assert found["bfloat16 run"]["status"] == "failed"
    assert "sees nothing" in found["bfloat16 run"]["reason"]
    assert found["bfloat16 matrix products"]["status"] == "passed"
    assert "bfloat16" in found["bfloat16 matrix products"]["how"]


def test_an_item_that_raises_has_failed_with_its_first_line():
    def wrong():
        raise ValueError("no such kernel\nand more")

    found = Budget(10, shown=False).item("stage", "name", 1, wrong)
    assert found["status"] == "failed"
    assert found["reason"] == "ValueError: no such kernel"


def test_a_slow_machine_is_expected_to_stay_slow():
    budget = Budget(100, expected=10, measured=50, shown=False)
    assert budget.item("stage", "name", 30, dict)["status"] == "not run"
    assert "reason" not in budget.item("stage", "name", 10, lambda: {"status": "passed"})


def test_a_run_trains_scores_and_decides(tmp_path):
    config = override(study_config(), {"data.image_size": "64", "train.epochs": "1"})
    found = one_run(config, load_method_backbone(config), tmp_path / "run")
    assert tuple(found.digests) == OF_A_RUN
    assert len(set(found.digests.values())) == len(OF_A_RUN)
    assert len(found.decisions) == 5
    assert np.isfinite(found.scores).all()
    assert found.score_again(tmp_path / "again") == len(found.scores) == 25


def test_a_rate_of_products_tells_its_tflops():
    found = timed(bank_workloads()[0])
    assert found["value"] > 0
    assert found["tflops"] == pytest.approx(found["value"] * 2 * 16384 * 384 / 1e12)


def study():
    """A study that passes, in little."""
    item = {
        "name": "hull",
        "status": "passed",
        "seconds": 1.0,
        "largest": 1e-7,
        "tolerance": 1e-5,
        "digest": "0",
    }
    environment = dict.fromkeys(("backend", "device", "driver", "xla_flags", "cpu", "python"), "x")
    environment |= {"device_count": 1, "processes": 1, "packages": {"jax": "1", "jaxlib": "1"}, "of_gpus": {}}
    empty = {stage: [] for stage in STAGES}
    told = {"version": 1, "minutes": 1.0, "seconds": 1.0, "passed": True, "weights": "random"}
    return told | {"environment": environment} | empty | {"correctness": [item]}


def test_the_schema_takes_a_study_and_names_what_does_not_fit():
    assert problem_of(study()) == ""
    assert "hull" in page(study())
    wrong = {
        "$: 'minutes' is a required property": lambda own: own.pop("minutes"),
        "$: Additional properties are not allowed ('more' was unexpected)": lambda own: own.update(more=1),
        "$.correctness[0].status: 'fine'": lambda own: own["correctness"][0].update(status="fine"),
        "$.correctness[0].largest: 'small'": lambda own: own["correctness"][0].update(largest="small"),
        "$.environment.processes: 0 is less": lambda own: own["environment"].update(processes=0),
        "$.environment.device_count: 0": lambda own: own["environment"].update(device_count=0),
        "$.environment.packages: 'jax' is": lambda own: own["environment"].update(packages={}),
        "$.environment.packages.jax: 3": lambda own: own["environment"]["packages"].update(jax=3),
        "$.passed: 1 is not of type 'boolean'": lambda own: own.update(passed=1),
        "$.minutes: True is not of type 'number'": lambda own: own.update(minutes=True),
    }
    for words, change in wrong.items():
        own = json.loads(json.dumps(study()))
        change(own)
        assert problem_of(own).startswith(words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"floor": None}, ""),
        ({"status": "failed"}, ""),
        ({"stages": ...}, "$.repeatability[0]: 'stages' is a required property"),
        ({"floor": ...}, "$.repeatability[0]: 'floor' is a required property"),
        ({"scores": ..., "status": "failed"}, "$.repeatability[0]: 'scores' is a required property"),
        ({"decisions": ...}, "$.repeatability[0]: 'decisions' is a required property"),
        ({"runs": 0}, "$.repeatability[0].runs: 0 is less"),
        ({"scores": []}, "$.repeatability[0].scores: []"),
        ({"stages": {}}, "$.repeatability[0].stages: {}"),
        ({"stages": {"bank": 3}}, "$.repeatability[0].stages.bank: 3 is not of type 'object'"),
        ({"stages": {"bank": {"equal": True}}}, "$.repeatability[0].stages.bank: 'digest' is a required"),
    ],
)
def test_a_run_holds_all_that_is_compared(changes, words):
    run = {"name": "float32", "status": "passed", "seconds": 1.0, "runs": 5, "floor": 0.0, "scores": [1.0]}
    run |= {"decisions": [True], "stages": {"bank": {"digest": "0", "equal": True}}} | changes
    run = {name: value for name, value in run.items() if value is not ...}
    found = problem_of(study() | {"repeatability": [run]})
    assert found.startswith(words)
    assert bool(found) == bool(words)


def test_a_study_of_a_newer_program_asks_for_an_update(tmp_path):
    (tmp_path / "study.json").write_text(json.dumps(study() | {"version": 2}))
    with pytest.raises(UserError, match="version 2, which a newer program wrote.*update mvead_jax"):
        read_study(tmp_path)


def test_a_failure_is_named_on_the_page():
    own = study()
    own["correctness"][0] |= {"status": "failed", "reason": "off by 3"}
    assert failures(own) == ["correctness: hull: off by 3"]
    assert "off by 3" in page(own)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "x", "--minutes", "soon"], "--minutes soon: give a number above 0"),
        (["--output", "x", "--minutes", "-1"], "--minutes -1"),
        (["--output", "x", "--only", "scalling"], "no stage 'scalling'.*scaling"),
        (["--minute", "3"], "--minutes"),
        ([], "--output"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, words):
    with pytest.raises(UserError, match=words):
        main(arguments)


def test_a_finished_study_is_not_overwritten(tmp_path):
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(UserError, match=r"study\.json: a finished study; name another folder"):
        main(["--output", str(tmp_path), "--minutes", "0.0001", "--quiet"])
    assert (tmp_path / "study.json").read_text() == "{}"
    assert len([*tmp_path.iterdir()]) == 1


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file is there"):
        main(["--output", str(tmp_path / "file")])
