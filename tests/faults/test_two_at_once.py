"""Two processes in one workdir, one scores folder or one cache; and an owner that dies."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from laboratory import ENVIRONMENT, ROOT, Lab, arguments, differing, finished, is_one_line

from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import locked, whole
from mvead_jax.serving.inspector import Inspector


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with finished(tmp_path_factory.mktemp("two")) as lab:
        yield lab


HOLD = """
import sys, time
from pathlib import Path
from mvead_jax.runtime.files import locked
with locked(Path(sys.argv[1]), shared=len(sys.argv) > 2):
    print("held", flush=True)
    time.sleep(300)
"""
WRITE = """
import sys
from pathlib import Path
from mvead_jax.runtime.files import whole
with whole(Path(sys.argv[1])) as path:
    path.write_text("slow")
    print("at it", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def hold():
    """A function that has another process hold the lock of a folder; returns the process."""
    started = []

    def start(folder, *shared):
        command = [sys.executable, "-c", HOLD, str(folder), *shared]
        environment = os.environ | ENVIRONMENT
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_the_lock_of_a_dead_owner_is_free_and_that_of_a_stopped_one_is_not(tmp_path, hold, end):
    owner = hold(tmp_path)
    with pytest.raises(UserError, match="another process is at work here"), locked(tmp_path):
        pass
    owner.send_signal(end)
    if end == signal.SIGSTOP:
        with pytest.raises(UserError, match="another process is at work here"), locked(tmp_path):
            pass
        return
    owner.wait()
    with locked(tmp_path):
        pass


def test_readers_share_a_folder_and_keep_writers_out(tmp_path, hold):
    hold(tmp_path, "shared")
    with locked(tmp_path, shared=True):
        pass
    with pytest.raises(UserError), locked(tmp_path):
        pass


def test_a_job_in_a_folder_at_work_is_refused_in_one_line_and_leaves_it_alone(lab, hold):
    lab.copy("scored", "busy")
    for folder, script, options in (
        ("run", "train", []),
        ("run", "score", []),
        ("run/scores", "score", []),
        ("run/scores", "score", ["--from-maps"]),
    ):
        owner = hold(lab.folder / "busy" / folder)
        answer = lab.run(script, "busy", options=options)
        assert answer["code"] == 2, answer["said"]
        assert is_one_line(answer["said"])
        said = answer["said"].splitlines()[-1]
        assert f"busy/{folder}: another process is at work here; wait for it or choose another folder" in said
        owner.kill()
        owner.wait()
        assert differing(lab.folder / "busy", lab.folder / "scored") == []


def test_no_training_changes_a_model_that_is_being_scored_and_two_may_score_it(lab, hold):
    lab.copy("scored", "read")
    hold(lab.folder / "read/run", "shared")
    assert lab.run("train", "read")["code"] == 2
    lab.done("score", "read", options=["--output", str(lab.folder / "read/other")])


def test_an_inspector_is_not_made_of_a_model_in_training_and_several_are_of_one(lab, hold):
    lab.copy("trained", "inspected")
    owner = hold(lab.folder / "inspected/run")
    with pytest.raises(UserError, match="another process is at work here"):
        Inspector.load(lab.folder / "inspected/run", warm=False)
    owner.kill()
    owner.wait()
    hold(lab.folder / "inspected/run", "shared")
    assert Inspector.load(lab.folder / "inspected/run", warm=False).categories == ("cap",)


def test_two_trainings_at_the_same_time_are_one_training_and_one_line(lab, tmp_path):
    """The true scripts, started together; whichever comes first."""
    workdir = tmp_path / "at-once/run"
    command = [sys.executable, *arguments("train", workdir, lab.data)]
    options = {"cwd": ROOT, "env": os.environ | ENVIRONMENT, "text": True}
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    both = [subprocess.Popen(command, **options) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes, said
    for code, text in zip(codes, said, strict=True):
        assert code in (0, 2), text
        assert code == 0 or "another process is at work here" in text
    assert differing(tmp_path / "at-once", lab.folder / "trained") == []


def test_two_runs_fill_one_cache_at_the_same_time(tmp_path):
    """Two drivers: each trains a workdir of its own beside the same cache."""
    with Lab(tmp_path / "a") as one, Lab(tmp_path / "b") as two:
        two.data = one.data
        cache = {"features__cache": str(tmp_path / "cache")}
        answers = {}

        def train(lab, name):
            answers[name] = lab.run("train", name, changes=cache)

        threads = [threading.Thread(target=train, args=pair) for pair in ((one, "x"), (two, "y"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer["code"] for answer in answers.values()] == [0, 0], answers
        assert len(list((tmp_path / "cache").glob("*.npy"))) == 2  # of samples to learn from and held out
        folders = one.folder / "x", two.folder / "y"
        states = [(folder / "run/models/cap/state.safetensors").read_bytes() for folder in folders]
        assert states[0] == states[1]


# In a container the same number may be another process's, or nobody's.
CONTAINER = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.mark.parametrize("container", [[], CONTAINER], ids=["here", "in a container"])
def test_a_writer_of_the_same_file_is_left_alone_while_it_lives(tmp_path, container):
    if container and subprocess.run([*container, "true"], capture_output=True).returncode:
        pytest.skip("may not make a namespace of processes")
    writer = subprocess.Popen(
        [*container, sys.executable, "-c", WRITE, str(tmp_path / "file")],
        env=os.environ | ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert writer.stdout.readline() == "at it\n"
        with whole(tmp_path / "file") as path:
            path.write_text("fast")
        assert (tmp_path / "file").read_text() == "fast"
        writer.communicate("\n")
        assert writer.returncode == 0
        assert (tmp_path / "file").read_text() == "slow"
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
    finally:
        writer.kill()
        writer.communicate()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_true_scripts_ended_at_any_time_go_on_to_the_same_bytes(lab, tmp_path, end):
    """Real processes, at three moments of a training and one of a scoring."""
    place = tmp_path / "random"
    for script, moments in (("train", (0.55, 0.75, 0.95)), ("score", (0.8,))):
        command = [sys.executable, *arguments(script, place / "run", lab.data)]
        options = {"cwd": ROOT, "env": os.environ | ENVIRONMENT, "text": True}
        begin = time.monotonic()
        aside = [sys.executable, *arguments(script, tmp_path / "aside/run", lab.data)]
        subprocess.run(aside, capture_output=True, check=True, **options)
        seconds = time.monotonic() - begin
        for moment in moments:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
            time.sleep(seconds * moment)
            process.send_signal(end)
            said, _ = process.communicate()
            assert process.returncode in (0, -end, 143), said
            assert "Traceback" not in said
        done = subprocess.run(command, capture_output=True, **options)
        assert done.returncode == 0, done.stderr
    assert differing(place, lab.folder / "scored") == []
