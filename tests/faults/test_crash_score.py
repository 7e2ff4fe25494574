"""score.py killed before and after everything that it puts in its place, and run again: the same bytes."""

import pytest
from laboratory import differing, finished, is_one_line
from test_crash_train import points


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with finished(tmp_path_factory.mktemp("score")) as lab:
        yield lab


@pytest.fixture(scope="module")
def names(lab):
    """The events of a scoring into a folder that holds an earlier one."""
    lab.copy("scored", "events")
    (lab.folder / "events/feature_cache").rename(lab.folder / "events/old")
    lab.copy("trained/feature_cache", "events/feature_cache")
    return lab.done("score", "events")["events"]


def test_killed_at_every_write_the_same_command_ends_in_the_same_bytes(lab, names):
    wrong, killed = [], 0
    for number, how in points(names).items():
        place = f"at-{number}"
        lab.copy("scored" if number % 2 else "trained", place)
        if number % 2:  # scored before, but for the features
            cache, kept = lab.folder / place / "feature_cache", lab.folder / "trained/feature_cache"
            for path in {p.name for p in cache.iterdir()} - {p.name for p in kept.iterdir()}:
                (cache / path).unlink()
        answer = lab.run("score", place, at=number, how=how)
        killed += answer["code"] == -9
        resumed = lab.run("score", place)
        differ = differing(lab.folder / place, lab.folder / "scored")
        if answer["code"] not in (-9, 0) or resumed["code"] or differ:
            wrong.append((number, names[number], answer["code"], differ, resumed["said"][-1000:]))
        lab.forget(place)
    assert wrong == []
    assert killed >= 24


def test_terminated_it_ends_at_once_and_the_same_command_ends_in_the_same_bytes(lab):
    for number in (2, 25, 50):
        lab.copy("trained", f"term-{number}")
        assert lab.run("score", f"term-{number}", at=number, how="term")["code"] == -15
        lab.done("score", f"term-{number}")
        assert differing(lab.folder / f"term-{number}", lab.folder / "scored") == []


FILES = ("unfinished.json", "images.csv", "maps/cap.npz", "bootstrap.npz", "metrics.json")


def renaming(names, file):
    """The event that puts a file of the scores in its place."""
    place = f"run/scores/{file}"
    return next(n for n, name in enumerate(names) if name.startswith("rename") and name.endswith(place))


@pytest.mark.parametrize("how", ["ENOSPC", "EROFS"])
def test_a_disk_that_refuses_a_file_is_one_line_and_the_model_stays(lab, how):
    lab.copy("trained", f"events-{how}")
    names = lab.done("score", f"events-{how}")["events"]
    for file in FILES[:: 1 if how == "ENOSPC" else 2]:
        number = renaming(names, file)
        place = f"{how}-{number}"
        lab.copy("trained", place)
        answer = lab.run("score", place, at=number, how=how)
        assert answer["code"] == 2, answer["said"]
        assert is_one_line(answer["said"]), answer["said"]
        assert file in answer["said"].splitlines()[-1]
        lab.done("score", place)
        assert differing(lab.folder / place, lab.folder / "scored") == [], file
        lab.forget(place)


def test_a_report_that_can_not_be_written_is_said_and_costs_no_score(lab):
    lab.copy("trained", "with-report")
    names = lab.done("score", "with-report")["events"]
    lab.copy("trained", "no-report")
    answer = lab.run("score", "no-report", at=renaming(names, "report/index.html"), how="ENOSPC")
    assert answer["code"] == 0, answer["said"]
    assert "report" in answer["said"]
    assert "No space left on device" in answer["said"]
    lab.done("score", "no-report", options=["--from-maps"])
    assert differing(lab.folder / "no-report", lab.folder / "scored") == []
