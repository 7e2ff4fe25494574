"""Pseudo-anomalies: what is random follows from its key, masks tell all that changed, and are of the sizes stated."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from PIL import Image

from mvead_jax.data.augmentation.anomalies import change_sample, cut_paste, cut_paste_scar, paste_texture
from mvead_jax.data.augmentation.perlin import perlin_mask, perlin_noise
from mvead_jax.data.augmentation.randomness import generator_of
from mvead_jax.data.augmentation.sheet import write_sheet
from mvead_jax.data.augmentation.textures import _FIELDS, Folder, procedural, source_of
from mvead_jax.runtime.errors import UserError

SIZE = 64
CHANGES = (paste_texture, cut_paste, cut_paste_scar)


def image(seed=0, size=SIZE):
    return np.random.default_rng(seed).standard_normal((size, size, 3)).astype(np.float32)


@pytest.mark.parametrize("change", CHANGES)
def test_outside_of_the_mask_nothing_changes_and_inside_something_does(change):
    original = image()
    kept = original.copy()
    for number in range(20):
        changed, mask = change(original, generator_of(0, 0, "a", number))
        assert changed.dtype == np.float32
        assert (mask.dtype, mask.shape) == (bool, (SIZE, SIZE))
        np.testing.assert_array_equal(changed[~mask], original[~mask])
        assert not mask.any() or (changed[mask] != original[mask]).any()
        assert np.isfinite(changed).all()
    np.testing.assert_array_equal(original, kept)


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_key_gives_the_same_and_each_part_of_it_another(change):
    key = (3, 5, "good/a", 1)
    expected = change(image(), generator_of(*key))
    again = change(image(), generator_of(*key))
    np.testing.assert_array_equal(again[0], expected[0])
    for other in ((4, 5, "good/a", 1), (3, 6, "good/a", 1), (3, 5, "good/b", 1), (3, 5, "good/a", 0)):
        assert (change(image(), generator_of(*other))[0] != expected[0]).any()


def test_samples_are_changed_alike_whatever_worker_asks():
    images, present = np.stack([image(0), np.zeros_like(image()), image(1)]), np.array([True, False, True])
    work = partial(change_sample, images, present, partial(paste_texture, source=procedural), seed=1, epoch=2)
    work = pickle.loads(pickle.dumps(partial(work, sample="a")))
    changed, masks = work()
    np.testing.assert_array_equal(changed[1], 0)
    assert not masks[1].any()
    view = generator_of(1, 2, "a", 2)
    np.testing.assert_array_equal(changed[2], paste_texture(images[2], view)[0])
    with ThreadPoolExecutor(1) as pool:  # as Grain's workers
        elsewhere = pool.submit(work).result()
    np.testing.assert_array_equal(elsewhere[0], changed)


def test_cut_and_pasted_areas_and_places_are_as_stated():
    areas, tops = [], []
    for number in range(300):
        _, mask = cut_paste(image(), np.random.default_rng(number))
        rows = np.flatnonzero(mask.any(1))
        assert mask.sum() == len(rows) * mask.any(0).sum()  # one rectangle
        areas.append(mask.mean())
        tops.append(rows[0])
    assert 0.015 < min(areas) < 0.03
    assert 0.13 < max(areas) < 0.16
    assert abs(np.mean(areas) - 0.085) < 0.01
    assert min(tops) == 0
    assert max(tops) > 0.7 * SIZE
    scars = [cut_paste_scar(image(), np.random.default_rng(number))[1].mean() for number in range(50)]
    assert min(scars) > 0
    assert max(scars) < 0.02


def test_a_size_at_which_the_scar_fills_all_still_works():
    for size in (1, 3, 8):
        for change in CHANGES:
            changed, mask = change(image(size=size), np.random.default_rng(0))
            assert changed.shape == (size, size, 3)
            assert mask.shape == (size, size)


def test_perlin_masks_are_mostly_small_sometimes_empty_and_lie_everywhere():
    masks = np.stack([perlin_mask(SIZE, np.random.default_rng(number)) for number in range(400)])
    areas = masks.mean((1, 2))
    assert (areas == 0).any()
    assert 0.01 < np.median(areas) < 0.3
    assert areas.max() < 0.8
    heat = masks.mean(0)
    assert heat[10:-10, 10:-10].min() > 0.01  # the corners are turned out of the image and seldom covered
    assert np.abs(heat.mean(0) - heat.mean()).max() < 0.06


def test_perlin_noise_is_zero_at_its_grid_and_is_the_slow_sum():
    generator = np.random.default_rng(7)
    noise = perlin_noise(12, (2, 3), generator)
    angles = np.random.default_rng(7).uniform(0, 2 * np.pi, (3, 4))
    np.testing.assert_allclose(noise[::6, ::4], 0, atol=1e-6)

    def fade(t):
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    for row, column in ((1, 1), (5, 7), (11, 11), (6, 3)):
        y, x = row / 6, column / 4
        top, left = int(y), int(x)
        value = 0.0
        for i in (0, 1):
            for j in (0, 1):
                angle, dy, dx = angles[top + i, left + j], y - top - i, x - left - j
                weight = fade(1 - abs(dy)) * fade(1 - abs(dx))
                value += weight * (np.cos(angle) * dy + np.sin(angle) * dx)
        np.testing.assert_allclose(noise[row, column], np.sqrt(2) * value, atol=1e-5)


def test_textures_of_all_kinds_lie_in_0_to_1_and_differ():
    for field in _FIELDS:
        values = field(SIZE, np.random.default_rng(0))
        assert values.shape == (SIZE, SIZE)
        assert values.std() > 0.02
    textures = np.stack([procedural(SIZE, np.random.default_rng(number)) for number in range(30)])
    assert textures.min() >= 0
    assert textures.max() <= 1
    assert textures.dtype == np.float32
    assert len(np.unique(textures.mean((1, 2, 3)).round(4))) == 30


def test_textures_of_a_folder_are_resized_and_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/typo: no such folder"):
        source_of(f"{tmp_path}/typo")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path}: no image there"):
        source_of(str(tmp_path))
    Image.new("RGB", (7, 9), (255, 0, 51)).save(tmp_path / "red.png")
    texture = source_of(str(tmp_path))(SIZE, np.random.default_rng(0))
    np.testing.assert_allclose(texture, np.broadcast_to([1, 0, 0.2], (SIZE, SIZE, 3)), atol=1e-6)
    (tmp_path / "red.png").write_text("no image")
    with pytest.raises(UserError, match=r"red\.png"):
        Folder.of(tmp_path)(SIZE, np.random.default_rng(0))
    assert source_of("") is procedural


@pytest.mark.parametrize("white", [65535, 4095])
def test_a_texture_of_16_bits_is_read_by_its_own_bit_depth(tmp_path, white):
    values = np.full((8, 8), white, np.uint16)
    values[:, :4] = 0
    Image.fromarray(values).save(tmp_path / "deep.png")
    texture = source_of(str(tmp_path))(8, np.random.default_rng(0))
    np.testing.assert_array_equal(texture[..., 0], values / white)


def test_a_sheet_shows_each_image_and_each_change(tmp_path):
    write_sheet(tmp_path / "sheet.png", [image(0), image(1)], {"texture": paste_texture, "cut": cut_paste})
    with Image.open(tmp_path / "sheet.png") as found:
        assert found.size == (3 * SIZE, 2 * SIZE)
