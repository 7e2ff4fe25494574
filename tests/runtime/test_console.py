"""How the scripts behave on a command line: help, plans, loudness, the saved command, TensorBoard."""

import ast
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from calling import call
from fake_realiad import write_realiad
from kept_backbones import kept_backbones

from mvead_jax.commands.program import COMMANDS, module_of
from mvead_jax.config.io import load_config
from mvead_jax.jobs.dry_run import plan_scoring, plan_training
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.runtime import console, errors, progress
from mvead_jax.runtime.disk import Part
from mvead_jax.runtime.errors import UserError
from mvead_jax.training import tensorboard as writer

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
__all__ = ["kept_backbones"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_realiad(tmp_path_factory.mktemp("data"), categories=("cap",), train=3, views=2, size=24)


@pytest.fixture
def loud():
    """Puts the loudness of this process back."""
    log = logging.getLogger("mvead_jax")
    level = log.level
    yield log
    progress.shown, errors.traced = True, False
    log.setLevel(level)


def config_for(root, **changes):
    own = {"data.root": str(root), "data.image_size": "32", "backbone.batch_size": "2", "eval.bootstrap": "5"}
    own |= {"train.epochs": "2", "train.batch_size": "2", "train.centers": "2"}
    own |= {"fusion.kind": "mvas", "fusion.windows": "2"}
    return load_config("configs/demo.py", own | {k.replace("__", "."): v for k, v in changes.items()})


def patchcore_for(root, **changes):
    own = {"data.root": str(root), "data.image_size": "32", "backbone.batch_size": "2", "eval.bootstrap": "5"}
    return load_config(
        "configs/demo.py:patchcore", own | {k.replace("__", "."): v for k, v in changes.items()}
    )


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def is_a_command(path):
    return "import main\n" in path.read_text()


@pytest.mark.parametrize(
    "path", [path for path in SCRIPTS if not is_a_command(path)], ids=lambda path: path.stem
)
def test_the_help_of_every_script_has_an_example_what_it_writes_and_its_exit_codes(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert f"python scripts/{path.name}" in text
    assert re.search(r"write|print|make", text.lower())
    assert re.search(r"\nexit codes: .*\b2\b", text, re.DOTALL)
    assert "description=__doc__" in path.read_text()


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"watch"}))
def test_the_help_of_every_command_has_an_example_what_it_writes_and_its_exit_codes(name):
    text = module_of(name).parser().format_help()
    assert text.startswith(f"usage: mvead {name} ")
    assert f"\nmvead {name} " in text.replace("    mvead", "mvead")
    assert re.search(r"write|print|make", text.lower())
    assert re.search(r"\nexit codes: .*\b2\b", text, re.DOTALL)


def test_a_script_that_is_a_command_has_nothing_else():
    thin = [path for path in SCRIPTS if is_a_command(path)]
    assert len(thin) == 12
    for path in thin:
        _, command, *rest = [line for line in path.read_text().splitlines() if line]
        assert re.fullmatch(r"from mvead_jax.commands.\w+ import main", command)
        assert rest == [
            "from mvead_jax.runtime.errors import run",
            'if __name__ == "__main__":',
            "    run(main)",
        ]


