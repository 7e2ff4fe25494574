"""Hostile input: refused in one line with its name, or taken as the table in docs/reliability.md says."""

from pathlib import Path

import numpy as np
import pytest
from calling import call
from fake_realiad import write_realiad
from hostile_cases import CASES, answer, encoded, noise, turned
from PIL import Image

from mvead_jax.config.schema import EvalConfig
from mvead_jax.data.loading import load_sample
from mvead_jax.data.realiad import load_index
from mvead_jax.evaluation.protocols import resolve
from mvead_jax.evaluation.truth import read_mask
from mvead_jax.geometry.matching import match_category, picture_sizes
from mvead_jax.runtime.errors import DataProblems

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.what)
def test_hostile_input_is_refused_in_one_line_or_taken_as_documented(one, tmp_path):
    said = answer(one, tmp_path)
    assert one.says in said
    assert said.isprintable()
    assert said.startswith("taken: ") == (" RGB" in one.says), said


def test_the_table_in_the_docs_has_every_case():
    text = (ROOT / "docs/reliability.md").read_text()
    assert [one.what for one in CASES if f"| {one.what} | `" not in text] == []
    assert len(CASES) == len({one.what for one in CASES}) > 80


def test_a_problem_with_escape_sequences_or_without_end_is_shown_as_text():
    shown = str(DataProblems("root", ["\x1b[31mred\n", "x" * 100_000]))
    assert "\\x1b[31mred\\n" in shown
    assert len(shown) < 5000


_SAYS_NOTES = """
import sys
from pathlib import Path
from mvead_jax.runtime import console
from mvead_jax.runtime import errors
from mvead_jax.config.schema import DataConfig
from mvead_jax.data.check import check_data
from mvead_jax.data.check_text import as_text
from mvead_jax.jobs.inputs import open_index
from mvead_jax.methods.patchcore.config import PatchCoreConfig

def main():
    console.apply(console.flags().parse_args(sys.argv[2:]))
    open_index(PatchCoreConfig(data=DataConfig(root=sys.argv[1])))
    print(as_text(check_data(Path(sys.argv[1]))))

errors.run(main)
"""


@pytest.mark.parametrize("loudness", [[], ["--verbose"]], ids=str)
def test_names_in_the_log_and_in_the_table_of_a_data_set_are_shown_as_text(tmp_path, loudness):
    (tmp_path / "notes.py").write_text(_SAYS_NOTES)
    root = tmp_path / "data"
    for kind in ("train/good", "test/good", "\x1b]0;owned\x07\nerror: fake"):
        (root / kind / "1").mkdir(parents=True)
        noise().save(root / kind / "1/top.png")
    done = call(tmp_path / "notes.py", root, *loudness)
    assert done.returncode == 0, done.stderr
    for said in (done.stdout, done.stderr):
        assert "\\x1b]0;owned\\x07\\nerror: fake/: passed over" in said
        assert [line for line in said.split("\n") if not line.isprintable() or line.startswith("error")] == []


def test_turned_pictures_masks_sizes_and_matches_are_of_one_upright_scene(tmp_path):
    plain = write_realiad(tmp_path / "plain", categories=("cap",), train=1, normal=0, defective=1, views=2)
    turn = write_realiad(tmp_path / "turned", categories=("cap",), train=1, normal=0, defective=1, views=2)
    for path in [*plain.rglob("*.jpg"), *plain.rglob("*.png")]:
        image = Image.open(path).convert("RGB" if path.suffix == ".jpg" else "L").resize((48, 64))
        image.save(path, quality=100)
        stored = Image.open(path).transpose(Image.Transpose.ROTATE_90)  # as a camera on its side keeps it
        options = {"lossless": True} if path.suffix == ".jpg" else {}
        form = "WEBP" if path.suffix == ".jpg" else "PNG"
        stored.save(turn / path.relative_to(plain), form, exif=turned(6), **options)
    indices = load_index(plain), load_index(turn)
    for a, b in zip(*(index.samples for index in indices), strict=True):
        for one, other in zip(load_sample(indices[0], a, 32), load_sample(indices[1], b, 32), strict=True):
            np.testing.assert_array_equal(one, other)
        protocol = resolve("mvad", EvalConfig(), 32)
        for view in a.views:
            if view.mask:
                masks = [read_mask(index.root, view.mask, protocol) for index in indices]
                np.testing.assert_array_equal(*masks)
                assert masks[0].any()
    training = [index.select(split="train") for index in indices]
    assert picture_sizes(training[0]) == picture_sizes(training[1]) == ((48, 64),) * 2
    matches = [match_category(own) for own in training]
    for key, own in matches[0].pairs.items():
        np.testing.assert_array_equal(own.points_a, matches[1].pairs[key].points_a)


@pytest.mark.parametrize("size", [(1, 1), (30_000, 1), (1, 3000)], ids=str)
def test_a_strip_of_pixels_can_be_matched_without_matches(tmp_path, size):
    root = write_realiad(tmp_path, categories=("cap",), train=1, normal=0, defective=0, views=2)
    for path in root.rglob("*.jpg"):
        path.write_bytes(encoded(noise(*size), "PNG"))
    found = match_category(load_index(root).select(split="train"))
    assert found.sizes == (size, size)
