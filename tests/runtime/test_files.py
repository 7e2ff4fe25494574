import errno
import fcntl
import json
import logging
import math
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from mvead_jax.jobs.scores_folder import check_output
from mvead_jax.runtime import errors, files
from mvead_jax.runtime.disk import Part, check_room
from mvead_jax.runtime.errors import DataProblems, UserError, by_kind, run
from mvead_jax.runtime.files import _machine, append_line, locked, read_json, whole, write_json, write_text
from mvead_jax.runtime.progress import progress


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


def left(folder, name, number, machine=None, days=0):
    """What a killed writer of `name` left, on this machine or another."""
    path = folder / f".{name}.{machine or _machine()}-{number}.tmp"
    path.write_text("half")
    then = path.stat().st_mtime - days * 24 * 3600
    os.utime(path, (then, then))
    return path


def test_what_killed_writers_left_goes_at_the_next_write_in_the_folder(tmp_path):
    dead = left(tmp_path, "file", 1), left(tmp_path, "other", 2), left(tmp_path, "line\nbreak", 3)
    write_text(tmp_path / "file", "all")
    assert not any(path.exists() for path in dead)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_is_removed_while_anyone_writes_in_the_folder(tmp_path):
    with whole(tmp_path / "file") as living:
        assert living.name == left(tmp_path, "file", living.name.split("-")[-1].split(".")[0]).name
        dead = left(tmp_path, "file", 1), left(tmp_path, "file", 2, machine="0" * 12, days=2)
        write_text(tmp_path / "other", "x")
        assert living.exists()
        assert all(path.exists() for path in dead)
    assert (tmp_path / "file").read_text() == "half"


def test_what_another_machine_writes_is_left_alone_for_a_day(tmp_path):
    """Its lock can't be seen from here; nor can that of a container with the same name of host."""
    foreign = left(tmp_path, "file", 4711, machine="0" * 12)
    old = left(tmp_path, "file", 4711, machine="1" * 12, days=1.1)
    others = [
        tmp_path / name for name in (".file.node-2-4711.tmp", ".tmp", "file.tmp", f"{_machine()}-1.tmp")
    ]
    for path in others:
        path.write_text("another's")
        os.utime(path, (0, 0))
    write_text(tmp_path / "file", "all")
    assert foreign.read_text() == "half"
    assert not old.exists()
    assert all(path.exists() for path in others)


def test_where_folders_have_no_locks_nothing_is_removed_and_all_is_written(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    dead = left(tmp_path, "file", 1)
    write_text(tmp_path / "file", "all")
    assert (tmp_path / "file").read_text() == "all"
    assert dead.exists()


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
        dead = path.parent / f".folder.{_machine()}-1.tmp"
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
    text = str(DataProblems("root", [f"p{'x' * number}" for number in range(60)]))
    assert text.startswith("root: 60 problems\n  p\n  px\n")
    assert text.endswith("... and 10 more")


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        ("a/{}.png: no such mask; add it", "9 times (a/0.png, a/1.png, a/2.png, ...): no such mask; add it"),
        (
            "cap.json: test[{0}] 'b/{0}.jpg' no such file",
            "9 times (test[0], test[1], test[2], ...): cap.json: test[0] 'b/0.jpg' no such file",
        ),
        ("line {}: twice", "9 times (line 0, line 1, line 2, ...): twice"),
    ],
)
def test_problems_of_one_kind_are_one_line_with_their_count_and_three_names(problem, line):
    own = [problem.format(number) for number in range(9)]
    other = ["b.png: damaged; copy it again", "c.png: damaged; copy it again"]
    assert str(DataProblems("root", own)) == f"root: {line}"
    error = DataProblems("root", [*own[:5], *other, *own[5:]])
    assert str(error).splitlines() == ["root: 11 problems", f"  {line}", *(f"  {one}" for one in other)]
    assert len(error.problems) == 11
    assert by_kind(own[:3]) == own[:3]


@pytest.mark.parametrize(("error", "code"), [(UserError("what to mend"), 2), (KeyboardInterrupt(), 130)])
def test_a_users_mistake_is_one_line_and_an_exit_code(error, code, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run(main)
    logging.getLogger("mvead_jax").handlers.clear()
    assert stop.value.code == code
    assert capsys.readouterr().err in ("error: what to mend\n", "interrupted\n")


def fail(error):
    raise error


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), OSError("x"), BrokenPipeError(errno.EPIPE, "x")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run(lambda: fail(error))
    logging.getLogger("mvead_jax").handlers.clear()


