"""score.py killed before and after everything that it puts in its place, and run again: the same bytes."""

import shutil

import pytest
from laboratory import differing, finished, is_one_line
from test_crash_train import points


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with finished(tmp_path_factory.mktemp("score")) as lab:
        lab.copy("scored", "again")  # scored before, and its features gone
        shutil.rmtree(lab.folder / "again/feature_cache")
        lab.copy("trained/feature_cache", "again/feature_cache")
        yield lab


@pytest.fixture(scope="module")
def names(lab):
    """The events of a scoring into a folder that holds an earlier one."""
    lab.copy("again", "events")
    return lab.done("score", "events")["events"]


def test_killed_at_every_write_the_same_command_ends_in_the_same_bytes(lab, names):
    """The first scoring of a workdir at every second point, one over an earlier one at the others."""
    lab.copy("trained", "first")
    of = {"trained": lab.done("score", "first")["events"], "again": names}
    chosen = [
        (start, number, how)
        for turn, (start, own) in enumerate(of.items())
        for number, how in list(points(own).items())[turn::2]
    ]
    wrong = []
    for start, number, how in chosen:
        place = f"{start}-{number}"
        lab.copy(start, place)
        answer = lab.run("score", place, at=number, how=how)
        resumed = lab.run("score", place)
        differ = differing(lab.folder / place, lab.folder / "scored")
        if answer["code"] != -9 or resumed["code"] or differ:
            wrong.append((start, of[start][number], answer["code"], differ, resumed["said"][-1000:]))
        lab.forget(place)
    assert wrong == []
    assert len(chosen) >= 23


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


def test_a_limit_of_file_sizes_is_one_line_and_what_is_only_to_look_at_costs_no_score(lab):
    lab.copy("scored", "with-features")
    shutil.rmtree(lab.folder / "with-features/run/scores")
    for start, limit, file in (
        ("trained", 3000, "feature_cache/"),
        ("with-features", 3000, "scores/bootstrap.npz"),
        ("with-features", 5000, "scores/metrics.json"),
        ("with-features", 9000, ""),
    ):
        place = f"limit-{start}-{limit}"
        lab.copy(start, place)
        answer = lab.run("score", place, limit=limit)
        if file:
            assert answer["code"] == 2, (limit, answer["said"])
            assert is_one_line(answer["said"]), answer["said"]
            assert file in answer["said"].splitlines()[-1]
        else:
            assert answer["code"] == 0, (limit, answer["said"])
            assert "report" in answer["said"]
            assert "File too large" in answer["said"]
        lab.done("score", place)
        assert differing(lab.folder / place, lab.folder / "scored") == [], limit
        lab.forget(place)
