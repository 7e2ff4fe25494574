"""train.py killed before and after everything that it puts in its place, and resumed: the same bytes."""

import pytest
from laboratory import Lab, differing, is_one_line, leftovers

STOPPED, TERMINATED = 143, -15


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("train")) as lab:
        yield lab


@pytest.fixture(scope="module")
def names(lab):
    """The events of `whole`, a training that nothing interrupts."""
    return lab.done("train", "whole")["events"]


def points(names):
    """Events before which to kill: each file still beside its place, every fourth just in it; each line to
    append; and the first of some files or folders to remove, if they are no temporary ones."""
    found, renames = {}, 0
    for number, name in enumerate(names):
        if name.startswith("rename"):
            found[number], renames = "kill", renames + 1
            if renames % 4 == 0:
                found[number + 1] = "kill"
        elif name.startswith("append"):
            found[number] = "torn"
        elif is_removal(name) and not is_removal(names[number - 1]):
            found[number] = "kill"
    return {number: how for number, how in found.items() if number < len(names)}


def is_removal(name):
    return name.startswith(("remove", "rmdir")) and "tmp" not in name


def test_the_same_run_twice_gives_the_same_bytes_and_a_third_time_it_has_nothing_to_do(lab, names):
    assert lab.done("train", "again")["events"] == [name.replace("whole/", "again/") for name in names]
    assert differing(lab.folder / "again", lab.folder / "whole") == []
    assert not any("models" in name for name in lab.done("train", "again")["events"])


def test_killed_at_every_write_it_goes_on_to_the_same_bytes(lab, names):
    wrong, killed = [], 0
    for number, how in points(names).items():
        place = f"at-{number}"
        answer = lab.run("train", place, at=number, how=how)
        killed += answer["code"] == -9
        resumed = lab.run("train", place)
        differ = differing(lab.folder / place, lab.folder / "whole")
        if answer["code"] != -9 or resumed["code"] or differ:
            wrong.append((number, names[number], answer["code"], differ, resumed["said"][-1000:]))
        lab.forget(place)
    assert wrong == []
    assert killed == len(points(names)) > 36


def test_killed_around_an_estimate_of_the_geometry_it_goes_on_to_the_same_bytes(lab):
    """Before and after all that an estimate writes; elsewhere in this file the cameras are known."""
    changes = {"geometry__cameras": "", "train__epochs": "0"}
    names = lab.done("train", "estimate", changes=changes)["events"]
    written = [n for n, name in enumerate(names) if name.startswith("rename") and "run/geometry" in name]
    assert [names[n].rpartition("/")[2] for n in written] == ["cap.png", "cap.json"]
    first = next(n for n, name in enumerate(names) if "run/geometry" in name)
    for number in sorted({first, *written, *(n + 1 for n in written)}):
        place = f"estimate-{number}"
        assert lab.run("train", place, changes=changes, at=number)["code"] == -9
        lab.done("train", place, changes=changes)
        assert differing(lab.folder / place, lab.folder / "estimate") == [], names[number]
        lab.forget(place)


def test_terminated_anywhere_it_goes_on_to_the_same_bytes(lab, names):
    codes = {}
    for number in range(3, len(names), len(names) // 8):
        place = f"term-{number}"
        answer = lab.run("train", place, at=number, how="term")
        codes[names[number]] = answer["code"]
        assert answer["code"] in (STOPPED, TERMINATED), answer["said"]
        assert "Traceback" not in answer["said"]
        lab.done("train", place)
        differ = differing(lab.folder / place, lab.folder / "whole")
        assert set(differ) <= {"cap states"}, names[number]  # one more where it stopped
    assert set(codes.values()) == {STOPPED, TERMINATED}


FILES = (
    *("run/config.json", "run/environment.json", "run/metrics.jsonl", "run/geometry/cap.json"),
    *("run/geometry/pictures/cap.png", "run/manifest.json", "feature_cache/*-patches.npy"),
    *("run/checkpoints/cap/origin.json", "run/checkpoints/cap/0", "run/models/cap/state.safetensors"),
    *("run/models/cap/facts.json", "run/models/cap/score_statistics.json"),
    "run/models/cap/decision.safetensors",
)


def named(file, said):
    """Whether the last line names a file, or of checkpoints their folder."""
    last = said.splitlines()[-1]
    return (file.rpartition("/")[0] if file.endswith("/0") else file.split("/")[-1].strip("*")) in last


@pytest.mark.parametrize("how", ["ENOSPC", "EROFS"])
def test_a_disk_that_refuses_a_file_is_one_line_and_what_was_there_stays(lab, names, how):
    wrong = []
    for file in FILES[:: 1 if how == "ENOSPC" else 7]:
        number = next(n for n, name in enumerate(names) if name.endswith(f"whole/{file}"))
        assert names[number].startswith(("rename", "append"))
        place = f"{how}-{number}"
        answer = lab.run("train", place, at=number, how=how)
        said = answer["said"]
        if answer["code"] != 2 or not is_one_line(said) or not named(file, said):
            wrong.append((file, answer["code"], said[-1500:]))
        if leftovers(lab.folder / place / "run/models"):
            wrong.append((file, "leftovers"))
        resumed = lab.run("train", place)
        differ = differing(lab.folder / place, lab.folder / "whole")
        if resumed["code"] or differ:
            wrong.append((file, resumed["said"][-1000:], differ))
        lab.forget(place)
    assert wrong == []


# A limit in bytes, what of the workdir (or "": the features beside it) meets it first, and with which fields.
LIMITS = (
    (3000, "geometry", {}),
    (40_000, "", {}),
    (70_000, "checkpoints", {}),
    (200_000, "checkpoints", {}),
    (400_000, "checkpoints", {}),
    (100_000, "models", {"train__epochs": "0"}),
)


def test_a_limit_of_file_sizes_is_one_line_whichever_library_writes(lab, names):
    lab.done("train", "whole-0", changes={"train__epochs": "0"})
    for limit, stopped_at, changes in LIMITS:
        place = f"limit-{limit}"
        answer = lab.run("train", place, changes=changes, limit=limit)
        assert answer["code"] == 2, (limit, answer["said"])
        assert is_one_line(answer["said"]), answer["said"]
        last = answer["said"].splitlines()[-1]
        assert last.partition("/run/")[2].split(":")[0].split("/")[0] == stopped_at, last
        lab.done("train", place, changes=changes)
        whole = lab.folder / ("whole-0" if changes else "whole")
        assert differing(lab.folder / place, whole) == [], limit
        lab.forget(place)
