"""evaluation/vanished.py: marked defects of which no pixel is left as masks are compared."""

import pytest

from mvead_jax.config.schema import EvalConfig
from mvead_jax.evaluation.protocols import resolve
from mvead_jax.evaluation.vanished import NONE_VANISHED, vanished_warning, vanished_words


def of(**counts):
    return {
        name: {"pixel": {"vanished_masks": lost, "marked_masks": marked}}
        for name, (lost, marked) in counts.items()
    }


@pytest.mark.parametrize(("name", "size"), [("mvead", "64 x 64 pixels"), ("mvad", "256 x 256 pixels")])
def test_the_words_name_categories_counts_and_size(name, size):
    words = vanished_words(resolve(name, EvalConfig(), 64), of(cap=(2, 3), bolt=(0, 4), usb=(1, 1)))
    assert words.startswith(f"marked defects of which no pixel is left at {size}: cap 2 of 3, usb 1 of 1; ")
    assert "official" in words
    assert vanished_warning({"vanished_masks": words}) == words


def test_where_none_vanishes_there_is_no_warning():
    words = vanished_words(resolve("mvead", EvalConfig(), 64), of(cap=(0, 3)))
    assert words == NONE_VANISHED
    assert vanished_warning({"vanished_masks": words}) is vanished_warning({}) is None


def test_at_the_masks_own_size_no_larger_one_is_advised():
    words = vanished_words(resolve("official", EvalConfig(), 64), of(cap=(1, 3)))
    assert words.endswith("at their own size: cap 1 of 3; their pixels count as normal")
