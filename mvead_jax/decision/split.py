"""Which training samples are held out to calibrate the decision."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math

from mvead_jax.data.records import DatasetIndex


def held_out_ids(ids: tuple[str, ...], category: str, share: float, seed: int) -> frozenset[str]:
    """round(share * n) of the n samples of a category.

    A function of seed, category and the set of ids: neither of their order nor of their labels.
    """
    count = math.floor(share * len(ids) + 0.5)

    def draw(name: str) -> bytes:
        return hashlib.sha256(json.dumps([seed, category, name]).encode()).digest()

    return frozenset(sorted(ids, key=draw)[:count])


def hold_out(index: DatasetIndex, share: float, seed: int) -> DatasetIndex:
    """The index in which the held-out training samples of each category are of the split "held_out".

    So `index.select(split="train")` has them nowhere.
    """
    if not share:
        return index
    chosen = set()
    for category in index.categories:
        ids = tuple(one.id for one in index.samples if one.split == "train" and one.category == category)
        chosen |= {(category, name) for name in held_out_ids(ids, category, share, seed)}
    samples = [
        dataclasses.replace(one, split="held_out")
        if one.split == "train" and (one.category, one.id) in chosen
        else one
        for one in index.samples
    ]
    return index.with_samples(samples)
