"""The pages of `mvead compare --html` and `mvead serve` as chromium shows them, at the sizes of a desk and a phone.

Needs chromium, of the path or named by CHROMIUM.
"""

import socket
import threading
from dataclasses import replace

import numpy as np
import pytest
from fake_scores import write_scored

from mvead_jax.comparison.two_runs import Tolerances, compare, read_run
from mvead_jax.decision.decide import decide_by
from mvead_jax.report.page import write_report
from mvead_jax.report.two_runs_page import write_two_runs
from mvead_jax.serving.inspection import Inspection

pytestmark = pytest.mark.browser

SIZES = {"desk": (1280, 800), "phone": (390, 844)}
VIEWS = ("left", "right", "top", "above", "below")
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def visit(open_page):
    """visit(address, size) -> an open page."""
    within = ("file://", "data:", "http://127.0.0.1:")
    return lambda address, size: open_page(address, SIZES[size], within)


def fits(page):
    """Nothing is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def pictures_are_there(page):
    """Whether every picture comes within 20 seconds once it is scrolled to; a policy forbids to wait by a function."""
    came = "[...document.images].every((one) => { one.scrollIntoView(); return one.complete && one.naturalWidth > 0 })"
    return any(page.evaluate(came) or page.wait_for_timeout(100) for _ in range(200))


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A page of two runs of 10 samples of five views, of which B alone misses number 3."""
    folder = tmp_path_factory.mktemp("two")
    made = []
    for name, cold in (("a", (1,)), ("b", (1, 3))):
        options = {"samples": 10, "views": VIEWS, "size": (300, 200), "attention": False, "cold": cold}
        own = write_scored(folder / name, categories=("bolt",), **options)
        write_report(own.folder, own.index, own.geometries)
        made.append(own.folder)
    found = compare(*map(read_run, made), Tolerances())
    write_two_runs(folder / "two.html", *made, found)
    return (folder / "two.html").as_uri()


@pytest.mark.parametrize("size", SIZES)
def test_two_runs_lie_side_by_side_or_above_each_other_and_nothing_is_cut(two_runs, visit, size):
    page = visit(two_runs, size)
    assert fits(page)
    assert pictures_are_there(page)
    assert (
        page.locator(".verdict")
        .text_content()
        .startswith("A and B disagree on 1 of 10 parts: A is right on 1.")
    )
    first = page.locator(".part").first
    assert "bolt_0003_NG_HS" in first.locator("h3").text_content()
    assert first.locator(".chip").all_text_contents()[1].startswith("A: fail")
    of_a, of_b = (first.locator(".twice img").nth(at).bounding_box() for at in (0, 1))
    if size == "desk":
        assert of_a["x"] == of_b["x"]
        assert of_b["y"] >= of_a["y"] + of_a["height"]
        tops = {first.locator(".view").nth(at).bounding_box()["y"] for at in range(len(VIEWS))}
        assert len(tops) == 1  # all views in one row
    else:
        assert of_a["y"] == of_b["y"]
        assert of_b["x"] >= of_a["x"] + of_a["width"]
    table = page.locator(".wide").first
    assert table.evaluate("own => own.scrollWidth <= own.clientWidth")


class Made:
    """An inspector of made-up results: the brighter an image, the higher its score."""

    digest, categories = "made", ("lid",)

    def views(self, category=None):
        return VIEWS

    def inspect(self, images, category=None):
        present = np.array([view in images for view in VIEWS])
        scores = np.where(present, np.arange(len(VIEWS)) + 1.0, np.nan).astype(np.float32)
        maps = np.repeat(scores, 16).reshape(-1, 4, 4)
        maps[:, 1, 2] += 5
        shown = {view: np.full((480, 640, 3), 120, np.uint8) for view in images}
        sizes = dict.fromkeys(images, (640, 480))
        found = Inspection("lid", VIEWS, maps, maps.max((1, 2)), scores, sizes, shown=shown)
        if len(images) == 1:
            return found
        return replace(found, decision=decide_by(VIEWS, maps.max((1, 2)), present, 9.5, basis="user"))


@pytest.fixture(scope="module")
def server():
    """The address of a server on a free port that has scored a defective part, a good one, and one of one view."""
    uvicorn = pytest.importorskip("uvicorn", reason="pip install '.[serve]'")
    pytest.importorskip("fastapi", reason="pip install '.[serve]'")
    import io

    import requests
    from PIL import Image

    from mvead_jax.serving.http.app import application

    content = io.BytesIO()
    Image.new("RGB", (40, 30)).save(content, "PNG")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = uvicorn.Server(uvicorn.Config(application(Made()), log_level="warning", ws="none"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for views, sample in ((VIEWS, HOSTILE), (VIEWS[:4], "part-2 " + "0123456789" * 12), (VIEWS[:1], "")):
            files = {view: (view, content.getvalue()) for view in views}
            requests.post(
                f"{address}/parts", files=files, data={"sample": sample}, timeout=30
            ).raise_for_status()
        yield address
        running.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("size", SIZES)
def test_the_page_of_the_server_shows_the_newest_part_first_and_fits_the_window(server, visit, size):
    page = visit(server, size)
    assert fits(page)
    assert page.locator("h1 + p").text_content() == "1 scored, 1 good, 1 defective; the newest first"
    parts = page.locator("article")
    assert [parts.nth(at).locator("h2").get_attribute("class") for at in range(3)] == [
        "scored",
        "pass",
        "fail",
    ]
    assert parts.nth(2).locator("h2").text_content().startswith(f"{HOSTILE}: defective: ")
    assert [parts.nth(at).locator("img").count() for at in range(3)] == [1, 4, 5]
    before = page.evaluate("document.documentElement.scrollHeight")
    assert pictures_are_there(page)
    assert (
        page.evaluate("document.documentElement.scrollHeight") == before
    )  # a picture moves nothing when it comes
    assert parts.nth(2).locator("figure.most figcaption").text_content() == "below: 5"
    picture = parts.nth(2).locator("img").first
    width, height = (picture.evaluate(f"one => one.{side}") for side in ("clientWidth", "clientHeight"))
    assert width / height == pytest.approx(640 / 480, rel=0.02)


def test_without_a_part_the_page_says_how_one_is_sent_and_nothing_is_refused(visit):
    uvicorn = pytest.importorskip("uvicorn", reason="pip install '.[serve]'")
    import requests

    from mvead_jax.serving.http.app import application

    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = uvicorn.Server(uvicorn.Config(application(Made()), log_level="warning", ws="none"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        page = visit(address, "phone")
        assert page.locator("body > p").text_content() == "No part has come yet. Send one by POST /parts."
        assert (
            "mvead_refused_total{" not in requests.get(f"{address}/metrics", timeout=10).text
        )  # no favicon either
        running.should_exit = True
        thread.join(20)
