"""The process around the program: forks, float64, devices that are not there, and `~` behind a `=`; true processes."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from fake_realiad import write_realiad
from laboratory import ENVIRONMENT, ROOT, is_one_line
from safetensors.numpy import load_file

from mvead_jax.scoring.model_store import STATE

SLOW = 300  # seconds

INSPECT = """
import multiprocessing, sys
import numpy as np
from mvead_jax import Inspector
from mvead_jax.runtime.errors import UserError

workdir, how = sys.argv[1:]
pictures = [np.full((40, 40, 3), level, np.uint8) for level in (60, 120)]

def work(queue, inspector):
    try:
        if inspector is None:
            inspector = Inspector.load(workdir, warm=False)
        queue.put(float(inspector.inspect(pictures).score))
    except UserError as error:
        queue.put(str(error))

if __name__ == "__main__":
    if how == "jax":
        import jax
        jax.numpy.zeros(1)  # somebody else's work before the fork
        inspector = None
    else:
        inspector = Inspector.load(workdir, warm=False)
        print(inspector.inspect(pictures).score, flush=True)
    context = multiprocessing.get_context("spawn" if how == "spawn" else "fork")
    queue = context.Queue()
    child = context.Process(target=work, args=(queue, None if how == "spawn" else inspector), daemon=True)
    child.start()
    print(queue.get(timeout=120), flush=True)
    child.join(60)
    print("ended" if child.exitcode == 0 else f"exit code {child.exitcode}")
"""


def run(argv, folder=ROOT, **environment):
    return subprocess.run(
        [sys.executable, *argv],
        cwd=folder,
        env=os.environ | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=SLOW,
    )


def arguments(script, workdir, data, **fields):
    """Return the command line of a script, without Python: PatchCore, which compiles little."""
    argv = [str(ROOT / f"scripts/{script}.py"), f"--workdir={workdir}"]
    if script == "train":
        fields |= {"data.root": str(data), "data.image_size": "64", "backbone.weights": "random"}
        argv += ["--config", str(ROOT / "configs/folder.py:patchcore")]
        argv += [f"--config.{name}={value}" for name, value in fields.items()]
    return argv


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("host") / "data"
    return write_realiad(root, categories=("cap",), train=3, normal=1, defective=1, views=2, size=40)


@pytest.fixture(scope="module")
def workdir(data):
    done = run(arguments("train", data.parent / "run", data))
    assert done.returncode == 0, done.stderr
    return data.parent / "run"


@pytest.mark.parametrize("how", ["fork", "jax", "spawn"])
def test_a_forked_child_is_refused_at_once_and_a_spawned_one_scores_the_same(workdir, tmp_path, how):
    (tmp_path / "inspect_parts.py").write_text(INSPECT)
    done = run([str(tmp_path / "inspect_parts.py"), str(workdir), how])
    assert done.returncode == 0, done.stderr
    *before, said, ended = done.stdout.splitlines()
    assert ended == "ended"
    if how == "spawn":
        assert float(said) == float(before[0])
    else:
        assert "is a fork" in said
        assert 'get_context("spawn")' in said


def test_a_process_with_float64_trains_and_scores_to_the_same_bytes(workdir, data, tmp_path):
    changes = {"features.cache": str(tmp_path / "cache")}
    done = run(arguments("train", tmp_path / "run", data, **changes), JAX_ENABLE_X64="1")
    assert done.returncode == 0, done.stderr
    plain, other = (load_file(folder / "models/cap" / STATE) for folder in (workdir, tmp_path / "run"))
    for name, values in plain.items():
        np.testing.assert_array_equal(other[name], values)
    lines = []
    for folder, switch in ((workdir, "0"), (tmp_path / "run", "1")):
        done = run(arguments("score", folder, data), JAX_ENABLE_X64=switch)
        assert done.returncode == 0, done.stderr
        lines.append((folder / "scores/samples.csv").read_bytes())
    assert lines[0] == lines[1]


@pytest.mark.parametrize("platform", ["cuda", "tpu", "nonsense"])
def test_a_platform_that_is_not_there_is_one_line_and_exit_code_2(data, tmp_path, platform):
    done = run(arguments("train", tmp_path / "run", data), JAX_PLATFORMS=platform)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert is_one_line(done.stderr.splitlines()[-1] + "\n")
    assert f"JAX_PLATFORMS={platform}: " in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_tilde_behind_a_sign_of_equality_is_the_home_folder(data, tmp_path):
    """Shells expand it at the beginning of a word only."""
    home, here = tmp_path / "home", tmp_path / "here"
    shutil.copytree(data, home / "data")
    here.mkdir()
    train = arguments("train", "~/runs/x", "~/data", **{"features.cache": "~/cache"})
    done = run(train, here, HOME=str(home))
    assert done.returncode == 0, done.stderr
    write_realiad(home / "new", categories=("cap",), train=0, normal=1, defective=0, views=2, size=40)
    for argv in (["--workdir=~/runs/x"], ["--workdir=~/runs/x", "--input=~/new", "--output=~/new_scores"]):
        done = run([str(ROOT / "scripts/score.py"), *argv, "--no-report"], here, HOME=str(home))
        assert done.returncode == 0, done.stderr
    assert (home / "runs/x/scores/samples.csv").exists()
    assert (home / "new_scores/samples.csv").exists()
    assert any((home / "cache").iterdir())
    assert not any(here.iterdir())
