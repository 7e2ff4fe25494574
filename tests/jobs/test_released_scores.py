"""The evaluation protocol that cuts scores off at a limit and maps at a range."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mvead_jax.config.schema import EvalConfig
from mvead_jax.evaluation.protocols import resolve
from mvead_jax.evaluation.score_files import ImageLine
from mvead_jax.jobs.evaluate import Scene, metrics_of_category

SCORES = np.array([[1, 2], [7, 9], [6, 30], [2, 11], [4, 3]], np.float32)  # [S,V]
LABELS = np.array([[0, 0], [1, 1], [0, 1], [0, 1], [0, 0]])


class Drawn:
    """The truth of the views: the upper half of a defective one is a defect."""

    def __init__(self, size=256):
        count = LABELS.size
        self.sizes, self.known = [(size, size)] * count, np.ones(count, bool)
        self.defective = LABELS.reshape(-1) == 1
        self.without_mask = self.vanished = self.marked = 0

    def masks(self, places):
        rows, columns = self.sizes[0]
        upper = np.arange(rows)[:, None] < rows // 2
        return np.stack([upper & self.defective[place] & np.ones(columns, bool) for place in places])


def scene(bounds=None, name="multiflow-released"):
    maps = np.random.default_rng(0).normal(2, 3, (LABELS.size, 4, 4)).astype(np.float16)
    lines = [
        ImageLine("part", f"s{sample}", f"C{view}", "", int(LABELS[sample, view]), SCORES[sample, view])
        for sample, view in np.ndindex(SCORES.shape)
    ]
    protocol = resolve(name, EvalConfig(), 256)
    # What samples.csv has is of no account: the protocol has a rule of its own.
    other = np.zeros(len(SCORES), np.float32)
    return Scene(lines, maps, Drawn(), protocol, LABELS.max(1), other, bounds)


def levels(own):
    return metrics_of_category(own, EvalConfig(bootstrap=0)).levels


def test_scores_above_the_limit_tie_and_samples_take_the_mean_of_whole_scores():
    found = levels(scene())
    image = roc_auc_score(LABELS.reshape(-1), np.minimum(SCORES, 5).reshape(-1))
    sample = roc_auc_score(LABELS.max(1), np.minimum(SCORES.mean(1), 5))
    assert found["image"]["auroc"] == pytest.approx(image)
    assert found["sample"]["auroc"] == pytest.approx(sample)
    assert image != roc_auc_score(LABELS.reshape(-1), SCORES.reshape(-1))  # the limit matters here


def test_maps_are_cut_off_at_the_bounds_and_only_there():
    plain, cut = scene(), scene((-1.0, 2.0))
    places = list(range(4))
    np.testing.assert_array_equal(cut.enlarged(places), np.clip(plain.enlarged(places), -1, 2))
    assert levels(cut)["pixel"]["auroc"] != levels(plain)["pixel"]["auroc"]
    assert levels(cut)["image"] == levels(plain)["image"]


def test_the_log_of_mvad_counts_in_strips_with_the_exact_figures_beside_them():
    exact, counted = (levels(scene(name=name))["pixel"] for name in ("mvad", "mvad-released"))
    assert counted["strips"] == 50
    assert counted["exact"] == {name: exact[name] for name in counted["exact"]}
    assert all(0 < abs(counted[name] - own) < 0.05 for name, own in counted["exact"].items())
