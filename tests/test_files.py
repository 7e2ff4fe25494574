import json
import logging
import math
import os

import pytest

from mvead_jax.errors import DataProblems, UserError, run
from mvead_jax.files import append_line, read_json, whole, write_json
from mvead_jax.progress import progress


def fail_halfway(path):
    with whole(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "deep" / "file"
    with pytest.raises(ZeroDivisionError):
        fail_halfway(path)
    assert list(path.parent.iterdir()) == []
    with whole(path) as temporary:
        temporary.write_text("all")
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    with whole(tmp_path / "file") as temporary:
        living = temporary
        name = temporary.name.replace(f"-{os.getpid()}.", "-{}.")
        dead = tmp_path / name.format(2**22 + 1)  # above the largest process number of Linux
        dead.write_text("half")
        temporary.write_text("all")
        with whole(tmp_path / "other") as other:
            other.write_text("x")
        assert dead.exists()
        parent = tmp_path / name.format(os.getppid())
        parent.write_text("at work")
    with whole(tmp_path / "file") as temporary:
        assert temporary == living
        assert not dead.exists()
        assert parent.exists()
        temporary.write_text("again")


def fail_within_a_folder(path):
    with whole(path) as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner/file").write_text("half")
        raise ZeroDivisionError


def test_a_folder_is_whole_or_absent_and_goes_if_its_writer_was_killed(tmp_path):
    path = tmp_path / "deep" / "folder"
    with pytest.raises(ZeroDivisionError):
        fail_within_a_folder(path)
    assert list(path.parent.iterdir()) == []
    with whole(path) as temporary:
        dead = path.parent / temporary.name.replace(f"-{os.getpid()}.", f"-{2**22 + 1}.")
        (dead / "inner").mkdir(parents=True)
        temporary.mkdir()
    path.rmdir()
    with whole(path) as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner/file").write_text("all")
    assert [p.name for p in path.parent.iterdir()] == ["folder"]
    assert (path / "inner/file").read_text() == "all"


def test_an_earlier_file_survives_a_failed_write(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError):
        fail_halfway(path)
    assert path.read_text() == "before"


def test_a_disk_that_refuses_is_a_user_error_with_the_path(tmp_path):
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="file/x"), whole(tmp_path / "file" / "x"):
        pass


def test_nan_becomes_null(tmp_path):
    write_json(tmp_path / "x.json", {"a": math.nan, "b": [1.5, math.inf]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1.5, None]}


def test_unreadable_json_says_what_was_expected(tmp_path):
    with pytest.raises(UserError, match="no such file; expected a config"):
        read_json(tmp_path / "none", "a config")
    (tmp_path / "bad").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        read_json(tmp_path / "bad", "a config")


def test_all_problems_are_listed_up_to_a_limit():
    text = str(DataProblems("root", [f"p{number}" for number in range(60)]))
    assert text.startswith("root: 60 problems\n  p0\n")
    assert text.endswith("... and 10 more")


@pytest.mark.parametrize(("error", "code"), [(UserError("what to mend"), 2), (KeyboardInterrupt(), 130)])
def test_a_users_mistake_is_one_line_and_an_exit_code(error, code, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run(main)
    logging.getLogger("mvead_jax").handlers.clear()
    assert stop.value.code == code
    assert capsys.readouterr().err in ("error: what to mend\n", "interrupted\n")


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)
    logging.getLogger("mvead_jax").handlers.clear()


def test_progress_without_a_terminal_prints_plain_lines_with_the_time_left(capsys):
    with progress("work", 3, "images", every=0) as bar:
        bar.advance()
        bar.advance(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("work 1/3 images, ")
    assert "s left" in lines[0]
    assert lines[1].startswith("work 3/3 images, ")


def test_a_line_goes_behind_what_a_killed_writer_left(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_line(path, "first")
    path.write_bytes(path.read_bytes() + b'{"step": 1')
    append_line(path, "last")
    assert path.read_text() == 'first\n{"step": 1\nlast\n'
    with pytest.raises(UserError, match="none/metrics.jsonl: No such file"):
        append_line(tmp_path / "none" / "metrics.jsonl", "x")
