"""Every kind of file of a workdir, its caches and its scores, damaged in four ways: made again, or refused by
name. Never taken as it is."""

import json
import shutil

import pytest
from laboratory import differing, finished

from mvead_jax.comparison.two_runs import read_run
from mvead_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with finished(tmp_path_factory.mktemp("damage")) as lab:
        yield lab


def flip(path, other):
    """The last bit of a digit beyond the middle, if a text has one there; else of the byte in the middle."""
    content = bytearray(path.read_bytes())
    at = len(content) // 2
    if path.suffix in (".json", ".csv", ".jsonl"):
        at = next((i for i in range(at, len(content)) if chr(content[i]).isdigit()), at)
    content[at] ^= 1
    path.write_bytes(content)


def truncate(path, other):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(path, other):
    path.unlink()


def swap(path, other):
    """With another file of its kind."""
    kept = path.read_bytes()
    shutil.copy(other, path)
    other.write_bytes(kept)


# A file, another of its kind, and what scoring says of it: a part of its one line.
TRAINED = {
    "run/config.json": ("run/environment.json", "config.json"),
    "run/manifest.json": ("run/config.json", "manifest.json|config.json|missing or changed since training"),
    "run/geometry/cap.json": ("run/config.json", "geometry/cap.json|config.json"),
    "run/models/cap/state.safetensors": (
        "run/models/cap/decision.safetensors",
        "state.safetensors|decision.safetensors",
    ),
    "run/models/cap/facts.json": ("run/config.json", "facts.json|config.json"),
    "run/models/cap/score_statistics.json": ("run/models/cap/facts.json", "score_statistics.json|facts.json"),
    "run/models/cap/decision.safetensors": (
        "run/models/cap/state.safetensors",
        "state.safetensors|decision.safetensors",
    ),
}
DAMAGES = (flip, truncate, delete, swap)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", TRAINED)
def test_scoring_refuses_a_damaged_model_by_name_and_training_mends_or_refuses_it(lab, file, damage):
    place = lab.folder / "damaged"
    shutil.rmtree(place, ignore_errors=True)
    lab.copy("trained", "damaged")
    other, named = TRAINED[file]
    damage(place / file, place / other)
    answer = lab.run("score", "damaged")
    last = answer["said"].splitlines()[-1]
    assert answer["code"] == 2, answer["said"]
    assert any(name in last for name in named.split("|")), last
    assert not (place / "run/scores/metrics.json").exists()
    answer = lab.run("train", "damaged")
    if answer["code"]:  # refused: what is named is deleted, as the line says
        last = answer["said"].splitlines()[-1]
        assert answer["code"] == 2, answer["said"]
        assert last.startswith("error: ")
        assert "run/" in last
        blamed = next(place / name for name in TRAINED if str(place / name) in last)
        blamed.unlink(missing_ok=True)
        if "trained with another config" in last or blamed.name == "config.json":
            (place / "run/manifest.json").unlink()  # take another workdir, or train all of it again
        lab.done("train", "damaged")
    assert differing(place, lab.folder / "trained") == []


def test_an_estimated_geometry_that_was_changed_is_refused_until_it_is_deleted_or_owned(lab):
    changes = {"geometry__cameras": "", "train__epochs": "0"}
    lab.done("train", "estimated", changes=changes)
    place = lab.copy("estimated", "damaged-estimate")
    path = place / "run/geometry/cap.json"
    flip(path, None)
    answer = lab.run("train", "damaged-estimate", changes=changes)
    assert answer["code"] == 2, answer["said"]
    last = answer["said"].splitlines()[-1]
    assert "geometry/cap.json: changed since it was estimated; delete it to estimate again, or" in last
    changed = path.read_text()
    path.unlink()
    lab.done("train", "damaged-estimate", changes=changes)
    assert differing(place, lab.folder / "estimated") == []
    path.write_text(json.dumps(json.loads(changed) | {"origin": None}))
    lab.done("train", "damaged-estimate", changes=changes)
    assert json.loads(path.read_text())["origin"] is None


def untrain(place):
    """Or training would have nothing to do."""
    shutil.rmtree(place / "run/models")
    (place / "run/manifest.json").unlink()


def test_damaged_states_give_way_to_those_before_them(lab):
    for damage in (flip, truncate, delete):
        shutil.rmtree(lab.folder / "damaged", ignore_errors=True)
        place = lab.copy("trained", "damaged")
        untrain(place)
        steps = sorted(int(p.name) for p in (place / "run/checkpoints/cap").iterdir() if p.name.isdigit())
        for path in (place / f"run/checkpoints/cap/{steps[-1]}/default").rglob("*"):
            if path.is_file() and path.stat().st_size > 2000:
                damage(path, None)
        said = lab.done("train", "damaged")["said"]
        assert f"state {steps[-1]} can't be read" in said, said
        assert f"goes on after step {steps[0] - 1}" in said
        assert differing(place, lab.folder / "trained") == [], damage


