"""The report as chromium shows it: opened from disk, without a network.

Needs chromium, of the path or named by CHROMIUM.
"""

import itertools
import json
import re
import time

import numpy as np
import pytest
from fake_scores import GRID, add_decisions, geometry, write_scored

from mvead_jax.data.added import read_labels
from mvead_jax.decision.by_hand import thresholds_of
from mvead_jax.evaluation.score_files import read_samples
from mvead_jax.report import page as report_page
from mvead_jax.report.page import write_report

pytestmark = pytest.mark.browser

DESK, PHONE = (1280, 800), (390, 844)
HOSTILE = ("<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</script><!-- &amp;")
ROWS, COLUMNS = GRID


@pytest.fixture
def visit(open_page):
    """visit(path, size, scheme="light") -> an open page, without a network."""

    def visit(path, size=DESK, scheme="light", address=""):
        page = open_page(path.as_uri() + address, size, color_scheme=scheme, offline=True)
        page.wait_for_selector("#list > li")
        return page

    return visit


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    scored = write_scored(
        tmp_path_factory.mktemp("report"), samples=60, missing=[("cap", 58, "C2")], size=(300, 200)
    )
    views = scored.index.views
    scored.geometries["cap"] = geometry(views, (300, 200), untrusted={(0, 2)})
    return write_report(scored.folder, scored.index, scored.geometries)


def listed(page):
    return page.locator("#list .name > span").all_inner_texts()


def choose(page, name, value):
    page.locator(f"#filters [name={name}]").select_option(value)


def opened(page):
    """The sample that is open when the page is: the first of the list."""
    detail = page.locator("#list > li").first.locator(".detail")
    detail.locator(".frame canvas").first.wait_for()
    return detail


def click_patch(frame, row, column):
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    frame.click(
        position={
            "x": (column + 0.5) / COLUMNS * box["width"],
            "y": (row + 0.5) / ROWS * box["height"],
        }
    )


def test_filters_narrow_the_list_and_say_by_how_much(report, visit):
    page = visit(report)
    count = page.locator("#count")
    assert count.inner_text() == "120 samples."
    choose(page, "category", "1")
    assert count.inner_text() == "60 of 120 samples."
    choose(page, "defect", "HS")
    assert count.inner_text() == "30 of 120 samples."
    choose(page, "outcome", "missed")
    names = listed(page)
    assert 1 <= len(names) < 30
    assert all(re.fullmatch(r"cap_\d+_NG_HS", name) for name in names)
    assert set(page.locator("#list .chip").all_inner_texts()) == {"missed"}
    page.locator("[name=text]").fill("no such name")
    assert page.locator("#list").inner_text() == "No sample fits these filters."
    for name in ("category", "defect", "outcome"):
        choose(page, name, "")
    page.locator("[name=text]").fill("0003 CAP")
    assert listed(page) == ["cap_0003_NG_HS"]


def test_a_row_of_the_table_chooses_its_category_and_charts(report, visit):
    page = visit(report)
    assert page.locator(".charts:visible h2").all_inner_texts() == ["bolt"]
    page.locator(".choose", has_text="cap").first.click()
    assert page.locator(".charts:visible h2").all_inner_texts() == ["cap"]
    assert all(name.startswith("cap") for name in listed(page))
    page.locator(".choose", has_text="cap").first.click()
    assert page.locator("#count").inner_text() == "120 samples."


def test_orders(report, visit):
    page = visit(report)
    outcomes = page.locator("#list .chip").all_inner_texts()
    wrong = sum(word in ("missed", "false alarm") for word in outcomes)
    assert wrong >= 1
    assert set(outcomes[:wrong]) <= {"missed", "false alarm"}

    def scores():
        return [float(text) for text in page.locator("#list .score > span").all_inner_texts()]

    choose(page, "order", "highest")
    assert scores() == sorted(scores(), reverse=True)
    choose(page, "order", "lowest")
    assert scores() == sorted(scores())
    choose(page, "order", "name")
    assert listed(page) == sorted(listed(page))


