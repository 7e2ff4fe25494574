"""Two runs on one page: the parts on which they disagree come first, and the page needs nothing but itself."""

import re

import numpy as np
import pytest
from fake_scores import write_scored

from mvead_jax.comparison.two_runs import Tolerances, compare, read_run
from mvead_jax.report import two_runs_page
from mvead_jax.report.page import write_report
from mvead_jax.report.two_runs_page import Side, headline, ordered, write_two_runs
from mvead_jax.runtime.errors import UserError

HOSTILE = "{category}_{number:04d}_{kind}_<script>alert(1)<"


def scored(folder, report=True, **options):
    """Return a scores folder whose samples of the numbers in `cold` are missed."""
    made = write_scored(folder, samples=10, attention=False, **options)
    if report:
        write_report(made.folder, made.index, made.geometries)
    return made.folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A misses sample 1 of each category, B misses 1 and 3."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"name": HOSTILE, "missing": [("cap", 3, "C2")]}
    return scored(folder / "a", cold=(1,), **options), scored(
        folder / "b", report=False, cold=(1, 3), **options
    )


def page_of(path, a, b):
    write_two_runs(path, a, b, compare(read_run(a), read_run(b), Tolerances()))
    return path.read_text()


def test_parts_on_which_the_runs_disagree_come_first_and_the_run_that_is_right_is_named(runs):
    a, b = (Side(folder) for folder in runs)
    pairs = ordered(a, b)
    assert [one.verdicts for one in pairs[:2]] == [("fail", "pass")] * 2
    assert all("_0003_" in one.a.id for one in pairs[:2])
    assert [one.right for one in pairs[2:4]] == [(False, False)] * 2
    assert not any(one.disagree for one in pairs[2:])
    gaps = [one.gap for one in pairs[4:]]
    assert gaps == sorted(gaps, reverse=True)
    assert headline(pairs) == "A and B disagree on 2 of 20 parts: A is right on 2. Both are wrong on 2."
    assert (
        headline(ordered(b, a)) == "A and B disagree on 2 of 20 parts: B is right on 2. Both are wrong on 2."
    )
    assert headline(ordered(a, a)) == "A and B disagree on 0 of 20 parts. Both are wrong on 2."


def test_the_page_shows_both_runs_and_is_whole_by_itself(runs, tmp_path):
    text = page_of(tmp_path / "two.html", *runs)
    assert "8 of 10 defective parts found, 2 missed; 0 of 10 good parts called defective." in text
    assert "6 of 10 defective parts found, 4 missed; 0 of 10 good parts called defective." in text
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(sources) == 2 * (20 * 3 - 1)  # of both runs each view that there is
    assert all(one.startswith("data:image/webp;base64,") for one in sources)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;" in text
    assert text.index("bolt_0003_NG_HS") < text.index("bolt_0001_NG_HS") < text.index("bolt_0000_OK")
    assert "Sample AUROC" in text
    assert "B &minus; A" in text
    cut = Side(runs[0]).cuts["bolt"].threshold
    assert f"bolt {cut:.4g}, best F1 on these labels" in text


def test_pictures_are_of_the_run_that_has_a_report_and_heat_is_of_each_run(runs, tmp_path):
    a, b = runs
    own, other = (
        re.findall(r'src="(data:[^"]+)"', page_of(tmp_path / "two.html", *both)) for both in ((a, b), (b, a))
    )
    assert sorted(own) == sorted(other)
    same = re.findall(r'src="(data:[^"]+)"', page_of(tmp_path / "same.html", a, a))
    assert same[::2] == same[1::2]
    assert own[::2] != own[1::2]


def test_beyond_the_parts_with_pictures_those_on_which_the_runs_disagree_are_named(
    runs, tmp_path, monkeypatch
):
    monkeypatch.setattr(two_runs_page, "MOST", 1)
    text = page_of(tmp_path / "two.html", *runs)
    assert text.count("<article") == 1
    assert "1 more parts on which the runs disagree" in text
    assert "1 of 20 parts are shown" in text


def test_what_cannot_be_shown_is_one_line(runs, tmp_path):
    a, b = runs
    found = compare(read_run(a), read_run(b), Tolerances())
    with pytest.raises(UserError, match=r"--html: neither .* nor .* has a report to take pictures from"):
        write_two_runs(tmp_path / "two.html", b, b, found)
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        write_two_runs(tmp_path, a, b, found)
    damaged = scored(tmp_path / "c", cold=(1,))
    (damaged / "report/samples/3.js").write_text("report.receive(3,{")
    with pytest.raises(
        UserError, match=r"3\.js: not of a whole report .*; write it again by mvead score --from-maps"
    ):
        write_two_runs(
            tmp_path / "two.html", damaged, damaged, compare(*[read_run(damaged)] * 2, Tolerances())
        )
    assert not (tmp_path / "two.html").exists()


def test_without_labels_the_page_says_what_each_run_found_and_nobody_is_right(tmp_path):
    folder = scored(tmp_path / "a", labelled=False)
    a = Side(folder)
    pairs = ordered(a, a)
    assert {one.right for one in pairs} == {(None, None)}
    assert headline(pairs) == "A and B disagree on 0 of 20 parts."
    assert np.isfinite([one.gap for one in pairs]).all()
    text = page_of(tmp_path / "two.html", folder, folder)
    assert text.count("no threshold") == 4
