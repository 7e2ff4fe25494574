"""Which samples are held out."""

import random
from pathlib import Path

import pytest

from mvead_jax.data.records import Sample, View, build_index
from mvead_jax.decision.split import held_out_ids, hold_out


def index_of(samples):
    made = [
        Sample(name, category, split, (View("C1", f"{category}/{split}/{name}.png", label),))
        for category, split, name, label in samples
    ]
    return build_index(Path("root"), made)


SAMPLES = [(c, s, f"{n:03d}", 0) for c in ("nut", "pin") for s in ("train", "test") for n in range(40)]


def held(index):
    return {(one.category, one.id) for one in index.samples if one.split == "held_out"}


def test_the_split_takes_the_share_of_every_category_and_leaves_the_test_samples():
    found = hold_out(index_of(SAMPLES), 0.3, 0)
    for category in ("nut", "pin"):
        sizes = {s: len(found.select(split=s, category=category)) for s in ("train", "held_out", "test")}
        assert sizes == {"train": 28, "held_out": 12, "test": 40}
    assert len(found) == len(SAMPLES)
    assert found.views == ("C1",)


def test_neither_order_nor_labels_nor_other_categories_change_the_split():
    expected = held(hold_out(index_of(SAMPLES), 0.3, 0))
    shuffled = random.Random(0).sample(SAMPLES, len(SAMPLES))
    assert held(hold_out(index_of(shuffled), 0.3, 0)) == expected
    labelled = [(c, s, n, int(n) % 2) for c, s, n, _ in SAMPLES]
    assert held(hold_out(index_of(labelled), 0.3, 0)) == expected
    alone = [one for one in SAMPLES if one[0] == "pin"]
    assert held(hold_out(index_of(alone), 0.3, 0)) == {one for one in expected if one[0] == "pin"}


def test_seeds_and_categories_draw_differently():
    ids = tuple(f"{n:03d}" for n in range(40))
    draws = {held_out_ids(ids, c, 0.3, seed) for c in ("nut", "pin") for seed in range(5)}
    assert len(draws) == 10


def test_every_sample_is_held_out_about_equally_often():
    ids = tuple(f"{n:03d}" for n in range(20))
    counts = [sum(name in held_out_ids(ids, "nut", 0.5, seed) for seed in range(400)) for name in ids]
    assert all(140 <= count <= 260 for count in counts)  # six standard deviations of 10 around 200


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.05, 2), (0.475, 19), (0.99, 40)])
def test_a_share_is_rounded_to_whole_samples(share, count):
    assert len(held_out_ids(tuple(f"{n}" for n in range(40)), "nut", share, 0)) == count


def test_nothing_held_out_is_the_same_index():
    index = index_of(SAMPLES)
    assert hold_out(index, 0.0, 0) is index