def test_help_is_printed_and_needs_no_device():
    before = "import sys; sys.modules['jax'] = None; import runpy; sys.argv = sys.argv[1:]; "
    for name in ("train", "score"):
        code = f"{before}runpy.run_path('scripts/{name}.py', run_name='__main__')"
        command = [sys.executable, "-c", code, name, "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "exit codes: 0" in done.stdout
        assert "--dry_run" in done.stdout


def test_a_plan_counts_what_there_is_to_do_and_writes_nothing(root, tmp_path):
    config = config_for(root, features__cache=str(tmp_path / "cache"))
    before = files(root)
    text, parts = plan_training(config, tmp_path / "run")
    assert files(tmp_path) == set()
    assert files(root) == before
    assert "category cap: 3 samples, 6 images to learn from" in text
    assert "0 images cached" in text
    assert "6 to compute, about" in text
    assert "2 epochs of training, 4 steps, seconds unknown" in text
    assert [part.what for part in parts] == ["features", "checkpoints", "models"]
    with pytest.raises(UserError, match="no such file; expected a workdir of train.py"):
        plan_scoring(tmp_path / "run")
    train(config, tmp_path / "run")
    left = files(tmp_path)
    text, parts = plan_training(config, tmp_path / "run")
    assert "6 images cached" in text
    assert "there already, made again if anything differs" in text
    assert sum(part.missing for part in parts if part.what in ("features", "models")) == 0
    text, parts = plan_scoring(tmp_path / "run")
    assert files(tmp_path) == left
    assert "6 samples, 12 images to score" in text
    assert "6 samples to score in 2 banks of 24 patches" in text
    score(tmp_path / "run")
    assert "12 images cached" in plan_scoring(tmp_path / "run")[0]
    assert {part.what for part in parts} == {"features", "scores"}
    assert all(isinstance(part, Part) for part in parts)


def test_a_plan_refuses_what_the_job_refuses_and_counts_what_is_held_out(root, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file: is a file; name a folder"):
        plan_training(config_for(root), tmp_path / "file")
    own = {"decision__held_out": "0.4"}
    with pytest.raises(UserError, match="false_alarms=0.05 needs 19"):
        plan_training(patchcore_for(root, **own), tmp_path / "run")
    config = patchcore_for(root, **own, decision__false_alarms="0.5")
    text, _ = plan_training(config, tmp_path / "run")
    assert "decision: 1 samples held out" in text
    assert "category cap: 2 samples, 4 images to learn from" in text
    assert "6 to compute, about" in text
    train(config, tmp_path / "run")
    with pytest.raises(UserError, match="trained with another config"):
        plan_training(config_for(root), tmp_path / "run")
    with pytest.raises(UserError, match="needs 19"):
        plan_scoring(tmp_path / "run", overrides={"decision.false_alarms": "0.05"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other/letter.txt").write_text("x")
    with pytest.raises(UserError, match="holds other files"):
        plan_scoring(tmp_path / "run", tmp_path / "other")
    path = tmp_path / "run/config.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(UserError, match="config.json"):
        plan_scoring(tmp_path / "run")


def test_the_command_is_kept_beside_what_came_of_it(root, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", "--workdir", "läuf 1"])
    train(patchcore_for(root), tmp_path / "run")
    kept = json.loads((tmp_path / "run/command.json").read_text())
    assert kept["command"] == ["scripts/train.py", "--workdir", "läuf 1"]
    assert kept["folder"] == str(Path.cwd())
    monkeypatch.setattr(sys, "argv", ["scripts/score.py"])
    score(tmp_path / "run")
    assert json.loads((tmp_path / "run/scores/command.json").read_text())["command"] == ["scripts/score.py"]


def test_quiet_leaves_warnings_and_verbose_says_where_from(loud, capsys):
    parser = console.flags()
    log = logging.getLogger("mvead_jax.jobs.train")
    console.apply(parser.parse_args(["--quiet"]))
    assert not log.isEnabledFor(logging.INFO)
    assert log.isEnabledFor(logging.WARNING)
    with progress.progress("steps", 2) as bar:
        bar.advance(2)
    assert capsys.readouterr().err == ""
    console.apply(parser.parse_args(["--verbose"]))
    assert log.isEnabledFor(logging.INFO)
    with progress.progress("steps", 2) as bar:
        bar.advance(2)
    with pytest.raises(UserError) as caught:
        raise UserError("x.csv: no such file")
    assert errors.report(caught.value) == 2
    said = capsys.readouterr().err
    assert "steps 2/2" in said
    assert "Traceback" in said
    assert said.endswith("error: x.csv: no such file\n")


def test_losses_go_to_tensorboard_as_metrics_jsonl_has_them(root, tmp_path):
    loader = pytest.importorskip("tensorboardX.proto.event_pb2", reason="extra tensorboard")
    train(config_for(root), tmp_path / "run", tensorboard=True)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    expected = {(line["step"], round(line["loss"], 5)) for line in lines if line["stage"] == "training"}
    (path,) = (tmp_path / "run/tensorboard/cap").iterdir()
    found, data = set(), path.read_bytes()
    while data:
        size = int.from_bytes(data[:8], "little")
        event = loader.Event.FromString(data[12 : 12 + size])
        found |= {(event.step, round(v.simple_value, 5)) for v in event.summary.value if v.tag == "loss"}
        data = data[16 + size :]
    assert found == expected
    assert len(found) == 4


def test_without_its_package_tensorboard_is_one_line(root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"tensorboardX is missing; pip install -e '.\[tensorboard\]'"):
        train(config_for(root), tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError):
        writer.check_tensorboard()


def test_dry_run_of_a_script_ends_well_and_refuses_what_makes_no_sense(root, tmp_path):
    arguments = ["--config", "configs/patchcore.py", "--workdir", str(tmp_path / "run")]
    arguments += [f"--config.data.root={root}", "--config.data.image_size=32", "--dry_run"]
    done = call("train", *arguments)
    assert done.returncode == 0, done.stderr
    assert "plan of a training; nothing is written" in done.stdout
    assert files(tmp_path) == set()
    done = call("train", *arguments, "--coordinator", "127.0.0.1:9", "--processes", "2", "--process", "0")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --dry_run: one process plans")
    done = call("score", "--workdir", "x", "--from-maps", "--dry_run")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --dry_run: leave out --from-maps")