def slide(page, value):
    """Moves the slider that is shown as a person would, to the nearest of its steps; returns its value."""
    slider = page.locator(".charts:visible .threshold input[type=range]")
    slider.evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', { bubbles: true })); }",
        value,
    )
    return float(page.locator(".charts:visible .threshold input[type=number]").input_value())


def test_the_slider_counts_what_its_threshold_does_and_saves_it(tmp_path, visit):
    scored = write_scored(tmp_path, categories=("bolt", "cap"), samples=40)
    held_out = [50.0 + at / 2 for at in range(19)]
    facts = {"threshold": 55.0, "basis": "held_out", "held_out_scores": held_out}
    add_decisions(scored, facts, ["fail", "pass"] * 40)
    path = scored.folder / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["protocol"]["scores_digest"] = "digest of the model"
    path.write_text(json.dumps(metrics))
    page = visit(write_report(scored.folder, scored.index, scored.geometries))
    page.locator(".choose", has_text="cap").first.click()
    block = page.locator(".charts:visible")
    first, line = block.locator(".cut-line").get_attribute("d"), block.locator(".counts").inner_text()
    value = slide(page, 57.5)
    assert value == pytest.approx(57.5, abs=0.2)
    samples = [one for one in read_samples(scored.folder) if one.category == "cap"]
    failing = {
        label: sum(one.label == label and one.score >= np.float32(value) for one in samples)
        for label in (0, 1)
    }
    assert 0 < failing[1] < 20
    above = sum(score >= np.float32(value) for score in held_out)
    told = block.locator(".counts").inner_text()
    assert told.startswith(
        f"found {failing[1]} of 20, missed {20 - failing[1]}, false alarms {failing[0]} of 20; "
        f"precision {100 * failing[1] / (failing[0] + failing[1]):.1f} %, recall {5 * failing[1]:.1f} %; "
    )
    assert f"a conformal target of {100 * (1 + above) / 20:.1f} %: {above} of 19 held-out" in told
    assert block.locator(".cut-line").get_attribute("d") != first
    choose(page, "outcome", "missed")
    assert page.locator("#count").inner_text() == f"{20 - failing[1]} of 80 samples."
    chips = page.locator("#list .chip").all_inner_texts()
    slide(page, 1e9)  # the end of the slider
    assert len(page.locator("#list .chip").all_inner_texts()) > len(chips)  # the list follows
    slide(page, value)
    with page.expect_download() as download:
        block.locator(".save").click()
    kept = tmp_path / download.value.suggested_filename
    download.value.save_as(kept)
    found = thresholds_of(str(kept), ["bolt", "cap"], "digest of the model")
    assert found["cap"] == float(np.float32(value))
    assert found["bolt"] == float(np.nextafter(np.float32(55), np.float32(np.inf)))  # fails above, as it was
    choose(page, "outcome", "")
    block.locator("button", has_text="Undo").click()
    assert (block.locator(".cut-line").get_attribute("d"), block.locator(".counts").inner_text()) == (
        first,
        line,
    )
    field = block.locator("input[type=number]")
    field.fill("-3")
    assert "found 20 of 20, missed 0, false alarms 20 of 20" in block.locator(".counts").inner_text()


def test_the_slider_lies_under_the_scores_of_the_histogram(report, visit):
    """The middle of its thumb is where the line of the threshold stands."""
    for size in (DESK, PHONE):
        page = visit(report, size)
        slide(page, 55)
        slider = page.locator(".charts:visible .threshold input[type=range]")
        low, high, value = (float(slider.evaluate(f"one => one.{name}")) for name in ("min", "max", "value"))
        box, line = slider.bounding_box(), page.locator(".charts:visible .cut-line").bounding_box()
        thumb = box["x"] + 8 + (value - low) / (high - low) * (box["width"] - 16)
        assert thumb == pytest.approx(line["x"] + line["width"] / 2, abs=1.5)


