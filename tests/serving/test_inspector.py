"""One part at a time: the same scores as score.py, and what is said of images that do not fit."""

import csv
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fake_realiad import write_cameras, write_realiad
from PIL import Image

from mvead_jax import Inspector
from mvead_jax.bank.config import BankScoreConfig
from mvead_jax.config.io import config_of
from mvead_jax.config.schema import BackboneConfig, DataConfig, DecisionConfig, EvalConfig, GeometryConfig
from mvead_jax.evaluation.score_files import read_images, read_samples
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.methods.mvead.config import PretrainConfig
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.runtime.errors import UserError

# 36 patches: with fewer than 32 the shape of a batch shows in the last bit of a distance.
SIZE = 96
ROOT = Path(__file__).parents[2]
KINDS = {
    "patchcore": {},
    "mvead": {
        "train": PretrainConfig(epochs=1, centers=2),
        "geometry": GeometryConfig(cameras="cameras.json"),
        "score": BankScoreConfig(evidence="epipolar"),
    },
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = write_realiad(tmp_path_factory.mktemp("data"), categories=("bolt", "cap"), size=40, train=6)
    write_cameras(folder, 40, bolt=range(5))
    return folder


@pytest.fixture(scope="module", params=KINDS)
def run(request, root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / request.param
    config = config_of(
        request.param,
        data=DataConfig(root=str(root), image_size=SIZE, categories=("bolt",)),
        backbone=BackboneConfig(name="efficientnet-lite0", batch_size=5),
        decision=DecisionConfig(held_out=0.5, false_alarms=0.4),
        eval=EvalConfig(bootstrap=0),
        **KINDS[request.param],
    )
    train(config, workdir)
    score(workdir, report=False)
    return workdir


@pytest.fixture(scope="module")
def two(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "two"
    data = DataConfig(root=str(root), image_size=SIZE)
    train(
        PatchCoreConfig(
            setting="multi",
            data=data,
            backbone=BackboneConfig(name="efficientnet-lite0", weights="random", batch_size=5),
        ),
        workdir,
    )
    return workdir


def pictures_of(run, root):
    """Sample -> view -> (path, score that score.py wrote)."""
    found = {}
    for line in read_images(run / "scores"):
        found.setdefault(line.sample, {})[line.view] = (root / line.image, line.score)
    return found


def arrays(count, size=40):
    return [np.full((size, size, 3), 40 * number, np.uint8) for number in range(count)]


def test_scores_are_those_of_score_py_bit_by_bit_whatever_the_form_of_the_pictures(run, root):
    inspector = Inspector.load(run)
    with (run / "scores/samples.csv").open(newline="") as file:
        worst = {line["sample"]: line for line in csv.DictReader(file)}
    for sample, views in pictures_of(run, root).items():
        paths = {view: path for view, (path, _) in views.items()}
        opened = {}
        for view, path in paths.items():
            with Image.open(path) as image:
                opened[view] = image.copy()
        forms = [
            dict(reversed(paths.items())),
            [str(paths[view]) for view in inspector.views()],
            opened,
            {view: np.asarray(image) for view, image in opened.items()},
        ]
        for form in forms:
            found = inspector.inspect(form)
            assert {view: np.float32(own) for view, own in found.scores.items()} == {
                view: own for view, (_, own) in views.items()
            }
            assert found.worst_view == worst[sample]["worst_view"]
            assert np.float32(found.score) == np.float32(worst[sample]["score"])
            assert found.decision.decision == worst[sample]["decision"]
            assert found.decision.p_value == float(worst[sample]["p_value"])
            assert found.decision.reason().startswith(worst[sample]["reason"])
            assert found.text.startswith({"pass": "good: ", "fail": "defective: "}[worst[sample]["decision"]])


def test_a_missing_view_is_left_out_as_score_py_leaves_it_out(run, root, tmp_path):
    views = next(iter(pictures_of(run, root).values()))
    for view, (path, _) in views.items():
        if view != "C2":
            (tmp_path / "new").mkdir(exist_ok=True)
            (tmp_path / "new" / path.name).write_bytes(path.read_bytes())
    score(run, tmp_path / "scores", images=tmp_path / "new", report=False)
    expected = {line.view: line.score for line in read_images(tmp_path / "scores")}
    (decided,) = read_samples(tmp_path / "scores")
    inspector = Inspector.load(run)
    given = {view: path for view, (path, _) in views.items()}
    for form in ({**given, "C2": None}, {view: path for view, path in given.items() if view != "C2"}):
        found = inspector.inspect(form)
        assert {view: np.float32(own) for view, own in found.scores.items()} == expected
        assert found.missing == ("C2",)
        assert (found.decision.decision, found.decision.p_value) == (decided.decision, decided.p_value)
        assert np.isnan(found.map_of("C2")).all()
        assert "without C2" in found.text
    with pytest.raises(UserError, match="view C2: the sample has none"):
        found.pixel_map("C2")


def test_the_place_is_where_the_defect_was_drawn_in_pixels_of_each_picture(two, root, tmp_path):
    """Images of different size, one stored on its side: the box is in the upright image."""
    inspector = Inspector.load(two, category="cap")
    given = dict(zip(inspector.views("cap"), arrays(5), strict=True))
    tall = np.full((120, 60, 3), 90, np.uint8)
    tall[90:, 30:] = np.random.default_rng(0).integers(0, 255, (30, 30, 3))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(tall)).save(tmp_path / "turned.png", exif=turned)
    found = inspector.inspect({**given, "C3": tmp_path / "turned.png"})
    assert found.sizes["C3"] == (60, 120)
    assert found.pixel_map("C3").shape == (120, 60)
    upright = inspector.inspect({**given, "C3": tall})
    np.testing.assert_array_equal(found.maps, upright.maps)
    assert found.maps.shape == (5, 6, 6)
    row, column = divmod(int(found.map_of(found.worst_view).argmax()), 6)
    width, height = found.sizes[found.worst_view]
    left, top, right, bottom = found.place.box
    assert (left, right) == (round(column * width / 6), round((column + 1) * width / 6))
    assert (top, bottom) == (round(row * height / 6), round((row + 1) * height / 6))
    assert found.pixel_map("C3").max() <= found.scores["C3"]


def test_many_parts_and_parts_in_threads_are_scored_as_one_at_a_time(run, root):
    inspector = Inspector.load(run, warm=False)
    samples = [{view: path for view, (path, _) in own.items()} for own in pictures_of(run, root).values()]
    samples = [{**samples[0], "C2": None}, *samples[1:3]]
    alone = [inspector.inspect(images) for images in samples]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(inspector.inspect, samples))
    for found in (list(inspector.inspect_many(iter(samples), batch=2)), together):
        assert [one.as_json() for one in found] == [one.as_json() for one in alone]
        for one, expected in zip(found, alone, strict=True):
            np.testing.assert_array_equal(one.maps, expected.maps)
    assert list(inspector.inspect_many([])) == []


def test_of_many_parts_the_wrong_one_is_named_and_no_later_one_is_read(two):
    inspector = Inspector.load(two, category="cap", warm=False)
    read = []

    def parts():
        for number, images in enumerate([arrays(5), arrays(5), arrays(4), arrays(5)]):
            read.append(number)
            yield images

    found = inspector.inspect_many(parts(), batch=1)
    assert (next(found).missing, next(found).missing, read) == ((), (), [0, 1])
    with pytest.raises(UserError, match="part 2: 4 images; cap has 5 views"):
        next(found)
    assert read == [0, 1, 2]
    with pytest.raises(UserError, match="batch=0: must be at least 1"):
        next(inspector.inspect_many([], batch=0))


def test_an_inspection_is_shown_in_words_as_json_and_as_heat_over_its_images(two):
    inspector = Inspector.load(two, category="cap", warm=False)
    five = dict(zip(inspector.views(), arrays(5), strict=True))
    five["C3"] = np.full((700, 1400, 3), 90, np.uint8)
    five["C3"][350:, :700] = np.random.default_rng(0).integers(0, 255, (350, 700, 3))
    found = inspector.inspect({**five, "C5": None})
    assert repr(found) == f"Inspection(cap: {found.text})"
    assert len(repr(found)) < 300
    assert json.loads(json.dumps(found.as_json(), allow_nan=False)) == found.as_json()
    html = found._repr_html_()
    assert html.count("data:image/png;base64,") == 4
    assert all(f"<figcaption>{view}: " in html for view in ("C1", "C2", "C3", "C4"))
    np.testing.assert_array_equal(found.overlay(), found.overlay(found.worst_view))
    assert found.overlay("C3").size == (640, 320)
    low = float(found.map_of("C3").min())
    heat = np.asarray(found.overlay("C3", scale=(low, float(found.map_of("C3").max()))), int)
    row, column = np.unravel_index(found.map_of("C3").argmax(), (6, 6))
    changed = np.abs(heat - found.shown["C3"]).sum(-1)
    assert changed[row * 320 // 6 + 26, column * 640 // 6 + 53] > 50
    np.testing.assert_array_equal(found.overlay("C1", scale=(1e9, 2e9)), five["C1"])
    with pytest.raises(UserError, match="view C5: the sample has none"):
        found.overlay("C5")


def test_every_misuse_is_one_line_that_names_the_value(two):
    inspector = Inspector.load(two, warm=False)
    five = arrays(5)
    cases = [
        (five, None, "category None: name one of bolt, cap"),
        (five, "nut", "category nut: not loaded of bolt, cap"),
        (five[:4], "cap", "4 images; cap has 5 views: C1, C2, C3, C4, C5"),
        ({"C9": five[0]}, "cap", "view C9: unknown; cap has C1"),
        ([None] * 5, "cap", "no image; cap has the views"),
        ({}, "cap", "no image"),
        ("C1.png", "cap", "images: a str; give a list"),
        ([five[0].astype(np.float32), *five[1:]], "cap", "view C1: an array of float32 [40, 40, 3]; give"),
        ([five[0][..., 0], *five[1:]], "cap", "view C1: an array of uint8 [40, 40]; give"),
        ([np.zeros((0, 4, 3), np.uint8), *five[1:]], "cap", "view C1: an array of uint8 [0, 4, 3]; give"),
        ([3, *five[1:]], "cap", "view C1: a int; give a path"),
        ([*five[:4], "/nowhere/C5.png"], "cap", "/nowhere/C5.png: "),
        ([Image.new("I;16", (40, 40), 4000), *five[1:]], "cap", "view C1: its largest value is 4000, more"),
    ]
    for images, category, expected in cases:
        with pytest.raises(UserError) as caught:
            inspector.inspect(images, category)
        assert str(caught.value).startswith(expected), caught.value
        assert "\n" not in str(caught.value)


def test_loading_says_what_is_wrong_with_the_workdir(two, tmp_path):
    with pytest.raises(UserError, match="category 'nut': not trained; .* has bolt, cap"):
        Inspector.load(two, category="nut")
    with pytest.raises(UserError, match=r"config\.json: no such file; expected a workdir"):
        Inspector.load(tmp_path)
    state = two / "models/all/state.safetensors"
    content = state.read_bytes()
    state.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"state\.safetensors: missing or changed since training"):
        Inspector.load(two)
    state.write_bytes(content)
    Inspector.load(two, warm=False)


def test_importing_the_package_alone_loads_no_jax():
    code = "import sys, mvead_jax; assert 'jax' not in sys.modules; mvead_jax.Inspector; import jax"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
