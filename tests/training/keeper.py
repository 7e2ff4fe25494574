"""Checkpoints without a disk."""

import jax
import numpy as np


class Keeper:
    """Keeps everything in memory; asks to stop after step `stop`."""

    def __init__(self, stop=None):
        self.stop, self.states, self.events = stop, [], []

    def restore(self, like):
        if not self.states:
            return None
        state = self.states[-1]
        jax.tree.map(lambda a, b: np.testing.assert_equal(np.shape(a), np.shape(b)), state, like)
        return state

    def save(self, state):
        self.states.append(jax.tree.map(np.array, state))

    def record(self, event):
        self.events.append(event)

    def stopping(self):
        return self.stop is not None and self.events[-1]["step"] == self.stop
