"""True small disks, where the test may mount one: too small, full on the way, read-only."""

import os
import shutil
import subprocess

import pytest
from laboratory import differing, finished, is_one_line


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with finished(tmp_path_factory.mktemp("disk")) as lab:
        yield lab


@pytest.fixture
def disk(lab):
    """A function that mounts an empty disk of some KB at <lab>/<name>."""
    mounted = []

    def mount(name, kilobytes):
        place = lab.folder / name
        place.mkdir()
        options = ["-o", f"size={kilobytes}k"]
        done = subprocess.run(
            ["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"only root may mount a small disk ({done.stderr.strip()}): run this test as root")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_is_too_small_is_refused_before_the_work_with_the_bytes(lab, disk):
    place = disk("small", 1000)
    answer = lab.run("train", "small")
    assert answer["code"] == 2, answer["said"]
    assert is_one_line(answer["said"])
    last = answer["said"].splitlines()[-1]
    assert "MB needed (features" in last
    assert "MB free; make room" in last
    assert list(place.iterdir()) == []


def stopped_and_resumed(lab, script, place, left, finished):
    """Where a job stops if only `left` KB remain when its first file is written, its plan having had room;
    after making room it ends as `finished`."""
    answer = lab.run(script, place.name, fill={"leave": left * 1024, "path": str(place / "other")})
    assert answer["code"] == 2, answer["said"]
    assert is_one_line(answer["said"]), answer["said"]
    (place / "other").unlink()
    lab.done(script, place.name)
    assert differing(place, lab.folder / finished) == [], left
    return answer["said"].splitlines()[-1].split(":")[1]


def test_a_disk_that_fills_up_on_the_way_is_one_line_and_after_making_room_it_goes_on(lab, disk):
    stopped = set()
    for number, left in enumerate((8, 60, 120, 400, 900)):
        place = disk(f"full-{number}", 6000)
        os.mkdir(place / "feature_cache")
        stopped.add(stopped_and_resumed(lab, "train", place, left, "trained"))
    assert len(stopped) >= 3, stopped


def test_a_disk_that_fills_up_under_a_scoring_is_one_line_and_after_making_room_the_same_ends_well(lab, disk):
    stopped = set()
    for number, left in enumerate((40, 84, 96)):
        place = disk(f"scores-{number}", 8000)
        shutil.copytree(lab.folder / "trained", place, dirs_exist_ok=True)
        (place / "run/scores").mkdir()
        stopped.add(stopped_and_resumed(lab, "score", place, left, "scored"))
    assert len(stopped) >= 2, stopped


def test_a_read_only_disk_is_one_line_for_training_and_for_scoring(lab, disk):
    place = disk("readonly", 20_000)
    remount = ["mount", "-o", "remount,ro", str(place)]
    subprocess.run(remount, check=True)
    answer = lab.run("train", "readonly")
    assert (answer["code"], is_one_line(answer["said"])) == (2, True), answer["said"]
    assert "Read-only file system" in answer["said"]
    subprocess.run([*remount[:2], "remount,rw", str(place)], check=True)
    lab.done("train", "readonly")
    subprocess.run(remount, check=True)
    for script in ("train", "score"):
        answer = lab.run(script, "readonly")
        assert (answer["code"], is_one_line(answer["said"])) == (2, True), answer["said"]
        assert "Read-only file system" in answer["said"]
    # A trained model on a disk that can't be written is scored into another one.
    options = [
        "--output",
        str(lab.folder / "elsewhere"),
        "--config.features.cache",
        str(lab.folder / "cache"),
    ]
    lab.done("score", "readonly", options=options)
    assert (lab.folder / "elsewhere/samples.csv").read_bytes() == (
        lab.folder / "scored/run/scores/samples.csv"
    ).read_bytes()
