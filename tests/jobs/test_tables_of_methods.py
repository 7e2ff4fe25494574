"""scripts/reproduce.py table1, table2 and all with --methods: columns, failures, shares and the budget."""

import json
import threading
from itertools import accumulate
from pathlib import Path

import pytest
from reproducing import run_reproduce, two_categories

from mvead_jax.comparison import papers
from mvead_jax.config.io import load_config, override
from mvead_jax.data.readers import open_data
from mvead_jax.jobs import budget, reproduce, step_time
from mvead_jax.jobs.budget import budget_text, budgets
from mvead_jax.jobs.category_runs import CategoryRuns
from mvead_jax.jobs.dry_run import plan_training
from mvead_jax.jobs.inputs import load_method_backbone
from mvead_jax.jobs.plan import scoring_parts, training_parts
from mvead_jax.jobs.reproduce import Run, update_tables
from mvead_jax.jobs.step_time import seconds_a_step
from mvead_jax.jobs.train import train
from mvead_jax.methods.base import Spec
from mvead_jax.methods.destseg.config import DestsegConfig
from mvead_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
METHODS = [str(ROOT / "configs" / name) for name in ("patchcore.py", "simplenet.py:lite0")]
NAMES = ["patchcore", "simplenet-lite0"]
SINGLES = [f"{name}__single-{category}" for name in NAMES for category in ("bolt", "usb")]
FIELDS = {
    "data.image_size": "32",
    "backbone.batch_size": "4",
    "eval.bootstrap": "5",
    "train.epochs": "1",
    "train.batch_size": "2",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return two_categories(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def call(root):
    def run(*arguments, methods=METHODS):
        changes = [f"--config.{key}={value}" for key, value in {**FIELDS, "data.root": root}.items()]
        return run_reproduce(*arguments, *(["--methods", *methods] if methods else []), *changes)

    return run


def content(output, name="table1"):
    return json.loads((output / f"{name}.json").read_text())


def single(output, name="table1"):
    return content(output, name)["settings"]["single-class"]


def told(output):
    """Table 1 but for the commit, which may be another from one test to the next."""
    found = single(output)
    for run in found["runs"].values():
        del run["commit"]
    return found


def finished(output):
    return sorted(path.parts[-3] for path in output.glob("*/scores/metrics.json"))


def times(output):
    return {path: path.stat().st_mtime_ns for path in output.glob("*/*/*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(call, tmp_path_factory):
    """Both tables of two methods, in one go."""
    output = tmp_path_factory.mktemp("whole")
    assert call("all", "--output", output, "--setting", "single") == 0
    return output


def test_two_methods_stand_side_by_side_each_beside_its_paper(whole):
    for number, level in ((1, "sample"), (2, "image")):
        found = content(whole, f"table{number}")
        assert found["columns"] == {
            "patchcore": {"method": "patchcore", "beside": ["PatchCore"]},
            "simplenet-lite0": {"method": "simplenet", "beside": ["SimpleNet"]},
        }
        usb = found["settings"]["single-class"]["categories"]["usb"]
        for name in NAMES:
            metrics = json.loads((whole / f"{name}__single-usb/scores/metrics.json").read_text())
            expected = 100 * metrics["categories"]["usb"][level]["auroc"]
            assert usb["ours"][name]["auroc"] == pytest.approx(expected)
        place = papers.Place(level, "single-class", "usb", "SimpleNet", "auroc")
        assert usb["papers"]["SimpleNet"]["auroc"] == papers.realiad()[place]
        mean = found["settings"]["single-class"]["mean"]["auroc"]
        assert mean["categories"] == 1  # no paper has the bolt
        both = [found["settings"]["single-class"]["categories"][c]["ours"] for c in ("bolt", "usb")]
        for name in NAMES:
            assert mean["ours"][name] == usb["ours"][name]["auroc"]
            assert mean["ours_all"][name] == pytest.approx(sum(own[name]["auroc"] for own in both) / 2)


def test_every_format_has_the_same_columns_and_gains(whole):
    found = single(whole)
    usb = found["categories"]["usb"]
    gain = usb["ours"]["simplenet-lite0"]["auroc"] - usb["papers"]["SimpleNet"]["auroc"]
    header = "simplenet-lite0 - SimpleNet"
    texts = {kind: (whole / f"table1.{kind}").read_text() for kind in ("md", "tex", "html")}
    assert texts["md"].isascii()
    assert texts["tex"].isascii()
    assert all(header in text and f"{gain:+.1f}" in text for text in texts.values())
    # What both methods share is said once, what one has of its own by the name of its column.
    assert texts["md"].count("- input: 32 x 32") == 1
    assert "    - patchcore: full, one for each view" in texts["md"]
    assert "Not finished yet" not in texts["md"]


def test_shares_together_make_what_one_call_makes(whole, call, tmp_path):
    output = tmp_path / "shares"
    assert call("table1", "--output", output, "--setting", "single", "--share", "2/2") == 0
    assert finished(output) == SINGLES[1::2]
    assert "patchcore, single-class: 1 of 2 runs" in (output / "table1.md").read_text()
    before = times(output)
    assert call("table1", "--output", output, "--setting", "single", "--share", "1/2") == 0
    assert finished(output) == SINGLES
    assert before.items() <= times(output).items()
    assert told(output) == told(whole)


def test_cells_that_fail_or_crash_are_passed_over_named_and_made_by_the_next_call(
    whole, call, tmp_path, capsys, monkeypatch
):
    output, train = tmp_path / "runs", reproduce.train
    causes = {
        "patchcore__single-bolt": MemoryError("no room on the device"),
        "simplenet-lite0__single-bolt": UserError("no weights"),
    }

    def failing(config, workdir):
        if workdir.name in causes:
            raise causes[workdir.name]
        train(config, workdir)

    monkeypatch.setattr(reproduce, "train", failing)
    assert call("table1", "--output", output, "--setting", "single") == 1
    assert finished(output) == ["patchcore__single-usb", "simplenet-lite0__single-usb"]
    assert capsys.readouterr().err.strip().splitlines()[-2:] == [
        "error: patchcore__single-bolt: MemoryError: no room on the device",
        "error: simplenet-lite0__single-bolt: no weights",
    ]
    assert "- simplenet-lite0__single-bolt: no weights" in (output / "table1.md").read_text()
    assert single(output)["runs"]["patchcore__single-bolt"]["error"] == "MemoryError: no room on the device"
    before = times(output)
    monkeypatch.undo()
    assert call("table1", "--output", output, "--setting", "single") == 0
    assert before.items() <= times(output).items()
    assert told(output) == told(whole)


@pytest.fixture
def measured(monkeypatch):
    """A second for an image, two for a step."""
    monkeypatch.setattr(budget, "seconds_a_picture", lambda backbone, batch: 1.0)
    monkeypatch.setattr(budget, "seconds_a_step", lambda config, index, backbone: 2.0)


def runs_of(root, output, settings=("single", "multi")):
    found = []
    for name, spec in zip(NAMES, METHODS, strict=True):
        config = load_config(spec)
        own = {key: value for key, value in FIELDS.items() if hasattr(config, key.partition(".")[0])}
        config = load_config(spec, {**own, "data.root": str(root)})
        found += CategoryRuns.of(config, settings, output, name).all
    return found


def test_a_budget_counts_images_steps_and_bytes_and_shared_features_once(root, measured, tmp_path):
    output = tmp_path / "none"
    runs = runs_of(root, output)
    found = {one.name: one for one in budgets(runs, output)}
    assert not output.exists()
    assert [one.images for one in found.values()] == [14, 14, 0, 14, 14, 0]  # (3 + 4) samples of two views
    assert [one.steps for one in found.values()] == [0, 0, 0, 2, 2, 3]  # of two samples each
    for one in found.values():
        assert (one.state, one.error) == ("to do", None)
        assert (one.feature_seconds, one.training_seconds) == (one.images, 2 * one.steps)
    for run in runs:
        index = open_data(run.config.data.root)
        if run.config.data.categories:
            index = index.select(category=run.config.data.categories[0])
        method = run.config.build(Spec.of(index.views, index.categories, load_method_backbone(run.config)))
        place = output / run.name
        test = index.select(split="test")
        parts = training_parts(run.config, index, method, place)
        parts += scoring_parts(run.config, test, method, place, place / "scores")
        counted = [part for part in parts if part.what != "features" or "multi" not in run.name]
        assert found[run.name].bytes == sum(part.bytes for part in counted)
    text = budget_text(list(found.values()))
    assert "sum of 6 of 6" in text
    assert f"{(56 + 14) / 3600:.2f} hours" in text


def test_steps_are_counted_without_those_that_whole_batches_leave_out(root, measured, tmp_path):
    config = override(DestsegConfig.debug(), {"data.root": str(root), "train.epochs": "4"})
    runs = CategoryRuns.of(config, ["single"], tmp_path / "none", "destseg").all
    assert [one.steps for one in budgets(runs, tmp_path / "none")] == [4, 4]  # of 3 samples one batch of 2
    assert "4 epochs of training, 4 steps" in plan_training(config, tmp_path / "none")[0]


def test_a_part_of_a_training_without_steps_is_refused_before_anything_is_computed(root, measured, tmp_path):
    changes = {"data.root": str(root), "train.epochs": "4", "destseg.student_share": "0.1"}
    config, output = override(DestsegConfig.debug(), changes), tmp_path / "none"
    words = "student_share=0.1: none of 4 steps trains the student"
    for job in (plan_training, train):
        with pytest.raises(UserError, match=words):
            job(config, output)
    assert not output.exists()
    runs = CategoryRuns.of(config, ["single"], output, "destseg").all
    assert all(words in one.error for one in budgets(runs, output))
    index = open_data(root).select(split="train", category="usb")
    changes["train.epochs"] = (
        "40"  # which are enough, though the few that are timed have none of the student's
    )
    config = override(DestsegConfig.debug(), changes | {"destseg.student_share": "0.04"})
    plan_training(config, output)
    assert seconds_a_step(config, index, load_method_backbone(config)) > 0


def test_what_is_finished_costs_nothing_and_what_is_trained_only_its_scoring(
    root, whole, measured, monkeypatch
):
    assert {
        (one.state, one.images, one.steps, one.bytes)
        for one in budgets(runs_of(root, whole, ["single"]), whole)
    } == {("finished", 0, 0, 0)}
    monkeypatch.setattr(budget, "is_finished", lambda run, output: False)  # as if they had not been scored
    found = budgets(runs_of(root, whole, ["single"]), whole)
    assert {(one.state, one.images, one.steps) for one in found} == {("trained", 0, 0)}
    assert all(one.bytes > 0 for one in found)


def test_a_budget_on_the_command_line_writes_nothing_and_names_what_it_cannot_plan(
    call, measured, tmp_path, capsys, monkeypatch
):
    def refuse(config):
        raise UserError("no weights")

    monkeypatch.setattr(budget, "load_method_backbone", refuse)
    code = call("all", "--output", tmp_path / "none", "--budget", "--share", "2/2", methods=METHODS[1:])
    said = capsys.readouterr()
    assert code == 1
    assert not (tmp_path / "none").exists()
    assert "error: simplenet-lite0__single-usb: no weights" in said.err
    assert "not planned" in said.out
    assert "simplenet-lite0__single-bolt" not in said.out  # of the other share


def test_a_step_is_timed_by_the_methods_own_training_and_leaves_no_trace(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bank, trained = (run.config for run in runs_of(root, tmp_path)[::3] if "single" in run.name)
    index = open_data(root).select(split="train", category="usb")
    assert seconds_a_step(bank, index, load_method_backbone(bank)) is None
    clocks = []

    class Clock(step_time.StepClock):
        def __init__(self):
            super().__init__()
            clocks.append(self)

    monkeypatch.setattr(step_time, "StepClock", Clock)
    seconds = seconds_a_step(trained, index, load_method_backbone(trained))
    (clock,) = clocks
    assert len(clock.ends) == 6
    assert 0 < seconds <= clock.ends[-1] - clock.ends[0]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("share", ["0.2", "0.5"])
@pytest.mark.parametrize("batch_size", ["2", "100"])  # two steps an epoch, and one
def test_a_training_in_two_parts_is_timed_in_both_however_many_epochs_it_has(
    root, monkeypatch, share, batch_size
):
    changes = {"data.root": str(root), "train.epochs": "125", "train.batch_size": batch_size}
    changes["destseg.student_share"] = share
    config = override(DestsegConfig.debug(), changes)
    clocks = []

    class Clock(step_time.StepClock):
        def __init__(self):
            super().__init__()
            clocks.append(self)

    monkeypatch.setattr(step_time, "StepClock", Clock)
    index = open_data(root).select(split="train", category="usb")
    assert seconds_a_step(config, index, load_method_backbone(config)) > 0
    parts = clocks[0].parts
    assert len(parts) == 12
    assert min(parts.count(1), parts.count(2)) > 1


def test_a_step_of_a_training_in_parts_is_the_mean_of_what_each_part_takes():
    clock = step_time.StepClock(steps=2)
    clock.parts = [1, 1, 1, 2, 2, 2, 2, 2, 2]
    clock.ends = list(accumulate([50, 1, 2, 70, 11, 10, 10, 10, 30]))
    assert not clock.stopping()
    assert clock.seconds() == pytest.approx((3 * 1 + 6 * 10) / 9)
    clock.parts = [1, 1, 1, 1, 1, 1, 1, 1, 2]  # the second one's only step compiles
    assert clock.seconds() == pytest.approx(1)
    clock.parts = [None] * 9
    assert clock.stopping()
    assert clock.seconds() == 1


def test_a_table_is_made_and_written_before_another_process_makes_its_own(tmp_path):
    order, first_is_at_work, go_on = [], threading.Event(), threading.Event()

    def first():
        first_is_at_work.set()
        go_on.wait(10)
        order.append("first")
        return []

    def second():
        order.append("second")
        return []

    one = threading.Thread(target=update_tables, args=(first, tmp_path))
    other = threading.Thread(target=update_tables, args=(second, tmp_path))
    one.start()
    assert first_is_at_work.wait(10)
    other.start()
    other.join(0.3)
    assert other.is_alive()
    go_on.set()
    one.join(10)
    other.join(10)
    assert order == ["first", "second"]


def test_a_config_whose_name_begins_another_does_not_find_the_others_runs(root, tmp_path):
    (tmp_path / "dinomaly-single__single-usb").mkdir()
    (tmp_path / "dinomaly__single-old").mkdir()
    config = load_config(METHODS[0], {"data.root": str(root)})
    found = CategoryRuns.of(config, ["single"], tmp_path, "dinomaly")
    assert [run.name for run in found.all] == [f"dinomaly__single-{name}" for name in ("bolt", "old", "usb")]
    assert "dinomaly__single-old" not in found.wanted
    assert isinstance(found.all[0], Run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table1", "--share", "5/4"], "--share 5/4: give which one of how many, from 1, as 2/4"),
        (["all", "--share", "2"], "--share 2: give which one"),
        (["table1", "--config", "configs/hull.py"], "--methods names the configs; leave one of them out"),
        (["table2", "--config.method=padim"], "--methods names a config for each method"),
        (["all", "--config.setting=multi"], "use --setting"),
        (["all", "--categories", "usc"], "unknown category 'usc', did you mean 'usb'"),
        (["all", "--config.train.epoch=3"], "unknown config key 'train.epoch'"),
        (["all", "--config", "configs/hull.py"], "unknown argument '--config'"),
    ],
)
def test_a_users_mistake_is_one_line_before_any_work(call, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message) as error:
        call(*arguments[:1], "--output", tmp_path / "runs", *arguments[1:])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_config_that_is_not_there_or_twice_is_one_line(call, tmp_path):
    with pytest.raises(UserError, match="none.py: no such file"):
        call("all", "--output", tmp_path / "runs", methods=["none.py"])
    other = tmp_path / "patchcore.py"
    other.write_text(Path(METHODS[0]).read_text())
    with pytest.raises(UserError, match="all: two configs would share the folder patchcore"):
        call("all", "--output", tmp_path / "runs", methods=[METHODS[0], str(other)])