def test_more_rows_come_as_the_end_comes_near(report, visit):
    page = visit(report)
    before = page.locator("#list > li").count()
    assert before < 120
    for _ in range(20):
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(50)
        if page.locator("#list > li").count() == 120:
            break
    assert page.locator("#list > li").count() == 120
    assert len(set(listed(page))) == 120


def test_an_opened_sample_shows_its_views_with_heat_and_outline(report, visit):
    page = visit(report)
    page.locator("[name=text]").fill("cap_0059")  # a hot patch, and a mask there
    page.locator(".row").click()
    detail = opened(page)
    assert detail.locator(".frame").count() == 3
    for at in range(3):
        image = detail.locator(".frame img").nth(at)
        page.wait_for_function("image => image.naturalWidth === 300", arg=image.element_handle())
        assert image.get_attribute("alt") == f"C{at + 1} of cap_0059_NG_HS"
    heat = detail.locator("canvas.heat").first.evaluate(
        "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)"
    )
    opacity = heat[3::4]
    assert len(opacity) == ROWS * COLUMNS
    assert opacity.index(max(opacity)) == 1 * COLUMNS + 2
    assert max(opacity) > 100
    assert sorted(opacity)[ROWS * COLUMNS // 2] == 0  # heat begins at nine tenths
    assert detail.locator("path.outline").count() == 2
    for name in ("heat", "outline"):
        shown = detail.locator(f".{name}").first
        assert shown.is_visible()
        page.locator(f"[name={name}]").uncheck()
        assert not shown.is_visible()
    legend = detail.locator(".legend").inner_text()
    low, high = (float(text) for text in detail.locator(".legend .figure").all_inner_texts())
    assert low < high
    assert "one scale for all of cap." in legend
    scores = [float(text) for text in detail.locator("figcaption .figure").all_inner_texts()]
    widths = [
        fill.bounding_box()["width"] if fill.is_visible() else 0 for fill in detail.locator(".fill").all()
    ]
    assert scores.index(max(scores)) == widths.index(max(widths)) == 0
    page.locator(".row").click()
    assert not detail.is_visible()


def canvas_of(detail, at=0):
    return (
        detail.locator("canvas.heat")
        .nth(at)
        .evaluate(
            "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)"
        )[3::4]
    )


def test_heat_has_the_scale_of_the_category_or_that_of_the_sample(report, visit):
    page = visit(report)
    detail = opened(page)  # a missed part: none of its patches is hot
    before = canvas_of(detail)
    assert max(before) < 100
    choose(page, "scale", "own")
    opacity = [value for at in range(3) for value in canvas_of(detail, at)]
    assert max(opacity) == 191  # its highest patch is full, whatever others have
    assert sum(value > 0 for value in opacity) == pytest.approx(len(opacity) / 2, abs=2)
    assert "a scale of its own" in detail.locator(".legend").inner_text()
    choose(page, "scale", "category")
    assert canvas_of(detail) == before


def test_the_contour_goes_around_the_patches_that_fail_and_follows_the_slider(report, visit):
    page = visit(report)
    page.locator(".choose", has_text="cap").first.click()
    page.locator("[name=text]").fill("cap_0059")
    page.locator(".row").click()
    detail = opened(page)
    paths = detail.locator("path.contour")
    assert paths.count() == 2  # a line and what makes it legible, in the one view that fails
    x, y = 2 * 1000 / COLUMNS, 1 * 1000 / ROWS  # the corner of the hot patch
    edges = re.findall(r"M([\d.]+) ([\d.]+)([hv])", paths.last.get_attribute("d"))
    assert len(edges) == 4
    assert min(float(edge[0]) for edge in edges) == pytest.approx(x)
    assert min(float(edge[1]) for edge in edges) == pytest.approx(y)
    page.locator("[name=contour]").uncheck()
    assert not paths.last.is_visible()
    slide(page, 1e9)
    assert "found 1 of 30" in page.locator(".charts:visible .counts").inner_text()
    page.locator(".charts:visible input[type=number]").fill("1000")
    assert paths.count() == 0
    page.locator(".charts:visible input[type=number]").fill("0")
    assert paths.count() == 6  # now all patches of all views fail


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_a_view_is_enlarged_to_its_original_size(tmp_path, visit, size, monkeypatch):
    monkeypatch.setattr(report_page, "MOST_FULL", 1)
    scored = write_scored(tmp_path, categories=("cap",), size=(900, 600))
    page = visit(write_report(scored.folder, scored.index, scored.geometries), size)
    detail = opened(page)
    detail.locator(".enlarge").first.click()
    zoom = page.locator("#zoom")
    image = zoom.locator("img")
    page.wait_for_function("image => image.naturalWidth === 900", arg=image.element_handle())
    assert image.bounding_box()["width"] == pytest.approx(900)
    assert zoom.locator("canvas").bounding_box()["height"] == pytest.approx(600)
    assert zoom.locator(".bar-of-zoom").inner_text().startswith("C1 of cap_0001_NG_HS")
    zoom.locator("button", has_text="Fit").click()
    shown, room = image.bounding_box(), zoom.locator(".scroller").bounding_box()
    assert shown["width"] <= room["width"] + 1
    assert shown["height"] <= room["height"] + 1
    page.keyboard.press("Escape")
    assert not zoom.is_visible()
    page.locator(".row").nth(1).click()
    detail = page.locator(".detail:visible").nth(1)
    detail.locator(".enlarge").first.click()
    assert "this page holds a copy of 320 × 213" in zoom.inner_text()


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_a_gallery_has_the_samples_of_the_filters(report, visit, size):
    page = visit(report, size)
    choose(page, "outcome", "found")
    count = page.locator("#list > li").count()
    choose(page, "show", "gallery")
    tiles = [one.bounding_box() for one in page.locator("#list > li").all()[:4]]
    assert page.locator("#list > li").count() == count
    assert tiles[0]["y"] == tiles[1]["y"]  # beside each other
    assert tiles[1]["x"] > tiles[0]["x"] + 100
    thumb = page.locator("#list .thumb").first.bounding_box()
    assert thumb["width"] == pytest.approx(tiles[0]["width"], abs=3)
    page.locator("#list .row").nth(1).click()
    wide = page.locator("#list > li").nth(1).bounding_box()
    assert wide["width"] == pytest.approx(page.locator("#list").bounding_box()["width"], abs=1)
    choose(page, "defect", "HS")
    assert page.locator("#list.gallery > li").count() > 1


def test_a_phone_shows_charts_below_each_other_and_keeps_the_first_column(report, visit):
    page = visit(report, PHONE)
    boxes = [one.bounding_box() for one in page.locator(".charts:visible .chart").all()]
    assert len(boxes) == 3
    for one, other in itertools.pairwise(boxes):
        assert other["y"] >= one["y"] + one["height"]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= PHONE[0] for box in boxes)
    table = page.locator(".table")
    name = page.locator(".table .choose").first
    before = name.bounding_box()["x"]
    table.evaluate("table => { table.scrollLeft = 1000; }")
    assert table.evaluate("table => table.scrollLeft") > 20
    assert name.bounding_box()["x"] == pytest.approx(before, abs=1)
    last = page.locator(".table > table thead th").last.bounding_box()
    assert last["x"] + last["width"] <= PHONE[0]  # all of it can be reached
    verdict = page.locator(".verdict").bounding_box()
    assert verdict["y"] + verdict["height"] < page.locator(".table").bounding_box()["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


def test_a_missing_view_is_a_place_without_a_picture(report, visit):
    page = visit(report)
    page.locator("[name=text]").fill("cap_0058")
    page.locator(".row").click()
    detail = page.locator(".detail")
    detail.locator("canvas.heat").first.wait_for()
    assert [one.inner_text() for one in detail.locator("figcaption strong").all()] == ["C1", "C2", "C3"]
    assert detail.locator(".missing").inner_text() == "no picture"
    click_patch(detail.locator(".frame").first, 1, 2)
    assert detail.locator("line.epipolar").count() == 0  # C1 and C3 have no trusted geometry
    assert "No line in C3: no trusted geometry." in detail.locator(".told").inner_text()


def test_labels_are_given_taken_back_and_downloaded(tmp_path, visit):
    scored = write_scored(tmp_path, categories=("cap",), name="&<b>{number}_{kind}")
    page = visit(write_report(scored.folder, scored.index, scored.geometries))
    keep = page.locator("#labels")
    assert not keep.is_visible()
    page.locator("#list .row").nth(1).click()
    first, second = (page.locator("#list > li").nth(at) for at in range(2))
    first.locator(".labelling button", has_text="Good").click()
    second.locator(".labelling button", has_text="Defective").click()
    assert keep.inner_text() == "Download 2 labels"
    assert "you: good" in first.locator(".chips").inner_text()
    names = listed(page)
    with page.expect_download() as download:
        keep.click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "labels.json"
    assert read_labels(path) == [("test split", "cap", names[0])]
    assert {one["sample"]: one["label"] for one in json.loads(path.read_text())["samples"]} == {
        names[0]: "good",
        names[1]: "defective",
    }
    second.locator(".labelling button", has_text="Defective").click()
    assert keep.inner_text() == "Download 1 label"
    assert second.locator(".chip.given").count() == 0


def test_what_is_ignored_is_drawn_over_its_view_and_named(tmp_path, visit):
    scored = write_scored(tmp_path, categories=("cap",))
    mask = np.zeros((40, 60), bool)
    mask[:, :30] = True
    page = visit(write_report(scored.folder, scored.index, {}, ignored={"cap": {"C2": mask}}))
    detail = opened(page)
    assert detail.locator("path.ignored").count() == 1
    frame, drawn = (detail.locator(one) for one in (".frame >> nth=1", "path.ignored"))
    whole, part = frame.bounding_box(), drawn.bounding_box()
    assert part["x"] == pytest.approx(whole["x"], abs=3)
    assert part["width"] == pytest.approx(whole["width"] / 2, abs=6)
    assert part["height"] == pytest.approx(whole["height"], abs=6)
    assert "Grey: ignored, it never counts." in detail.locator(".legend").inner_text()


def test_a_patch_shows_its_lines_and_what_it_attended_to(report, visit):
    page = visit(report)
    choose(page, "category", "0")
    choose(page, "outcome", "missed")
    page.locator(".row").first.click()
    detail = opened(page)
    frames = detail.locator(".frame")
    click_patch(frames.nth(0), 2, 4)
    lines = detail.locator("line.epipolar")
    assert lines.count() == 2
    for line in lines.all():  # the views are rectified: the line runs along the patch's row
        ends = [float(line.get_attribute(name)) for name in ("x1", "y1", "x2", "y2")]
        assert ends == pytest.approx([0, 625, 1000, 625], abs=0.2)
    assert frames.nth(0).locator("rect.chosen").count() == 1
    for view, share in ((1, 0.5), (2, 0.25)):
        box = frames.nth(view).locator("rect.attended")
        assert float(box.get_attribute("x")) == pytest.approx(4 * 1000 / COLUMNS, abs=0.2)
        assert float(box.get_attribute("y")) == pytest.approx(2 * 1000 / ROWS, abs=0.2)
        opacity = float(box.evaluate("box => getComputedStyle(box).fillOpacity"))
        assert opacity == pytest.approx(min(0.9, 0.15 + 3 * share))
    told = detail.locator(".told").inner_text()
    assert told.startswith("C1, row 3, column 5: patch score ")
    assert "Its 2 most attended patches hold 75 % of its attention (C2 50 %, C3 25 %)" in told
    click_patch(frames.nth(1), 0, 0)
    assert detail.locator("rect.chosen").count() == 1
    assert detail.locator(".told").inner_text().startswith("C2, row 1, column 1: ")


def test_a_sample_whose_attention_was_not_kept_says_so(report, visit):
    page = visit(report)
    page.locator("[name=text]").fill("bolt_0030")
    page.locator(".row").click()
    detail = opened(page)
    click_patch(detail.locator(".frame").first, 0, 0)
    assert "What it attended to was not kept for this sample." in detail.locator(".told").inner_text()
    assert detail.locator("line.epipolar").count() == 2
    assert detail.locator("rect.attended").count() == 0


def test_everything_works_by_keys(report, visit):
    page = visit(report)
    page.locator("[name=contour]").focus()
    page.keyboard.press("Tab")
    first = page.locator("#list > li").first.locator(".row")
    assert first.evaluate("row => row === document.activeElement")
    assert first.evaluate("row => parseFloat(getComputedStyle(row).outlineWidth)") >= 2
    assert first.get_attribute("aria-expanded") == "true"
    page.keyboard.press("Tab")  # into the opened sample
    detail = opened(page)
    frame = detail.locator(".frame").first
    assert frame.evaluate("frame => frame === document.activeElement")
    assert frame.evaluate("frame => parseFloat(getComputedStyle(frame).outlineWidth)") >= 2
    told = detail.locator(".told")
    page.keyboard.press("Enter")  # the patch of the highest score
    row, column = map(int, re.search(r"row (\d+), column (\d+)", told.inner_text()).groups())
    page.keyboard.press("ArrowLeft" if column > 1 else "ArrowRight")
    page.keyboard.press("ArrowUp" if row > 1 else "ArrowDown")
    moved = (row - 1 if row > 1 else 2, column - 1 if column > 1 else 2)
    assert told.inner_text().startswith(f"C1, row {moved[0]}, column {moved[1]}: ")
    page.keyboard.press("Escape")
    assert detail.locator(".choice").count() == 0
    first.focus()
    page.keyboard.press("Enter")
    assert not detail.is_visible()
    page.keyboard.press("ArrowDown")
    second = page.locator("#list > li").nth(1).locator(".row")
    assert second.evaluate("row => row === document.activeElement")
    page.keyboard.press("Space")
    assert second.get_attribute("aria-expanded") == "true"


def test_an_address_opens_a_sample(report, visit):
    page = visit(report, address="#sample-77")
    detail = page.locator("#sample-77 .detail")
    detail.locator("canvas.heat").first.wait_for()
    assert page.locator("#sample-77 .row").get_attribute("aria-expanded") == "true"


def test_hostile_names_do_nothing(tmp_path, visit):
    scored = write_scored(
        tmp_path / "a place with spaces & <b>",
        categories=("&<b>bold",),
        views=HOSTILE,
        samples=4,
        name='{number}"><script>alert(2)</script>_{kind}',
    )
    page = visit(write_report(scored.folder, scored.index, scored.geometries))
    detail = opened(page)
    click_patch(detail.locator(".frame").first, 0, 0)
    assert detail.locator("figcaption strong").all_inner_texts() == sorted(HOSTILE)
    assert page.locator("img[src=x], b").count() == 0
    assert all("<script>alert(2)</script>" in name for name in listed(page))


def test_without_labels_there_is_no_outcome_to_choose(tmp_path, visit):
    scored = write_scored(tmp_path, labelled=False, attention=False)
    page = visit(write_report(scored.folder, scored.index, {}))
    assert page.locator("[name=outcome]").count() == 0
    detail = opened(page)
    assert detail.locator(".told").inner_text() == ""  # without lines there is no patch to choose
    click_patch(detail.locator(".frame").first, 0, 0)
    assert detail.locator(".choice").count() == 0
    assert page.locator("#zoom").is_visible()
    assert (
        page.locator(".verdict").inner_text().startswith("No threshold is known, so nothing passes or fails")
    )


def test_decisions_are_shown_with_their_reason(tmp_path, visit):
    scored = write_scored(tmp_path, categories=("cap",), missing=[("cap", 3, "C2")])
    add_decisions(scored, {"threshold": 55.0, "basis": "held_out"}, ["fail", "pass", "undecided"] * 2)
    page = visit(write_report(scored.folder, scored.index, scored.geometries))
    choose(page, "decision", "fail")
    assert listed(page) == ["cap_0000_OK", "cap_0003_NG_HS"]
    assert page.locator("#list .chip").all_inner_texts() == ["false alarm", "found"]
    page.locator(".row").first.click()
    detail = opened(page)
    assert detail.locator(".reason").inner_text() == "Defective: C3, 2.1 x"
    assert detail.locator(".view .p").all_inner_texts() == ["p = 0.500"] * 3
    told = page.locator("#list .score small").all_inner_texts()
    assert re.fullmatch(r"[01]\.\d\d × threshold, p = 0.020", told[0])
    assert told[1] == "p = 0.020"  # without a view the threshold is another one
    choose(page, "decision", "undecided")
    assert page.locator("#list .chip").all_inner_texts() == ["undecided"] * 2


LEGIBLE = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = channels(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return channels(getComputedStyle(document.documentElement).backgroundColor);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest("script, noscript, option, .unseen")) continue;
    const style = getComputedStyle(element);
    const scale = element.closest("svg") ? element.getScreenCTM().a : 1;
    const turned = element.closest("svg") && scale === 0 ? element.getScreenCTM().b : scale;
    const size = parseFloat(style.fontSize) * (Math.abs(turned) || Math.abs(element.getScreenCTM().b));
    const own = luminance(channels(element.closest("svg") ? style.fill : style.color));
    const back = luminance(behind(element.closest("svg") || element));
    const contrast = (Math.max(own, back) + 0.05) / (Math.min(own, back) + 0.05);
    found.push({ text: text.slice(0, 40), size, contrast });
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_text_is_legible_and_nothing_runs_out_of_the_page(report, visit, size, scheme):
    page = visit(report, size, scheme)
    click_patch(opened(page).locator(".frame").first, 1, 1)
    for _ in range(2):
        texts = page.evaluate(LEGIBLE)
        assert len(texts) > 100
        assert not [one for one in texts if one["size"] < 11.99]
        assert not [one for one in texts if one["contrast"] < 4.5]
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        page.locator("summary").click()  # and once more with all metrics shown


def test_sixteen_views_and_one_fit_a_phone(tmp_path, visit):
    for views in (("top",), tuple(f"C{n}" for n in range(1, 17))):
        scored = write_scored(tmp_path / str(len(views)), views=views, samples=4)
        page = visit(write_report(scored.folder, scored.index, scored.geometries), PHONE)
        assert opened(page).locator(".frame").count() == len(views)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


def test_a_thousand_samples_are_there_soon(tmp_path, visit):
    scored = write_scored(tmp_path, samples=500, views=("C1", "C2", "C3", "C4", "C5"))
    path = write_report(scored.folder, scored.index, scored.geometries)
    assert path.stat().st_size < 1_000_000
    begin = time.monotonic()
    page = visit(path)
    opened(page)
    assert time.monotonic() - begin < 5  # about one when nothing else runs
    assert page.locator("#count").inner_text() == "1000 samples."
    begin = time.monotonic()
    choose(page, "order", "lowest")
    page.locator("[name=text]").fill("bolt")
    assert page.locator("#count").inner_text() == "500 of 1000 samples."
    assert time.monotonic() - begin < 2
