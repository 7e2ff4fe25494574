"""What `mvead check` and training say of too few good parts, and of a test set that leaves metrics empty."""

import logging

import pytest
from own_data import write_folders

from mvead_jax.config.io import load_config
from mvead_jax.data.check import check_data
from mvead_jax.data.records import Sample, View
from mvead_jax.data.sufficient import empty_metrics, too_few
from mvead_jax.jobs.checked_training import checked_training


def samples(category="cap", train=5, good=2, defective=2, masks=True):
    """Samples of one view."""
    made = []
    for split, label, count in (("train", 0, train), ("test", 0, good), ("test", 1, defective)):
        for number in range(count):
            name = f"{category}-{split}-{label}-{number}"
            mask = f"{name}.mask.png" if label and masks else None
            made.append(Sample(name, category, split, (View("C1", f"{name}.png", label, mask),)))
    return made


def test_enough_of_everything_is_not_spoken_of():
    assert too_few(samples()) == empty_metrics(samples()) == []


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ({"defective": 0}, "cap: no defective test samples: AUROC, AP, F1-max and AUPRO of samples, images"),
        ({"good": 0}, "cap: no good test samples: AUROC, AP and F1-max of samples will be empty"),
        ({"masks": False}, "cap: no masks of defects in the test set: the metrics of pixels will be empty"),
        (
            {"good": 0, "defective": 0},
            "cap: no test samples: there will be no metrics; new images are scored by",
        ),
    ],
)
def test_a_test_set_that_leaves_metrics_empty_is_told_which(lacking, message):
    (line,) = empty_metrics(samples(**lacking))
    assert line.startswith(message)


def test_categories_with_one_cause_are_one_line():
    found = [one for name in "abcde" for one in samples(name, defective=0)] + samples("f")
    (line,) = empty_metrics(found)
    assert line.startswith("a, b, c and 2 more: no defective test samples")


def test_training_warns_of_what_check_finds(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "mvead_jax")
    root = write_folders(tmp_path / "parts", train=1, defects=())
    checked = check_data(root)
    config = load_config("folder:patchcore", {"data.root": str(root)})
    checked_training(config, tmp_path / "run")
    told = [record.message for record in caplog.records]
    (few,) = (one for one in checked.problems if "training sample" in one)
    (empty,) = (one for one in checked.notes if "no defective test samples" in one)
    assert few.startswith(
        "parts: 1 training sample, which does not tell how good parts differ; at least 5 are needed"
    )
    assert {few, empty} <= set(told)
    assert not (tmp_path / "run").exists()
