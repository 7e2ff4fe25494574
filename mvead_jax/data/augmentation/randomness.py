"""What everything random in a pseudo-anomaly follows from."""

from __future__ import annotations

import hashlib

import numpy as np


def generator_of(seed: int, epoch: int, sample: str, view: int) -> np.random.Generator:
    """Return the generator of one image in one epoch: a function of (seed, epoch, sample id, view) alone.

    So an image is changed alike whichever worker, process or batch it is in.
    """
    digest = hashlib.sha256(f"{seed}/{epoch}/{view}/{sample}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))
