import csv
import os
import sys
from pathlib import Path
from runpy import run_path

import pytest
from calling import call

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")


def test_the_curve_shows_what_a_child_of_the_command_takes(tmp_path):
    taking = "import time; taken = b'x' * 200_000_000; time.sleep(1)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {taking!r}]); sys.exit(3)"
    done = call(
        "measure_memory", "--output", tmp_path / "curve", "--every", 0.1, "--", sys.executable, "-c", outer
    )
    assert done.returncode == 3, done.stderr  # the command's own
    with (tmp_path / "curve.csv").open() as file:
        looks = list(csv.DictReader(file))
    assert 200 < max(float(look["anonymous_mb"]) for look in looks) < 260
    assert (tmp_path / "curve.png").stat().st_size > 5000
    assert "anonymous MB, peak of each half" in done.stdout


def test_a_process_that_has_ended_takes_nothing():
    memory_of = run_path(str(ROOT / "scripts/measure_memory.py"))["memory_of"]
    assert memory_of(2**30) == (0.0, 0.0)
    assert memory_of(os.getpid())[0] > 50


@pytest.mark.parametrize(
    ("command", "message"),
    [([], "no command; give it after --"), (["--", "none/of/these"], "none/of/these: No such")],
)
def test_a_mistake_is_one_line(tmp_path, command, message):
    done = call("measure_memory", "--output", tmp_path / "curve", *command)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1
