"""The command `mvead` as a shell calls it: its commands, what it says of typing errors, completion, broken pipes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_realiad import write_realiad

from mvead_jax.commands import program
from mvead_jax.commands.completion import config_fields
from mvead_jax.config.named import config_names
from mvead_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
HEAVY = ("jax", "numpy", "cv2", "scipy", "flax", "tensorflow_datasets")


def mvead(*arguments, cwd=ROOT, code=""):
    """Run `python -m mvead_jax` in a process of its own, after some code."""
    start = f"{code}\nimport runpy, sys; runpy.run_module('mvead_jax', run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", start, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def refused(monkeypatch):
    def refused(*arguments):
        monkeypatch.setattr(sys, "argv", ["mvead", *map(str, arguments)])
        with pytest.raises(UserError) as error:
            program.main()
        assert "\n" not in str(error.value)
        return str(error.value)

    return refused


def test_no_help_needs_jax_or_an_image_library():
    ended = f"""
import sys
for name in {HEAVY}: sys.modules[name] = None
from mvead_jax.commands import program
for name in ["", *program.COMMANDS]:
    sys.argv = ["mvead", *name.split(), "--help"]
    try:
        program.main()
    except SystemExit as end:
        assert end.code == 0, name
"""
    done = subprocess.run([sys.executable, "-c", ended], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in program.COMMANDS:
        assert re.search(rf"\n  {name} ", done.stdout)  # of the overview


def test_without_a_command_it_shows_them_and_ends_as_a_mistake(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mvead"])
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == 2
    assert capsys.readouterr().out.startswith("usage: mvead <command>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scor"], "unknown command 'scor'; did you mean 'score'?; mvead --help lists them"),
        (["score", "--treshold-from-test-labels"], "did you mean '--threshold-from-test-labels'?"),
        (["train", "--workdr", "x"], "unknown argument '--workdr'; did you mean '--workdir'?"),
        (["check", "DIR", "--strickt"], "unknown argument '--strickt'; did you mean '--strict'?"),
        (["check", "--config.seed=1"], "unknown argument '--config.seed'; see mvead check --help"),
        (["train", "--data.root=x"], "fields of the config are set by --config.data.root=<value>"),
        (
            ["train", "--workdir", "x"],
            "the following arguments are required: --config; see mvead train --help",
        ),
        (["check"], "the following arguments are required: DIR; see mvead check --help"),
        (["reproduce", "table4"], "invalid choice: 'table4'"),
        (["completion", "tcsh"], "invalid choice: 'tcsh'"),
        (["train", "--config", "realiat", "--workdir", "x"], "did you mean 'realiad'?"),
        (["watch", "--workdir", "x"], "--watch: name the folder to watch by --input"),
    ],
)
def test_a_typing_error_is_one_line_with_what_was_meant(refused, arguments, message):
    assert message in refused(*arguments)


def test_a_named_config_works_from_any_folder(tmp_path):
    root = write_realiad(tmp_path / "data", categories=("cap",), train=3, views=2, size=24)
    run = ["--config", "folder:patchcore", "--workdir", "run", "--config.data.root", root, "--dry_run"]
    done = mvead("train", *run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "plan of a training; nothing is written" in done.stdout
    assert not (tmp_path / "run").exists()


def piped(code, *, both=False):
    """Run code as a command whose reader takes one line; return the exit code and what stderr holds."""
    main = f"from mvead_jax.runtime.errors import run\ndef main():\n    {code}\nrun(main)"
    redirect = "2>&1 " if both else ""
    line = f'"{sys.executable}" -c "$CODE" {redirect}| head -n 1 >/dev/null; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", line],
        env=os.environ | {"CODE": main, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    return int(done.stdout), done.stderr


@pytest.mark.parametrize("both", [False, True])
def test_a_reader_that_has_seen_enough_ends_it_without_a_word(both):
    lines = "[print('x' * 100) for _ in range(10_000)]"
    assert piped(lines, both=both) == (141, "")
    assert piped(f"{lines}; raise SystemExit(1)", both=both) == (141, "")


def test_another_broken_pipe_is_still_a_bug():
    code, said = piped("raise BrokenPipeError(32, 'of a socket')")
    assert code == 1
    assert "BrokenPipeError" in said


def completed(*words):
    """Return what bash would offer for the last of the words of a command line."""
    script = mvead("completion", "bash").stdout
    line = f"COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}; _mvead; "
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{line} printf '%s\\n' \"${{COMPREPLY[@]}}\""],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_flags_configs_and_their_fields():
    assert completed("mvead", "re") == ["reproduce", "render-rig"]
    assert completed("mvead", "train", "--w") == ["--workdir"]
    assert completed("mvead", "train", "--config", "real") == ["realiad", "realiad_multiclass"]
    assert "--config.data.root" in completed("mvead", "score", "--config.data.ro")
    assert completed("mvead", "reproduce", "tab") == ["table3", "table1", "table2"]
    assert completed("mvead", "check", "tes") == []  # a folder: the shell's own


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_of_another_shell_is_one_that_it_reads(shell, tmp_path):
    script = mvead("completion", shell).stdout
    for word in (*program.COMMANDS, *config_names(), *(one.removeprefix("--") for one in config_fields())):
        assert word in script
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed; its words were checked, its syntax was not")
    (tmp_path / "script").write_text(script)
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_what_is_installed_holds_configs_templates_and_the_command(tmp_path):
    """The files of a wheel alone on the path, called from another folder than the checkout."""
    pytest.importorskip("setuptools", reason="builds what a wheel holds")
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", tmp_path / "lib"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    lib = tmp_path / "lib/mvead_jax"
    data = [("mvead_jax", f"*.{kind}") for kind in ("jinja", "csv", "json", "npz", "jpg", "png")]
    for folder, pattern in (*data, ("configs", "*.py")):
        kept = lib / "configs" if folder == "configs" else lib
        assert {one.relative_to(ROOT / folder) for one in (ROOT / folder).rglob(pattern)} == {
            one.relative_to(kept) for one in kept.rglob(pattern)
        }
    root = write_realiad(tmp_path / "data", categories=("cap",), train=3, views=2, size=24)
    run = ["--config", "folder:patchcore", "--workdir", "run", f"--config.data.root={root}", "--dry_run"]
    done = subprocess.run(
        [sys.executable, "-m", "mvead_jax", "train", *run],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "lib")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "category cap: 3 samples, 6 images to learn from" in done.stdout