def ended(main, capsys):
    """The exit code and the words of a program on stderr."""
    with pytest.raises(SystemExit) as stop:
        run(main)
    logging.getLogger("mvead_jax").handlers.clear()
    return stop.value.code, capsys.readouterr().err


def test_a_file_that_the_system_refuses_is_one_line_and_with_verbose_a_traceback_before_it(
    capsys, monkeypatch, tmp_path
):
    long = "x" * 300
    expected = f"error: {long}: File name too long\n"
    assert ended(lambda: check_output(Path(long), "test split"), capsys) == (2, expected)
    name = tmp_path / "\udcff\x1b"
    expected = f"error: {tmp_path}/\\udcff\\x1b: No such file or directory\n"
    assert ended(lambda: name.rename(tmp_path / "other"), capsys) == (2, expected)
    assert ended(lambda: os.listdir(os.fsencode(name)), capsys) == (2, expected)
    monkeypatch.setattr(errors, "traced", True)
    code, said = ended(lambda: check_output(Path(long), "test split"), capsys)
    assert (code, said.count("Traceback")) == (2, 1)


@pytest.fixture
def nobody():
    """A folder, and a context in which this process has no more rights than anyone there."""
    place = Path(tempfile.mkdtemp())  # those of pytest are their owner's alone
    place.chmod(0o755)

    @contextmanager
    def rights():
        user = os.geteuid()
        if not user:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)

    yield place, rights
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(place)


def test_folders_that_may_not_be_entered_or_read_are_one_line(nobody, capsys):
    place, rights = nobody
    closed = place / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0)
    for main in (
        lambda: check_room([Part("features", closed / "inner/cache", 1)]),
        lambda: check_output(closed, "test split"),
        lambda: check_output(closed / "inner", "test split"),
    ):
        with rights():
            code, said = ended(main, capsys)
        assert code == 2
        assert said.startswith(f"error: {closed}")
        assert said.endswith(": Permission denied\n")
        assert said.count("\n") == 1
    with rights(), pytest.raises(UserError, match="closed: Permission denied"), locked(closed):
        pass


def test_the_lock_is_that_of_a_file_for_network_file_systems_lock_no_folders_for_all(tmp_path):
    with locked(tmp_path):
        handle, folder = os.open(tmp_path / ".lock", os.O_RDWR), os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)
        write_text(tmp_path / "file", "a write in it waits for nobody")
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(UserError, match="another process is at work here"), locked(tmp_path, shared=True):
        pass
    os.close(handle)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "file"]
    with pytest.raises(UserError, match="none: No such file"), locked(tmp_path / "none"):
        pass


def test_a_folder_that_can_not_be_written_is_locked_by_the_file_that_is_there_or_needs_no_lock(nobody):
    place, rights = nobody
    with rights(), locked(place, shared=True), locked(place):
        assert list(place.iterdir()) == []
    with locked(place):
        with rights(), pytest.raises(UserError, match="another process"), locked(place, shared=True):
            pass
        with rights(), pytest.raises(UserError, match="another process"), locked(place):
            pass


def test_a_file_system_without_locks_is_told_and_smb_says_permission_of_a_lock_that_is_taken(
    tmp_path, monkeypatch, caplog
):
    refusal = OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(files.fcntl, "flock", lambda *_: fail(refusal))
    with locked(tmp_path):
        assert "can't be locked (No locks available); do not run two at once here" in caplog.text
    refusal = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(UserError, match="another process is at work here"), locked(tmp_path):
        pass


def test_progress_without_a_terminal_prints_plain_lines_with_the_time_left(capsys):
    with progress("work", 4, "images", every=0) as bar:
        bar.advance()
        bar.advance()
        bar.advance(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("work 1/4 images, ")
    assert "left" not in lines[0]  # the first compiles
    assert "s left" in lines[1]
    assert lines[2].startswith("work 4/4 images, ")


def test_a_line_goes_behind_what_a_killed_writer_left(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_line(path, "first")
    path.write_bytes(path.read_bytes() + b'{"step": 1')
    append_line(path, "last")
    assert path.read_text() == 'first\n{"step": 1\nlast\n'
    with pytest.raises(UserError, match="none/metrics.jsonl: No such file"):
        append_line(tmp_path / "none" / "metrics.jsonl", "x")
