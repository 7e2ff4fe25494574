"""Two processes with two CPU devices each, on loopback: the same results as one process on one device."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from fake_realiad import write_cameras, write_realiad
from jax.sharding import AxisType, Mesh
from safetensors.numpy import load_file

from mvead_jax.comparison.two_runs import Tolerances, compare, read_run
from mvead_jax.config.io import load_config
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.runtime import sharding

ROOT = Path(__file__).parents[2]
SIZE = 40  # of the stored images
PEER_ENDED = 75  # exit code
TRAINING = 18  # samples: two chunks of features, so each process has one

# The sitecustomize of a process of which every file is noted that it opens for writing below a folder.
_WATCH = """
import os, sys
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path, flags = os.fsdecode(arguments[0]), arguments[2]
        if flags & (os.O_WRONLY | os.O_RDWR) and path.startswith({folder!r}):
            with os.fdopen(os.dup(log), "ab") as file:
                file.write(path.encode() + b"\\n")
log = os.open({log!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_realiad(root, categories=("cap",), train=TRAINING, normal=2, defective=3, views=2, size=SIZE)
    write_cameras(root, SIZE, cap=(0, 1))
    return root


def fields(root, **changes):
    """A small MVEAD of three steps an epoch; a batch of 7 is no multiple of four devices."""
    own = {
        "data.root": str(root),
        "data.image_size": "32",
        "backbone.name": "efficientnet-lite0",
        "geometry.cameras": "cameras.json",
        "fusion.init": "random",
        "train.epochs": "2",
        "train.batch_size": "7",
        "train.centers": "2",
        "train.learning_rate": "1e-3",
        "eval.bootstrap": "20",
    }
    return own | {key.replace("__", "."): value for key, value in changes.items()}


def command(script, workdir, fields=None):
    config = ["--config", "configs/realiad.py"] if script == "train" else []
    overrides = [f"--config.{key}={value}" for key, value in (fields or {}).items()]
    return [sys.executable, f"scripts/{script}.py", *config, "--workdir", str(workdir), *overrides]


def start(arguments, devices=2, **environment):
    own = {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=os.environ | own | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(*arguments, environments=({}, {})):
    return start_each(command(*arguments), environments)


def start_each(line, environments=({}, {})):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process"]
    return [start([*line, *flags, str(number)], **environments[number]) for number in range(2)]


def kill(process):
    """Ends a process that may have ended, and closes its pipes."""
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()


def finish(*running, code=0):
    """What each process said on stderr; all must end so within two minutes."""
    try:
        said = [process.communicate(timeout=400)[1] for process in running]
    finally:
        for process in running:
            kill(process)
    assert [process.returncode for process in running] == [code] * len(running), "\n".join(said)
    assert not any("Traceback" in text for text in said), "\n".join(said)
    return said


def error_line(said):
    """The one line in which a process says what ended it."""
    lines = said.splitlines()
    assert lines[-1].startswith("error: "), said
    assert not any(re.match(r"[EF]\d{4} |    @ ", line) for line in lines), said
    return lines[-1]


def events(workdir, stage="training"):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["stage"] == stage]


@pytest.fixture(scope="module")
def one(root, tmp_path_factory):
    """What this process leaves, as if it had one device."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    mesh = Mesh(np.array(jax.devices()[:1]), (sharding.AXIS,), axis_types=(AxisType.Auto,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "mesh", lambda: mesh)
        patch.setattr(sharding, "local_mesh", lambda: mesh)
        train(load_config("configs/realiad.py", fields(root)), workdir)
        score(workdir)
    return workdir


@pytest.fixture(scope="module")
def two(root, tmp_path_factory):
    """The workdir, what the second process opened for writing, and what it said."""
    folder = tmp_path_factory.mktemp("two")
    watch, log = folder / "watch", folder / "written"
    watch.mkdir()
    (watch / "sitecustomize.py").write_text(_WATCH.format(folder=str(folder / "runs"), log=str(log)))
    watched = {"PYTHONPATH": f"{watch}{os.pathsep}{os.environ.get('PYTHONPATH', ROOT)}"}
    workdir = folder / "runs" / "run"
    said = finish(*start_two("train", workdir, fields(root), environments=({}, watched)))
    said += finish(*start_two("score", workdir, environments=({}, watched)))
    return workdir, log.read_text().splitlines(), said


def read_scores(workdir):
    with (workdir / "scores/images.csv").open(newline="") as file:
        return np.array([float(line["score"]) for line in csv.DictReader(file)])


def test_two_processes_leave_the_files_that_one_leaves(one, two):
    def files(workdir):
        paths = {path.relative_to(workdir).as_posix() for path in workdir.rglob("*") if path.is_file()}
        return {
            path for path in paths if not re.match(r"checkpoints/cap/\d", path)
        }  # Orbax's have random names

    assert files(two[0]) == files(one)
    assert len(files(one)) > 12
    for folder in (one, two[0]):
        assert {path.name for path in (folder / "checkpoints/cap").iterdir()} == {"3", "6", "origin.json"}
    environment = json.loads((two[0] / "environment.json").read_text())
    assert (environment["processes"], len(environment["devices"])) == (2, 4)


def test_features_are_the_same_bytes(one, two):
    caches = [
        {p.name: p.read_bytes() for p in (w.parent / "feature_cache").glob("*.npy")} for w in (one, two[0])
    ]
    assert len(caches[0]) == 3  # two of training, one of test samples
    assert caches[0] == caches[1]


def test_losses_banks_and_scores_are_the_same_but_for_the_order_of_sums(one, two):
    # Each device sums the gradients of its own samples first: float32 rounds in another order.
    for ours, theirs in zip(events(two[0]), events(one), strict=True):
        figures = [{key: own[key] for key in own if key not in ("stage", "name")} for own in (ours, theirs)]
        assert figures[0] == pytest.approx(figures[1], rel=1e-5)
    states = [load_file(w / "models/cap/state.safetensors") for w in (two[0], one)]
    assert states[0].keys() == states[1].keys()
    for view in ("C1", "C2"):
        rows = [state[f"banks/{view}/rows"] for state in states]
        np.testing.assert_allclose(*rows, rtol=0, atol=1e-5 * np.abs(rows[1]).max())
        np.testing.assert_array_equal(*(state[f"banks/{view}/sample"] for state in states))
    scores = [read_scores(w) for w in (two[0], one)]
    np.testing.assert_allclose(*scores, rtol=1e-4)
    assert compare(read_run(one), read_run(two[0]), Tolerances())["pass"]
    assert (two[0] / "geometry/cap.json").read_bytes() == (one / "geometry/cap.json").read_bytes()


def test_only_the_first_process_writes_but_for_the_others_features(two):
    workdir, written, _ = two
    assert written  # the watch works
    names = {Path(path).relative_to(workdir.parent).parts[0] for path in written}
    assert names == {"feature_cache"}


def test_processes_say_nothing_twice(two):
    assert ["model cap: trained in" in said for said in two[2]] == [
        True,
        False,
        False,
        False,
    ]  # train, then score
    for said in two[2]:
        assert "Gloo" not in said


_READS = """
import sys
from pathlib import Path

import jax

from mvead_jax.runtime import sharding
from mvead_jax.training.checkpoints import newest_state

folder, _, address, *_, process = sys.argv[1:]
jax.distributed.initialize(address, 2, int(process))
if sharding.is_first():
    print(*newest_state(Path(folder)), file=sys.stderr)
sharding.barrier()
"""


def test_the_first_process_reads_a_state_while_the_other_waits(two):
    said = finish(*start_each([sys.executable, "-c", _READS, str(two[0] / "checkpoints/cap")]))
    assert {"parameters", "optimizer", "extras", "step"} <= set(said[0].split())


# ---- what ends one process ends all


def wait_for_step(running, workdir, step):
    path = workdir / "metrics.jsonl"
    while not (path.exists() and f'"step": {step},' in path.read_text()):
        assert all(process.poll() is None for process in running), running[0].stderr.read()
        time.sleep(0.01)


def child_of(process):
    """The process that works while `process` guards it."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="finds the child of a process in Linux's /proc"
)


@pytest.fixture(scope="module")
def ended(root, tmp_path_factory):
    """What was said when training was stopped by SIGTERM to process 1, went on, and its child was killed.

    For the processes of the second run, and from the time of that death on, is still to be waited.
    """
    workdir, longer = tmp_path_factory.mktemp("ended") / "run", fields(root, train__epochs="400")
    running = start_two("train", workdir, longer)
    wait_for_step(running, workdir, 4)
    running[1].terminate()
    stopped = finish(*running, code=143)
    steps = [event["step"] for event in events(workdir)]
    running = start_two("train", workdir, longer)
    wait_for_step(running, workdir, steps[-1] + 3)
    os.kill(child_of(running[1]), signal.SIGKILL)
    yield workdir, stopped, steps, running, time.monotonic()
    for process in running:
        if process.returncode is None:  # the test that waits for it was not run
            kill(process)


ANOTHER_ENDED = (
    "error: another process of this run ended, or can't be reached; look at its output, then run the same "
    "commands again to resume"
)


@needs_proc
def test_sigterm_to_one_process_stops_all_after_the_same_step_and_the_run_goes_on(ended):
    workdir, stopped, steps, _, _ = ended
    lines = [text.splitlines()[-1] for text in stopped]
    assert lines[0] == lines[1]
    step = int(re.match(r"training cap: stopped after step (\d+); run the same", lines[0])[1])
    assert steps == list(range(step + 1))
    assert [event["step"] for event in events(workdir)][: step + 3] == list(range(step + 3))


def test_a_process_killed_while_it_computes_features_ends_the_other_and_its_chunks_are_kept(root, tmp_path):
    # Larger images than elsewhere, a pass of few: it takes some seconds.
    slow = fields(root, data__image_size="320", backbone__batch_size="2", train__epochs="1")
    workdir, cache = tmp_path / "run", tmp_path / "feature_cache"
    running = start_two("train", workdir, slow)
    while not list(cache.glob("*.npy")):
        assert all(process.poll() is None for process in running), running[0].stderr.read()
        time.sleep(0.01)
    kill(running[0])
    (said,) = finish(running[1], code=PEER_ENDED)
    assert error_line(said) == ANOTHER_ENDED
    assert list(cache.glob("*.npy"))
    assert not (workdir / "models").exists()


def test_pictures_that_can_not_be_read_are_all_named_by_all_processes(tmp_path):
    root = tmp_path / "data"
    write_realiad(root, categories=("cap",), train=TRAINING, normal=1, defective=1, views=2, size=SIZE)
    write_cameras(root, SIZE, cap=(0, 1))
    damaged = sorted((root / "realiad_64/cap/OK").rglob("*.jpg"))
    damaged = [damaged[2], damaged[2 * TRAINING - 1]]  # of the second and of the last training sample
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-200])  # the header is whole
    said = finish(*start_two("train", tmp_path / "run", fields(root)), code=2)
    for text in said:
        assert "images that can't be read: 2 problems" in text
        for path in damaged:
            assert f"{path}: damaged JPEG" in text