def swap_states(one, two):
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def swap_largest_files(one, two):
    swap(*(max(state.rglob("*"), key=lambda path: path.stat().st_size) for state in (one, two)))


@pytest.mark.parametrize("exchange", [swap_states, swap_largest_files])
def test_swapped_states_or_files_of_states_end_in_the_same_model(lab, exchange):
    shutil.rmtree(lab.folder / "damaged", ignore_errors=True)
    place = lab.copy("trained", "damaged")
    untrain(place)
    exchange(*sorted(place.glob("run/checkpoints/cap/[0-9]*")))
    said = lab.done("train", "damaged")["said"]
    assert exchange is swap_states or "can't be read" in said, said
    assert differing(place, lab.folder / "trained") == []


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "file", ["feature_cache/*.npy", "run/checkpoints/cap/origin.json", "run/metrics.jsonl"]
)
def test_what_only_training_reads_is_made_again(lab, file, damage):
    shutil.rmtree(lab.folder / "damaged", ignore_errors=True)
    place = lab.copy("scored" if "cache" in file else "trained", "damaged")
    victims = sorted(place.glob(file))
    shutil.rmtree(place / "run/models")  # or training would have nothing to do
    other = victims[1] if len(victims) > 1 else place / "run/environment.json"
    damage(victims[0], other)
    if "cache" in file:
        (place / "run/checkpoints/cap/origin.json").unlink()
    lab.done("train", "damaged")
    if "cache" in file:
        lab.done("score", "damaged")
    differ = differing(place, lab.folder / ("scored" if "cache" in file else "trained"))
    if "metrics" in file:  # its lines are history; those that are no history any more are gone
        differ = [name for name in differ if name != "run/metrics.jsonl"]
        [json.loads(line) for line in (place / "run/metrics.jsonl").read_text().splitlines()]
    assert differ == []


SCORED = {
    "images.csv": "samples.csv",
    "samples.csv": "images.csv",
    "maps/cap.npz": "bootstrap.npz",
    "bootstrap.npz": "maps/cap.npz",
    "attended/cap.npz": "maps/cap.npz",
    "metrics.json": "environment.json",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", SCORED)
def test_damaged_scores_are_refused_by_name_and_scoring_makes_them_again(lab, file, damage):
    shutil.rmtree(lab.folder / "damaged", ignore_errors=True)
    place = lab.copy("scored", "damaged")
    scores = place / "run/scores"
    damage(scores / file, scores / SCORED[file])
    if file != "bootstrap.npz":  # that is made from the maps
        answer = lab.run("score", "damaged", options=["--from-maps"])
        last = answer["said"].splitlines()[-1]
        assert answer["code"] == 2, answer["said"]
        assert any(name in last for name in (file, SCORED[file])), last
    if file == "bootstrap.npz" and damage is delete:
        assert read_run(place / "run").replicates == {}  # then differences have no interval
    elif not file.startswith(("maps/", "attended/")):  # these are not compared
        with pytest.raises(UserError, match=f"{file}|{SCORED[file]}|holds no images.csv"):
            read_run(place / "run")
    if file == "metrics.json" and damage is not delete:
        (scores / file).unlink()  # as the line says: it can't be told whose scores these are
    lab.done("score", "damaged")
    assert differing(place, lab.folder / "scored") == []


EVALUATED = ("bootstrap.npz", "regions.csv", "metrics_mvad.json", "regions_mvad.csv")


def test_what_is_made_of_the_maps_is_made_again_whatever_became_of_it(lab):
    place = lab.copy("scored", "evaluated")
    again = {"options": ["--from-maps", "--protocol", "mvad"]}
    lab.done("score", "evaluated", **again)
    lab.copy("evaluated", "evaluated-whole")
    for damage in (flip, truncate, delete):
        for file in EVALUATED:
            damage(place / "run/scores" / file, None)
        lab.done("score", "evaluated", **again)
        assert differing(place, lab.folder / "evaluated-whole") == [], damage


def test_a_damaged_note_of_an_unfinished_scoring_is_refused_by_name_or_not_missed(lab):
    lab.copy("trained", "events")
    names = lab.done("score", "events")["events"]
    maps = next(n for n, name in enumerate(names) if name.startswith("rename") and name.endswith("cap.npz"))
    lab.copy("trained", "unfinished")
    assert lab.run("score", "unfinished", at=maps)["code"] == -9
    refused = []
    for damage in DAMAGES:
        shutil.rmtree(lab.folder / "damaged", ignore_errors=True)
        place = lab.copy("unfinished", "damaged")
        note = place / "run/scores/unfinished.json"
        damage(note, place / "run/scores/environment.json")
        answer = lab.run("score", "damaged")
        if answer["code"]:
            assert answer["code"] == 2, answer["said"]
            assert "scores/unfinished.json: " in answer["said"].splitlines()[-1]
            refused.append(damage)
            note.unlink()
            lab.done("score", "damaged")
        assert differing(place, lab.folder / "scored") == [], damage
    assert {truncate, swap} <= set(refused)
