"""Samples scored as they arrive: each once, when it is all there, whatever interrupts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_realiad import write_realiad
from PIL import Image

from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.data.images import open_image
from mvead_jax.jobs.train import train
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.runtime.errors import UserError
from mvead_jax.serving.inspector import Inspector
from mvead_jax.serving.watch.arrivals import place_of
from mvead_jax.serving.watch.journal import Journal
from mvead_jax.serving.watch.watcher import JOURNAL, Watcher, watch

ROOT = Path(__file__).parents[2]
VIEWS = ("left", "right", "top")


class Result:
    def __init__(self, values):
        self.values = values

    def as_json(self):
        return {"views": self.values, "text": str(self.values)}


class Brightness:
    """An inspector that scores a view by its first pixel."""

    digest, categories = "model 1", ("bolt",)

    def views(self, category):
        return VIEWS

    def inspect(self, images, category):
        return Result({view: int(np.asarray(open_image(one))[0, 0, 0]) for view, one in images.items()})


class Line:
    """A watcher of one folder with a clock that the test turns."""

    def __init__(self, folder, timeout=10, inspector=None):
        self.folder, self.timeout, self.inspector = folder, timeout, inspector or Brightness()
        self.input, self.path, self.now = folder / "in", folder / "out" / JOURNAL, 0.0
        self.input.mkdir(exist_ok=True)
        self.start()

    def start(self):
        self.watcher = Watcher(self.inspector, self.input, Journal(self.path), self.timeout)

    def put(self, name, level=10):
        path = self.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (level,) * 3).save(path)
        return path

    def put_samples(self, names, level=10):
        """Whole samples, each named by a letter."""
        for sample in names:
            for view in VIEWS:
                self.put(f"{sample}/{view}.png", level)

    def look(self, seconds=1.0):
        self.now += seconds
        return [(line["sample"], line.get("views"), line["revises"]) for line in self.watcher.look(self.now)]

    def lines(self):
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def line(tmp_path):
    return Line(tmp_path)


def refuse(name):
    """Path.open, but a disk that refuses to read files of that name."""
    opened = Path.open

    def open_or_refuse(path, *arguments, **options):
        if path.name == name:
            raise OSError(5, "Input/output error")
        return opened(path, *arguments, **options)

    return open_or_refuse


def test_a_sample_is_scored_once_when_all_views_have_come_and_stay_as_they_are(line):
    line.put("Teil 1/left.png", 1)
    line.put("Teil 1/right.jpg", 2)
    assert line.look() == line.look() == []
    line.put("Teil 1/top.bmp", 3)
    assert line.look() == []  # it may still be in writing
    assert line.look() == [("Teil 1", {"left": 1, "right": 2, "top": 3}, None)]
    assert line.look() == line.look(1000) == []
    assert [own["number"] for own in line.lines()] == [1]
    assert line.lines()[0]["pictures"]["top"]["path"] == "Teil 1/top.bmp"


def test_a_file_that_grows_is_not_read_before_it_is_whole(line):
    for view in VIEWS[:2]:
        line.put(f"a/{view}.png")
    content = line.put("b/top.png", 77).read_bytes()
    shutil.rmtree(line.input / "b")
    growing = line.input / "a/top.png"
    growing.touch()
    assert line.look() == line.look() == []  # empty: not begun
    for end in range(10, len(content) // 2, 10):
        growing.write_bytes(content[:end])
        assert line.look() == []
    assert line.look() == []  # the writer rests: unchanged, and not a whole image
    growing.write_bytes(content)
    line.look()
    assert line.look() == [("a", {"left": 10, "right": 10, "top": 77}, None)]


def test_a_sample_that_stays_incomplete_is_scored_after_the_timeout_and_again_by_a_late_view(line):
    line.put("a/left.png", 1)
    line.look()
    line.put("a/right.png", 2)
    assert line.look(9.5) == line.look(9.5) == []  # counted from the last that came
    assert line.look(1) == [("a", {"left": 1, "right": 2}, None)]
    line.put("a/top.png", 3)
    line.look()
    assert line.look() == [("a", {"left": 1, "right": 2, "top": 3}, 1)]
    assert line.look(100) == []
    assert [own["revises"] for own in line.lines()] == [None, 1]


def test_a_picture_of_other_bytes_is_scored_again_and_the_same_bytes_are_not(line):
    line.put_samples("a", 5)
    line.look(), line.look()
    os.utime(line.input / "a/top.png", (1, 1))
    line.put("a/left.png", 5)
    line.put("a/left (2).png", 6)
    line.put("a/left.bmp", 7)
    assert line.look() == line.look() == line.look(100) == []
    line.put("a/left.png", 8)
    line.look()
    assert line.look() == [("a", {"left": 8, "right": 5, "top": 5}, 1)]


def test_of_two_files_of_a_view_that_counts_by_which_was_decided_even_after_a_restart(line):
    for view in VIEWS[:2]:
        line.put(f"a/{view}.jpg", 5)
    line.put("a/top.png", 6)  # a mask, say
    line.look()
    line.put("a/top.jpg", 7)
    line.look()
    assert line.look() == [("a", {"left": 5, "right": 5, "top": 7}, None)]
    line.put("b/left.jpg", 5)
    line.put("b/right.png", 6)
    line.put("b/top.jpg", 7)
    line.look()
    assert line.look() == [("b", {"left": 5, "right": 6, "top": 7}, None)]
    line.put("b/right.jpg", 8)
    line.start()
    assert line.look() == line.look() == line.look(100) == []


def test_an_unreadable_picture_gets_a_line_that_names_it_and_the_others_go_on(line):
    line.put_samples("ab", 5)
    broken = line.input / "a/top.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-30])
    line.look()
    assert [sample for sample, *_ in line.look()] == ["b"]
    assert line.look(8) == []  # perhaps it is still on its way
    line.look(1)
    line.look(1)
    own = line.lines()[1]
    assert own["sample"] == "a"
    assert "a/top.png" in own["error"]
    assert line.look(100) == []
    broken.write_bytes(whole)
    line.look()
    assert line.look() == [("a", {"left": 5, "right": 5, "top": 5}, 2)]


def test_an_empty_picture_gets_a_line_after_the_timeout_and_another_when_it_is_filled(line):
    for view in VIEWS[:2]:
        line.put(f"a/{view}.png")
    empty = line.input / "a/top.png"
    empty.touch()
    assert line.look() == line.look(8) == []
    assert line.look(2) == [("a", None, None)]
    assert "a/top.png" in line.lines()[0]["error"]
    assert line.look(100) == []
    line.put("a/top.png", 3)
    line.look()
    assert line.look() == [("a", {"left": 10, "right": 10, "top": 3}, 1)]


def test_a_picture_that_the_disk_refuses_gets_a_line_after_the_timeout(line, monkeypatch):
    line.put_samples("a")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse("top.png"))
        assert line.look() == line.look(8) == []
        assert line.look(2) == [("a", None, None)]
        own = line.lines()[0]
        assert own["error"].endswith("a/top.png: Input/output error")
        assert [one["sha256"] is None for one in own["pictures"].values()] == [False, False, True]
        os.utime(line.input / "a/top.png", (1, 1))
        line.start()
        assert line.look() == line.look(20) == []
    os.utime(line.input / "a/top.png", (2, 2))
    line.look()
    assert line.look() == [("a", dict.fromkeys(VIEWS, 10), 1)]


def test_a_picture_that_can_be_read_again_is_scored_without_any_change_to_it(line, monkeypatch):
    line.put_samples("a")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse("top.png"))
        line.look(), line.look()
        assert line.look(20) == [("a", None, None)]
        assert line.look() == line.look(20) == []
        line.start()
        assert line.look() == line.look() == line.look(20) == []
    assert line.look() == []  # it was tried just now
    assert line.look(20) == [("a", dict.fromkeys(VIEWS, 10), 1)]
    assert line.look() == line.look(20) == []


def test_a_picture_replaced_by_one_of_its_size_and_time_is_scored_again(line):
    for view in VIEWS:
        line.put(f"a/{view}.bmp", 5)
    line.look(), line.look()
    top = line.input / "a/top.bmp"
    before = top.stat()
    line.put("a/top.bmp", 6)
    os.utime(top, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = top.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    line.look()
    assert line.look() == [("a", {"left": 5, "right": 5, "top": 6}, 1)]


def test_a_file_too_large_for_a_picture_gets_a_line_and_is_not_read(line):
    for view in VIEWS[:2]:
        line.put(f"a/{view}.png")
    with (line.input / "a/top.png").open("wb") as file:
        file.truncate(2**40)
    line.look()
    assert line.look(20) == [("a", None, None)]
    assert "more than 536870912 bytes" in line.lines()[0]["error"]


@pytest.mark.parametrize(
    "foreign",
    [{"number": 1}, {"number": 1, "model": "model 1", "category": "b", "sample": "c", "pictures": 3}],
)
def test_lines_of_another_program_are_refused(line, foreign):
    line.path.write_text(json.dumps(foreign) + "\n")
    with pytest.raises(UserError, match=r"decisions.jsonl: line 1 is not one of score.py --watch"):
        line.start()


def test_a_restart_repeats_nothing_and_cuts_a_torn_line(line):
    line.put_samples("abc", 5)
    line.look(), line.look()
    written = line.path.read_bytes()
    for kept in (len(written) - 2, written.rfind(b"\n", 0, -1) + 20, written.rfind(b"\n", 0, -1) + 1):
        line.path.write_bytes(written[:kept])
        os.utime(line.input / "a/top.png", (kept, kept))
        line.start()
        line.look()
        assert line.look() == [("c", {"left": 5, "right": 5, "top": 5}, None)]
        assert [(own["number"], own["sample"]) for own in line.lines()] == [(1, "a"), (2, "b"), (3, "c")]
    line.path.write_bytes(b"?" + written)
    with pytest.raises(UserError, match=r"decisions.jsonl: line 1 is not one of"):
        line.start()


def test_a_last_line_is_kept_if_only_its_end_is_missing_and_left_alone_if_it_is_no_journals(line):
    line.put_samples("ab", 5)
    line.look(), line.look()
    written = line.path.read_bytes()
    line.path.write_bytes(written[:-1])
    line.start()
    assert line.path.read_bytes() == written
    assert line.look() == line.look() == []
    for foreign in (b"notes of somebody", b'{"number": 3, "other": 1', b"[" * 200_000 + b"\n"):
        line.path.write_bytes(written[: written.find(b"\n") + 1] + foreign)
        with pytest.raises(UserError, match="line 2 is not one of score.py --watch"):
            line.start()
        assert line.path.read_bytes().endswith(foreign)


def test_another_model_does_not_go_on_with_the_decisions_of_the_first(line):
    line.put_samples("a")
    line.look(), line.look()
    line.inspector.digest = "model 2"
    with pytest.raises(UserError, match="decisions of another model"):
        line.start()


def test_nothing_is_moved_or_changed_and_other_files_are_passed_over_with_a_word(line, caplog):
    for view in (*VIEWS, "nadir"):
        line.put(f"a/{view}.png")
    line.put("loose.png")
    line.put(".hidden/left.png")
    (line.input / "a/notes.txt").write_text("left")
    before = {path: path.stat() for path in line.input.rglob("*")}
    line.look(), line.look()
    assert {path: path.stat() for path in line.input.rglob("*")}.keys() == before.keys()
    assert all(path.stat().st_mtime_ns == stat.st_mtime_ns for path, stat in before.items())
    assert len(line.lines()) == 1
    told = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert sorted(Path(text.split(":")[0]).name for text in told) == ["loose.png", "nadir.png"]


def test_a_pipe_and_a_link_are_passed_over_and_nothing_waits_for_them(line, tmp_path, caplog):
    for view in VIEWS[:2]:
        line.put(f"a/{view}.png")
    os.mkfifo(line.input / "a/top.png")
    line.look()
    assert line.look(20) == [("a", {"left": 10, "right": 10}, None)]
    outside = tmp_path / "outside.png"
    shutil.copy(line.input / "a/left.png", outside)
    (line.input / "a/top.jpg").symlink_to(outside)
    (line.input / "b").symlink_to(tmp_path)
    assert line.look() == line.look(100) == []
    told = [record.getMessage() for record in caplog.records]
    assert sorted(Path(text.split(":")[0]).name for text in told if "a link, or no file" in text) == [
        "top.jpg",
        "top.png",
    ]


def test_two_folders_of_one_sample_are_not_put_together(line, caplog):
    composed, apart = "\u00e9", "e\u0301"
    line.put(f"{apart}/left.png", 1)
    line.put(f"{composed}/right.png", 2)
    line.put(f"{composed}/top.png", 3)
    line.look()
    assert line.look(20) == [(composed, {"left": 1}, None)]  # the first by name
    line.put(f"bolt/{composed}/right.png", 4)
    line.start()
    assert line.look() == line.look() == line.look(20) == []
    told = [record.getMessage() for record in caplog.records]
    assert any(f"{composed}: the sample is there already, in '{apart}'; passed over" in text for text in told)


def test_names_that_are_no_text_and_folders_too_deep_are_passed_over(line, caplog):
    for view in VIEWS:
        line.put(f"\x1b[2J\n7/{view}.png")
        line.put(os.fsdecode(b"\xff") + f"/{view}.png")
    deep = line.input
    for _ in range(300):
        deep = deep / "d"
        deep.mkdir()
    line.look()
    assert line.look(20) == []
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert told.count("control character, or half of a character; passed over") == 6
    assert "more than 8 folders deep; passed over" in told


def test_a_folder_that_is_gone_is_one_line(line):
    line.input.rmdir()
    with pytest.raises(UserError, match=r"--input .*in: No such file"):
        line.look()


def test_a_sample_that_is_taken_away_before_it_is_complete_is_forgotten(line):
    line.put("a/left.png")
    line.look(), line.look()
    shutil.rmtree(line.input / "a")
    assert line.look() == line.look(100) == []


@pytest.mark.parametrize(
    ("path", "views", "expected"),
    [
        ("7/left.png", {"bolt": VIEWS}, ("bolt", "7", "left")),
        ("bolt/7/left.png", {"bolt": VIEWS}, ("bolt", "7", "left")),
        ("cap/7/left.png", {"bolt": VIEWS, "cap": VIEWS}, ("cap", "7", "left")),
        ("7/left.png", {"bolt": VIEWS, "cap": VIEWS}, None),
        ("left.png", {"bolt": VIEWS}, None),
        ("x/bolt/7/left.png", {"bolt": VIEWS}, None),
        ("nut/7/left.png", {"bolt": VIEWS}, None),
        ("a\u0308/left.png", {"bolt": VIEWS}, ("bolt", "\u00e4", "left")),
        ("bolt_0007_OK_C2_2024.jpg", {"bolt": ("C1", "C2")}, ("bolt", "bolt_0007_OK", "C2")),
        ("any/where/bolt_0007_NG_HS_C1_2024.jpg", {"bolt": ("C1",)}, ("bolt", "bolt_0007_NG_HS", "C1")),
        ("nut_0007_OK_C2_2024.jpg", {"bolt": ("C1", "C2")}, None),
        ("7.png", {"bolt": ("top",)}, ("bolt", "7", "top")),
        ("7/top.png", {"bolt": ("top",)}, ("bolt", "7", "top")),
        ("bolt/7.png", {"bolt": ("top",), "cap": VIEWS}, ("bolt", "7", "top")),
        ("cap/7.png", {"bolt": ("top",), "cap": VIEWS}, None),
        ("7.png", {"bolt": ("top",), "cap": ("top",)}, None),
    ],
)
def test_whose_a_picture_is_follows_from_its_path(path, views, expected):
    place = place_of(path, views)
    assert (place and (*place.key, place.view)) == expected


# ---- the real thing


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = write_realiad(tmp_path_factory.mktemp("data"), categories=("bolt",), size=40)
    workdir = tmp_path_factory.mktemp("runs") / "bolt"
    backbone = BackboneConfig(name="efficientnet-lite0", weights="random", batch_size=2)
    train(PatchCoreConfig(data=DataConfig(root=str(root), image_size=32), backbone=backbone), workdir)
    return workdir, root


def arrive(root, folder, sample):
    for path in (root / "realiad_64/bolt/OK" / sample).glob("*.jpg"):
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_score_py_watches_until_it_is_stopped_and_goes_on_where_it_was(run, tmp_path):
    workdir, root = run
    folder, journal = tmp_path / "in", tmp_path / "out" / JOURNAL
    arrive(root, folder, "S0005")
    command = [sys.executable, "scripts/score.py", f"--workdir={workdir}", f"--input={folder}", "--watch"]
    command += [f"--output={tmp_path / 'out'}", "--timeout=60"]

    def written():
        return journal.read_text().count("\n") if journal.exists() else 0

    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache/jax")}
    for sample, number, code in (("S0005", signal.SIGTERM, 143), ("S0006", signal.SIGINT, 130)):
        arrive(root, folder, sample)
        expected = written() + 1
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            wait_for(lambda expected=expected: written() == expected)
            process.send_signal(number)
            _, text = process.communicate(timeout=30)
        finally:
            process.kill()
        assert process.returncode == code, text
        assert "Traceback" not in text
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [line["sample"] for line in lines] == ["bolt_0005_OK", "bolt_0006_OK"]
    paths = {view: folder / one["path"] for view, one in lines[0]["pictures"].items()}
    direct = Inspector.load(workdir, warm=False).inspect(paths)
    assert lines[0].keys() - direct.as_json().keys() == {
        "number",
        "time",
        "sample",
        "revises",
        "pictures",
        "model",
    }
    for view, value in direct.scores.items():
        assert lines[0]["views"][view] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--watch"], "--watch: name the folder to watch by --input"),
        (["--timeout=3"], "--timeout: belongs to --watch"),
        (["--category=bolt"], "--category: belongs to --watch"),
        (["--watch", "--input=.", "--timeout=-1"], "--timeout=-1: must not be negative"),
        (["--watch", "--input=.", "--protocol=mvad"], "--input: new images have no labels"),
        (["--watch", "--input=.", "--dry_run"], "--watch: there is no plan of what may come"),
        (["--watch", "--input=nowhere"], "--input nowhere: no such folder"),
        (["--watch", "--input=.", "--category=nut"], "category 'nut': not trained"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(run, flags, expected, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import score as script

    monkeypatch.setattr(sys, "argv", ["score.py", f"--workdir={run[0]}", *flags])
    with pytest.raises(UserError) as caught:
        script.main()
    assert str(caught.value).startswith(expected)


def test_two_watchers_do_not_share_a_journal(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    from mvead_jax.runtime.files import locked

    with locked(tmp_path / "out"), pytest.raises(UserError, match="another process is"):
        watch(Brightness(), tmp_path / "in", tmp_path / "out", timeout=1)