def test_a_mistake_that_only_the_first_process_can_see_ends_all_with_the_same_line(root, one):
    (one / "models/cap/extra.safetensors").write_bytes(b"")
    try:
        said = finish(*start_two("score", one), code=2)
    finally:
        (one / "models/cap/extra.safetensors").unlink()
    assert error_line(said[0]) == error_line(said[1])
    assert "not in" in error_line(said[0])


@needs_proc
def test_when_another_process_is_killed_the_first_ends_within_a_minute_with_one_line(ended):
    _, _, steps, (first, second), begin = ended
    alive = first.poll() is None
    (said,) = finish(first, code=PEER_ENDED)
    waited = time.monotonic() - begin
    assert not alive or waited < 60  # that its heartbeat fails takes 20 s and more
    assert f"goes on after step {steps[-1]}\n" in said
    assert error_line(said) == ANOTHER_ENDED
    (said,) = finish(second, code=128 + signal.SIGKILL)
    assert "ended by SIGKILL, by hand or for want of memory" in error_line(said)


# ---- flags


@pytest.mark.parametrize("script", ["train", "score"])
def test_wrong_flags_are_refused_before_anything_starts(root, tmp_path, script):
    arguments = command(script, tmp_path / "run", fields(root) if script == "train" else None)
    (said,) = finish(start([*arguments, "--processes", "2"]), code=2)
    assert said == (
        "error: --processes: also give --coordinator and --process, or --distributed alone on a platform "
        "that knows them\n"
    )


def test_without_a_platform_that_knows_the_processes_the_flags_are_named(root, tmp_path):
    (said,) = finish(start([*command("train", tmp_path / "run", fields(root)), "--distributed"]), code=2)
    assert "give --coordinator HOST:PORT --processes N --process I" in error_line(said)
