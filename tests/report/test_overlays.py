"""Overlays as files: every image once, in its own size, with heat where the scores are high."""

import csv

import numpy as np
import pytest
from fake_scores import add_decisions, write_scored
from PIL import Image

from mvead_jax.data.records import build_index
from mvead_jax.report.overlays import overlay, write_overlays
from mvead_jax.runtime.errors import UserError


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_every_image_has_a_file_of_its_size_and_a_line(tmp_path):
    scored = write_scored(tmp_path, size=(60, 40), missing=[("cap", 3, "C2")])
    add_decisions(scored, {"threshold": 60.0, "basis": "user"}, ["pass", "fail"] * 6)
    place = write_overlays(scored.folder, scored.index)
    with (place / "overlays.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12 * 3 - 1
    assert {one["file"] for one in lines} == {
        one.relative_to(place).as_posix() for one in place.glob("*/*.png")
    }
    assert not any(one["sample"] == "cap_0003_NG_HS" and one["view"] == "C2" for one in lines)
    by_name = {(one["sample"], one["view"]): pixels(place / one["file"]) for one in lines}
    assert all(own.shape == (40, 60, 3) for own in by_name.values())
    hot = by_name["bolt_0005_NG_HS", "C1"]  # the patch of row 2 and column 3 of 4 x 6
    assert (hot[10:20, 20:30] == (255, 90, 79)).all(-1).any()  # around it the contour of the decision
    assert not (hot == (255, 90, 79)).all(-1)[:, 35:].any()
    cold = by_name["bolt_0005_NG_HS", "C3"]
    assert (
        np.abs(hot - (90, 110, 120)).sum(-1)[12:18, 22:28].min()
        > np.abs(cold - (90, 110, 120)).sum(-1).mean()
    )


def test_earlier_overlays_go_and_another_data_set_is_said(tmp_path):
    scored = write_scored(tmp_path, categories=("cap",))
    (scored.folder / "overlays").mkdir()
    (scored.folder / "overlays/99_C1.png").write_text("old")
    place = write_overlays(scored.folder, scored.index)
    assert not (place / "99_C1.png").exists()
    other = build_index(scored.index.root, scored.index.samples[1:])
    with pytest.raises(UserError, match="has no sample cap_0000_OK of cap, which was scored"):
        write_overlays(scored.folder, other)
    (tmp_path / scored.index.samples[0].views[0].image).unlink()
    with pytest.raises(UserError, match="No such file"):
        write_overlays(scored.folder, scored.index)


def test_what_is_ignored_is_grey_and_what_is_marked_has_an_edge():
    image = Image.new("RGB", (60, 40), (200, 100, 50))
    ignored, marked = np.zeros((2, 40, 60), bool)
    ignored[:, :20], marked[10:30, 40:50] = True, True
    made = overlay(image, np.zeros((4, 6), np.float32), (1.0, 2.0), None, marked, ignored).astype(int)
    assert (
        made[5, 5].tolist()
        == np.round(0.22 * np.array([200, 100, 50]) + 0.78 * np.array([107, 115, 124])).tolist()
    )
    assert made[5, 30].tolist() == [200, 100, 50]  # no heat
    assert made[10, 45].tolist() == [255, 255, 255]
    assert made[20, 45].tolist() == [200, 100, 50]  # inside
