"""Inputs as people bring them, and the tables of docs/own_data.md that say what becomes of them."""

import re
from pathlib import Path

import pytest
from input_cases import cases, said

ROOT = Path(__file__).parents[2]
CASES = cases()


@pytest.mark.parametrize("one", CASES, ids=lambda one: f"{one.table}: {one.what}")
def test_an_input_is_taken_noted_or_refused_as_documented(one, tmp_path):
    found = said(one, tmp_path)
    verdict, _, words = one.says.partition(": ")
    assert found.split(": ")[0] == verdict, found
    assert words in found
    assert found.isprintable()


def test_the_tables_of_the_docs_are_these_cases():
    text = (ROOT / "docs/own_data.md").read_text()
    documented = re.findall(r"^\| (.+?) \| ((?:taken|noted|refused).*?) \|$", text, re.MULTILINE)
    assert documented == [(one.what, one.says) for one in CASES]
    assert len({(one.table, one.what) for one in CASES}) == len(CASES)
