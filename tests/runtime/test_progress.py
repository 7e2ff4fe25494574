"""The time left of a long step, on a terminal and without one."""

import io

import pytest

from mvead_jax.runtime import progress as module
from mvead_jax.runtime.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told to go on."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_the_time_left_is_told_from_the_second_step_on_and_never_counts_the_first(clock, capsys):
    with progress("training", 10, "steps", every=0.0) as bar:
        clock(60)  # compiles
        bar.advance()
        for _ in range(2):
            clock(2)
            bar.advance()
    first, second, third, end = capsys.readouterr().err.splitlines()
    assert first == "training 1/10 steps, 60 s"
    assert second == "training 2/10 steps, 62 s, about 16 s left"
    assert third == "training 3/10 steps, 64 s, about 14 s left"
    assert end == "training 3/10 steps, 64.0 s"


def test_steps_of_an_earlier_run_and_steps_of_several_units_count_right(clock, capsys):
    with progress("training", 100, "steps", every=0.0, done=50) as bar:
        clock(30)
        bar.advance(10)
        clock(5)
        bar.advance(10, "loss 2")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "training 60/100 steps, 30 s",
        "training 70/100 steps, 35 s, about 15 s left, loss 2",
    ]


def test_a_bar_on_a_terminal_tells_the_same(clock, monkeypatch):
    text = io.StringIO()
    terminal = module.Console(file=text, force_terminal=True, width=200)
    monkeypatch.setattr(module, "Console", lambda **_: terminal)
    with progress("training", 10, "steps") as bar:
        clock(60)
        bar.advance()
        bar._progress.refresh()
        assert "left" not in text.getvalue()
        clock(2)
        bar.advance()
        bar._progress.refresh()
    assert "about 16 s left" in text.getvalue()
