"""A watched folder on a bad day: images in any order, late, in pieces, twice; the watcher killed."""

import io
import json
import signal

import numpy as np
import pytest
from fake_realiad import write_realiad
from feeding import apply, feed, wrong_lines
from PIL import Image
from soak_watch import Watcher as Process
from soak_watch import largest_difference, pictures_of, settle, soak

from mvead_jax.config.schema import BackboneConfig, DataConfig
from mvead_jax.data.images import open_image
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.methods.patchcore.config import PatchCoreConfig
from mvead_jax.serving.watch.journal import Journal
from mvead_jax.serving.watch.watcher import JOURNAL, Watcher

VIEWS = ("left", "right", "top")
TIMEOUT = 10.0


class Result:
    def __init__(self, values):
        self.values = values

    def as_json(self):
        return {"views": self.values, "text": ""}


class Brightness:
    """An inspector that scores a view by its first pixel."""

    digest, categories = "model 1", ("bolt",)

    def views(self, category):
        return VIEWS

    def inspect(self, images, category):
        return Result({view: np.asarray(open_image(one))[0, 0].tolist() for view, one in images.items()})


def drawn_pictures(samples, rng):
    """PNG bytes of one colour each, of 4 x 4 pixels, and what Brightness says of them."""
    pictures, colours = {}, {}
    for number in range(samples):
        for view in VIEWS:
            colour = rng.integers(256, size=3).tolist()
            file = io.BytesIO()
            Image.new("RGB", (4, 4), tuple(colour)).save(file, "PNG")
            pictures[f"{number:04}", view] = file.getvalue()
            colours[f"{number:04}", view] = colour
    return pictures, colours


@pytest.mark.parametrize("seed", range(4))
def test_all_is_decided_in_the_end_by_what_lies_there_and_nothing_twice(tmp_path, seed):
    """With a clock that the test turns, and a restart every eight seconds on average, some in a line."""
    rng = np.random.default_rng(seed)
    pictures, colours = drawn_pictures(120, rng)
    others = list(drawn_pictures(3, rng)[0].values())
    events = feed(pictures, others=others, seconds=120, timeout=TIMEOUT, seed=seed)
    incoming, journal = tmp_path / "in", tmp_path / JOURNAL
    incoming.mkdir()
    watcher, restarts = Watcher(Brightness(), incoming, Journal(journal), TIMEOUT), 0
    now = end = 0.0
    while events or now < end:
        now += 1
        while events and events[0].second <= now:
            apply(events.pop(0), incoming)
        end = now + 4 * TIMEOUT if events else end
        watcher.look(now)
        if rng.random() < 1 / 8:
            restarts += 1
            content = journal.read_bytes()
            if content and rng.random() < 0.5:  # the last line was never finished
                kept = content.rfind(b"\n", 0, -1) + 1
                journal.write_bytes(content[: rng.integers(kept, len(content))])
            watcher = Watcher(Brightness(), incoming, Journal(journal), TIMEOUT)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert wrong_lines(lines, pictures) == []
    last = {line["sample"]: line for line in lines}
    said = {(sample, view): colour for sample in last for view, colour in last[sample]["views"].items()}
    assert said == colours
    assert restarts > 5
    assert len(lines) > 1.2 * len(last)  # some were revised
    assert any("error" in line for line in lines)  # some lay there in pieces


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("watch")
    root = write_realiad(place / "data", categories=("bolt",), size=40, normal=8, defective=8)
    backbone = BackboneConfig(name="efficientnet-lite0", weights="random")
    config = PatchCoreConfig(data=DataConfig(root=str(root), image_size=32), backbone=backbone)
    train(config, place / "run")
    score(place / "run", place / "run/scores", report=False)
    return place / "run", root


def test_the_script_killed_twice_decides_as_score_py(run, tmp_path):
    workdir, root = run
    pictures = pictures_of(root)
    events = feed(pictures, others=list(pictures.values())[:9], seconds=15, timeout=2, seed=1)
    watcher = Process(workdir, tmp_path / "in", tmp_path / "out", timeout=2)
    try:
        soak(watcher, events, tmp_path / "in", kills=[9, 17])
        assert settle(watcher, pictures, 60) == [], watcher.said
        assert watcher.end(signal.SIGTERM) == 143
    finally:
        watcher.process.kill()
    assert "Traceback" not in watcher.said
    scores, difference = largest_difference(watcher.lines(), workdir / "scores")
    assert scores == len(pictures)
    assert difference < 1e-6
