import base64
import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_scores import GRID, add_decisions, geometry, write_scored
from PIL import Image

from mvead_jax.data.records import build_index
from mvead_jax.evaluation.score_files import read_maps
from mvead_jax.report import page as report_page
from mvead_jax.report.page import remove_report, script_json, write_report
from mvead_jax.runtime.errors import UserError

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</script><!-- &amp;",
    "a\u2028b{{ 7 * 7 }}",
)


class Page(HTMLParser):
    """tags: [(name, attributes)]. text: what a reader sees. scripts: the content of script elements."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.scripts, self._inside = [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        (self.scripts if self._inside else self.words).append(data)

    @property
    def data(self):
        return json.loads(self.scripts[0])


def written(scored, **options):
    return Page(write_report(scored.folder, scored.index, scored.geometries, **options).read_text())


def sample_file(scored, number):
    text = (scored.folder / f"report/samples/{number}.js").read_text()
    found = re.fullmatch(rf"report\.receive\({number},(.*)\);\n", text)
    return json.loads(found[1])


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    return write_scored(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="module")
def page(scored):
    return written(scored)


def test_the_table_says_what_metrics_json_says(scored, page):
    metrics = json.loads((scored.folder / "metrics.json").read_text())
    for name in ("bolt", "cap"):
        own = metrics["categories"][name]["sample"]
        low, high = own["interval"]["auroc"]
        assert name in page.text
        assert f"{100 * own['auroc']:.1f} {100 * low:.0f}–{100 * high:.0f}" in page.text
    for key, value in metrics["protocol"].items():
        assert f"{key.replace('_', ' ')} {'none' if value is None else value}" in page.text


def test_every_sample_is_listed_once_with_its_score_and_its_outcome(scored, page):
    samples = {line["n"]: line for line in page.data["samples"]}
    assert sorted(samples) == list(range(12))
    with (scored.folder / "samples.csv").open(newline="") as file:
        for number, line in enumerate(csv.DictReader(file)):
            own = samples[number]
            category = page.data["categories"][own["category"]]
            assert (category["name"], own["id"]) == (line["category"], line["sample"])
            assert own["score"] == pytest.approx(float(line["score"]), rel=1e-5)
            assert category["views"][own["worst"]] == line["worst_view"]
            called = float(line["score"]) >= category["threshold"]
            words = {(1, 1): "found", (1, 0): "missed", (0, 1): "false alarm", (0, 0): "passed"}
            assert own["outcome"] == words[int(line["label"]), called]
            assert own.get("defect", "") == ("HS" if line["label"] == "1" else "")


def test_misses_and_false_alarms_come_before_all_others(page):
    outcomes = [line["outcome"] for line in page.data["samples"]]
    wrong = sum(outcome in ("missed", "false alarm") for outcome in outcomes)
    assert wrong >= 1
    assert all(outcome in ("missed", "false alarm") for outcome in outcomes[:wrong])


def test_a_sample_file_holds_the_maps_bit_by_bit_and_what_was_attended_to(scored, page):
    maps = read_maps(scored.folder, "bolt")
    own = sample_file(scored, 1)
    for view in own["views"]:
        found = np.frombuffer(base64.b64decode(view["map"]), "<f2").reshape(GRID)
        np.testing.assert_array_equal(found, maps[3 + view["view"]])
    with np.load(scored.folder / "attended/bolt.npz") as kept:
        samples = kept["samples"].tolist()
    listed = [line for line in page.data["samples"] if line["category"] == 0]
    assert 1 <= len(samples) < 6
    for line in listed:
        content = sample_file(scored, line["n"])
        assert ("attended" in content) == (line["id"] in samples)
    content = sample_file(scored, next(line["n"] for line in listed if line["id"] in samples))
    assert content["attended"]["top"] == 2
    assert content["attended"]["patches"][:4] == [24, 48, 25, 49]  # of patches 0 and 1 of the first view
    weights = np.frombuffer(base64.b64decode(content["attended"]["weights"]), "<f2")
    assert weights[:4].tolist() == [0.5, 0.25, 0.5, 0.25]


def test_the_outline_lies_where_the_mask_does(scored, page):
    path = sample_file(scored, 1)["views"][0]["outline"]
    numbers = np.array(re.findall(r"\d+", path), int).reshape(-1, 2)
    x, y = numbers.T / 1000
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((2 / 6, 3 / 6, 1 / 4, 2 / 4), abs=0.01)
    assert sample_file(scored, 0)["views"][0]["outline"] == ""


def test_pictures_are_small_copies_and_named_by_numbers(scored, page):
    place = scored.folder / "report"
    names = {path.relative_to(place).as_posix() for path in place.rglob("*.webp")}
    assert {f"pictures/{n}/{v}.webp" for n in range(12) for v in range(3)} == names
    with Image.open(place / "pictures/0/0.webp") as image:
        assert image.size == (60, 40)


def test_the_same_folder_gives_the_same_bytes(scored, page):
    before = {path: path.read_bytes() for path in (scored.folder / "report").rglob("*") if path.is_file()}
    written(scored)
    assert before == {path: path.read_bytes() for path in before}


def test_lines_are_drawn_of_trusted_pairs_only(scored, tmp_path):
    scored.geometries["cap"] = geometry(("C1", "C2", "C3"), (60, 40), untrusted={(0, 2)})
    data = written(scored).data
    lines = {one["name"]: one["lines"] for one in data["categories"]}
    assert lines["cap"]["untrusted"] == ["0 2", "2 0"]
    assert sorted(lines["cap"]["F"]) == ["0 1", "1 0", "1 2", "2 1"]
    assert len(lines["bolt"]["F"]) == 6
    # A point at a third of the height has its line there, in either direction.
    for key in ("0 1", "1 0"):
        a, b, c = np.array([0.7, 1 / 3, 1]) @ np.array(lines["cap"]["F"][key]).reshape(3, 3)
        assert a == pytest.approx(0)
        assert -c / b == pytest.approx(1 / 3)


def test_names_are_inert_wherever_they_stand(tmp_path):
    scored = write_scored(
        tmp_path,
        categories=("&<b>bold",),
        views=HOSTILE,
        samples=4,
        name='{number}"><script>alert(2)</script>\u2028_{kind}',
    )
    text = write_report(scored.folder, scored.index, scored.geometries).read_text()
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"b", "img"}
    assert [attrs.get("src") for tag, attrs in page.tags if tag == "script"] == [
        None,
        "common.js",
        "threshold.js",
        "sample.js",
        "labels.js",
        "zoom.js",
        "list.js",
    ]
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "\u2028" not in text
    assert page.data["categories"][0]["views"] == sorted(HOSTILE, key=report_page.natural_key)
    assert "&<b>bold" in page.text
    assert any("<script>alert(2)</script>\u2028" in line["id"] for line in page.data["samples"])
    for path in (scored.folder / "report/samples").iterdir():
        assert re.fullmatch(r"\d+\.js", path.name)
        assert not set("<>&\u2028") & set(path.read_text())


def test_json_in_a_script_is_inert_and_reads_back():
    value = {"a": ["</script>", "<!--", "&lt;", "\u2028\u2029", "\\u003c"]}
    text = script_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_without_labels_there_are_scores_and_no_curves(tmp_path):
    scored = write_scored(tmp_path, labelled=False)
    page = written(scored)
    assert "No labels are known" in page.text
    assert "Category Samples Highest score" in page.text
    assert "Sample AUROC" not in page.text
    scores = [line["score"] for line in page.data["samples"] if line["category"] == 0]
    assert scores == sorted(scores, reverse=True)
    assert not any("outcome" in line for line in page.data["samples"])
    assert all(one["threshold"] is None for one in page.data["categories"])
    assert not any(attrs.get("class", "").startswith("curve") for _, attrs in page.tags)


def test_new_pictures_have_the_heat_scale_of_the_test_split(scored, tmp_path):
    new = write_scored(tmp_path, labelled=False, samples=2)
    usual = {one["name"]: one["heat"] for one in written(scored).data["categories"]}
    for one in written(new, usual=scored.folder).data["categories"]:
        assert one["heat"] == usual[one["name"]]
        assert one["heat_of"] == "the test split"
    assert written(new).data["categories"][0]["heat_of"] == "these samples"


def test_missing_views_one_view_and_sixteen(tmp_path):
    scored = write_scored(tmp_path / "a", missing=[("cap", 1, "C1"), ("cap", 2, "C3")])
    data = written(scored).data
    cap = {line["n"]: line for line in data["samples"] if line["category"] == 1}
    assert [view[0] for view in cap[7]["views"]] == [1, 2]
    assert [view["view"] for view in sample_file(scored, 8)["views"]] == [0, 1]
    one = write_scored(tmp_path / "b", views=("top",), attention=False)
    one.geometries = {}
    data = written(one).data
    assert data["categories"][0]["lines"] == {"F": {}, "untrusted": []}
    assert not data["categories"][0]["attention"]
    many = write_scored(tmp_path / "c", views=tuple(f"C{n}" for n in range(1, 17)), samples=4)
    data = written(many).data
    assert data["categories"][0]["views"][9] == "C10"
    assert len(data["categories"][0]["lines"]["F"]) == 240


def test_decisions_of_a_calibrated_run_are_told(tmp_path):
    scored = write_scored(tmp_path, categories=("cap",), samples=6)
    facts = {"threshold": 55.0, "basis": "held_out"}
    facts["false_alarms"] = {"rate": 0.5, "count": 1, "of": 2, "interval": [0.01, 0.99]}
    facts["detections"] = {"rate": None, "count": 0, "of": 0, "interval": [0.0, 1.0]}
    add_decisions(scored, facts, ["fail", "pass", "undecided"] * 2)
    page = written(scored)
    assert "Decision false alarms Decision found" in page.text
    assert "50.0 1–99 - " in page.text
    category = page.data["categories"][0]
    assert (category["threshold"], category["basis"]) == (55.0, "held_out")
    assert "Outcomes follow the decisions" in page.text
    samples = {line["n"]: line for line in page.data["samples"]}
    assert [samples[n]["decision"] for n in range(3)] == ["fail", "pass", "undecided"]
    outcomes = [samples[n].get("outcome") for n in range(6)]
    assert outcomes == [
        "false alarm",
        "missed",
        None,
        "found",
        "passed",
        None,
    ]  # normal and defective in turn
    assert samples[0]["p"] == 0.02
    assert samples[0]["reason"] == "C3, 2.1 x"
    assert samples[0]["views"][1][3] == 0.5


def test_a_threshold_from_test_labels_is_not_called_calibrated(tmp_path):
    scored = write_scored(tmp_path, categories=("cap",), samples=6)
    add_decisions(scored, {"threshold": 55.0, "basis": "test_labels"}, ["fail", "pass"] * 3)
    page = written(scored)
    assert page.data["categories"][0]["basis"] == "test_labels"
    assert "which these labels chose" in page.text


def test_beyond_the_most_samples_pictures_are_left_out_and_lines_stay(scored, monkeypatch):
    monkeypatch.setattr(report_page, "MOST_PICTURED", 3)
    data = written(scored).data
    assert [line["pictured"] for line in data["samples"]] == [True] * 3 + [False] * 9
    kept = {line["n"] for line in data["samples"][:3]}
    assert {int(path.stem) for path in (scored.folder / "report/samples").iterdir()} == kept


def test_another_data_set_is_said(scored):
    other = build_index(scored.index.root, scored.index.samples[1:])
    with pytest.raises(UserError, match="has no sample bolt_0000_OK of bolt, which was scored"):
        write_report(scored.folder, other, {})


def test_lists_that_do_not_fit_are_said(tmp_path):
    scored = write_scored(tmp_path)
    path = scored.folder / "samples.csv"
    path.write_text(path.read_text().replace("bolt_0001", "bolt_0009"))
    with pytest.raises(UserError, match="samples.csv: bolt_0009_NG_HS is not that of images.csv"):
        write_report(scored.folder, scored.index, {})
    path.unlink()
    with pytest.raises(UserError, match="samples.csv: no such file; run mvead score"):
        write_report(scored.folder, scored.index, {})


def test_removing_a_report_leaves_the_files_of_others(tmp_path):
    scored = write_scored(tmp_path)
    place = write_report(scored.folder, scored.index, {}).parent
    (place / "mine.txt").write_text("")
    remove_report(place)
    assert [path.name for path in place.iterdir()] == ["mine.txt"]
    (place / "mine.txt").unlink()
    remove_report(place)
    assert not place.exists()
