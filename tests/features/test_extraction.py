import dataclasses
import os
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from fake_realiad import edit_list, write_realiad
from PIL import Image

from mvead_jax.backbones.base import Backbone
from mvead_jax.backbones.info import Info, Tap
from mvead_jax.config.schema import FeaturesConfig
from mvead_jax.data import digests as digests_module
from mvead_jax.data.digests import image_paths
from mvead_jax.data.loading import sample_pipeline
from mvead_jax.data.new_images import read_samples
from mvead_jax.data.realiad import load_index
from mvead_jax.features import cache as feature_cache
from mvead_jax.features import extraction as module
from mvead_jax.features.cache import Extraction, as_stored
from mvead_jax.features.extraction import extract
from mvead_jax.features.images import image_reader
from mvead_jax.features.store import FeatureStore
from mvead_jax.runtime import disk
from mvead_jax.runtime.errors import DataProblems, UserError

FLOAT32 = FeaturesConfig()


def mean_colours(images):
    """The plainest backbone: the mean colour of every 8 x 8 patch."""
    count, size = images.shape[:2]
    return {"patches": np.asarray(images).reshape(count, size // 8, 8, size // 8, 8, 3).mean((2, 4))}


def brightened(images):
    """A backbone that gives a blank image features that are not zero."""
    return {"patches": mean_colours(images)["patches"] + 1}


def two_scales(images):
    """A backbone of two taps: the mean colours, and the red and green of single pixels."""
    return mean_colours(images) | {"pixels": np.asarray(images)[..., :2]}


TAPS = {"patches": Tap(8, 3), "pixels": Tap(1, 2)}


def backbone(digest="one", apply=mean_colours, taps=("patches",)):
    info = Info("means", "none", True, "none", "none", 8, TAPS, ())
    shapes = {"patches": (2, 2, 3), "pixels": (16, 16, 2)}
    return Backbone(info, taps, {tap: shapes[tap] for tap in taps}, 16, digest, None, apply)


def patches_of(index, cache, batch_size=7, apply=mean_colours, config=FLOAT32):
    return extract(Extraction(index, backbone(apply=apply), config, cache, batch_size))["patches"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written") / "data"
    return write_realiad(root, categories=("cap",), size=20, train=21, normal=1, defective=0)


@pytest.fixture
def index(written, tmp_path):
    """Of images that a test may change."""
    shutil.copytree(written, tmp_path / "data")
    return load_index(tmp_path / "data").select(split="train")


def chunks(cache):
    return list(cache.glob("*.npy"))


def decoded(index):
    return np.stack([sample_pipeline(index, 16)[at]["images"] for at in range(len(index))])


def expected_features(index):
    images = decoded(index)
    return mean_colours(images.reshape(-1, 16, 16, 3))["patches"].reshape(*images.shape[:2], 2, 2, 3)


def test_features_are_those_of_the_backbone_in_the_order_of_the_index(index, tmp_path):
    store = patches_of(index, tmp_path / "cache")
    assert store.shape == (21, 5, 2, 2, 3)
    np.testing.assert_array_equal(store[:], expected_features(index))


@pytest.mark.parametrize(
    "key", [3, slice(14, 19), np.array([20, 2, 2]), (slice(None), 4), (np.array([17, 0]), 1)]
)
def test_a_store_reads_like_an_array(index, tmp_path, key):
    store = patches_of(index, tmp_path / "cache")
    np.testing.assert_array_equal(store[key], expected_features(index)[key])


def test_every_tap_has_its_own_map_and_file_and_is_computed_in_one_pass(index, tmp_path):
    cache = tmp_path / "cache"
    both = backbone(apply=two_scales, taps=("patches", "pixels"))

    def check(expected):
        found = extract(Extraction(index, both, FLOAT32, cache, 7))
        assert list(found) == ["patches", "pixels"]
        np.testing.assert_array_equal(found["patches"][:], expected_features(index))
        np.testing.assert_array_equal(found["pixels"][:], decoded(index)[..., :2])
        assert len(chunks(cache)) == expected

    check(4)
    victim = next(path for path in chunks(cache) if path.stem.endswith("pixels"))
    victim.write_bytes(victim.read_bytes()[:-1])
    check(4)
    (other,) = (path for path in chunks(cache) if path.name == victim.name.replace("pixels", "patches"))
    victim.unlink()
    other.write_bytes(b"")
    check(4)


def test_bfloat16_is_rounded_once_and_takes_half_the_room(index, tmp_path):
    store = patches_of(index, tmp_path / "half", config=FeaturesConfig(dtype="bfloat16"))
    full = expected_features(index)
    np.testing.assert_array_equal(store[:], full.astype(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(store[:], as_stored(full, "bfloat16"))
    np.testing.assert_array_equal(full, as_stored(full, "float32"))
    patches_of(index, tmp_path / "full")
    header = 128 + 32  # and the seal
    sizes = [sum(p.stat().st_size - header for p in chunks(tmp_path / name)) for name in ("half", "full")]
    assert sizes[1] == 2 * sizes[0]


class Counting:
    def __init__(self):
        self.images = 0

    def __call__(self, images):
        self.images += len(images) if np.any(images) else 0  # the blank batch only takes the time
        return mean_colours(images)


def images_computed(index, cache, **changes):
    counting = Counting()
    own = backbone(changes.pop("digest", "one"), counting)
    options = {"config": FLOAT32, "batch_size": 5, **changes}
    store = extract(Extraction(index, own, options["config"], cache, options["batch_size"]))["patches"]
    np.testing.assert_allclose(store[:], expected_features(index), rtol=1e-2)
    return counting.images


def test_what_is_in_the_cache_is_not_computed_again(index, tmp_path):
    assert images_computed(index, tmp_path / "cache") == 105
    assert images_computed(index, tmp_path / "cache") == 0


def test_other_weights_types_or_pictures_are_never_taken_from_the_cache(index, tmp_path):
    cache = tmp_path / "cache"
    images_computed(index, cache)
    assert images_computed(index, cache, digest="two") == 105
    assert images_computed(index, cache, config=FeaturesConfig(dtype="bfloat16")) == 105
    one = index.root / index.samples[18].views[0].image
    shutil.copyfile(index.root / index.samples[0].views[0].image, one)
    assert images_computed(index, cache) == 25  # the chunk that holds it
    before = one.stat()
    content = one.read_bytes()
    one.write_bytes(content[:14] + b"x" + content[15:])  # the same size and time
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert images_computed(index, cache) == 25
    os.utime(one, ns=(1, 1))  # another time, the same image
    assert images_computed(index, cache) == 0


def parts(folder, colour):
    """New parts as a camera's program or a ZIP leaves them: names, sizes and times are those of any day."""
    for number in ("0001", "0002"):
        path = folder / number / "top.bmp"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (16, 16), (colour,) * 3).save(path)
        os.utime(path, (0, 0))
    return read_samples(folder, {"bolt": ["top"]})


def test_two_folders_of_the_same_names_sizes_and_times_keep_their_own_features(tmp_path):
    for name, colour in (("shift1", 10), ("shift2", 200)):
        assert images_computed(parts(tmp_path / name, colour), tmp_path / "cache") == 2
    for name in ("shift1", "shift2"):  # by a link that leads to one, then to the other
        (tmp_path / "today").unlink(missing_ok=True)
        (tmp_path / "today").symlink_to(name)
        today = read_samples(tmp_path / "today", {"bolt": ["top"]})
        assert images_computed(today, tmp_path / "cache") == 0  # and as they should be


def test_moved_or_copied_pictures_have_the_features_that_they_had(index, tmp_path):
    images_computed(index, tmp_path / "cache")
    shutil.copytree(index.root, tmp_path / "copy")
    assert images_computed(load_index(tmp_path / "copy").select(split="train"), tmp_path / "cache") == 0


def test_what_was_read_is_not_read_again_and_a_damaged_record_of_it_is(index, tmp_path, monkeypatch):
    cache, read = tmp_path / "cache", []
    digest = digests_module.digest
    monkeypatch.setattr(digests_module, "digest", lambda path: read.append(path) or digest(path))

    def files_read():
        read.clear()
        assert images_computed(index, cache) == 0
        return len(read)

    images_computed(index, cache)
    assert len(read) == 105
    assert files_read() == 0
    (record,) = cache.glob("*.sha256")
    content = record.read_bytes()
    flipped = bytes([content[10] ^ 1])
    for damage in (b"", content[:100], content[:10] + flipped + content[11:], b"\xff", content[65:]):
        record.write_bytes(damage)
        assert files_read() == 105
        assert record.read_bytes() == content
        assert files_read() == 0


def test_a_picture_that_is_replaced_between_reading_and_decoding_is_a_problem(index, tmp_path, monkeypatch):
    other, one = (index.root / index.samples[at].views[0].image for at in (0, 1))
    decode = module.sample_pipeline

    def replaced(*arguments):
        before = one.stat()
        shutil.copyfile(other, one)
        os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
        return decode(*arguments)

    monkeypatch.setattr(module, "sample_pipeline", replaced)
    with pytest.raises(DataProblems, match=f"{one}: changed while it was read; run again"):
        patches_of(index, tmp_path / "cache", 5)
    assert len(chunks(tmp_path / "cache")) == 1  # of the others
    monkeypatch.undo()
    assert images_computed(index, tmp_path / "cache") == 80


def test_a_picture_that_is_only_touched_meanwhile_is_none(index, tmp_path, monkeypatch):
    decode = module.sample_pipeline

    def touched(*arguments):
        for path in index.root.rglob("*.jpg"):
            path.chmod(0o600)
        return decode(*arguments)

    monkeypatch.setattr(module, "sample_pipeline", touched)
    assert images_computed(index, tmp_path / "cache") == 105


def test_a_run_that_was_killed_goes_on_where_it_stopped(index, tmp_path):
    cache = tmp_path / "cache"

    class Killed(Exception):
        pass

    class KilledLater(Counting):
        def __call__(self, images):
            if self.images >= 80:
                raise Killed
            return super().__call__(images)

    with pytest.raises(Killed):
        patches_of(index, cache, 5, KilledLater())
    assert images_computed(index, cache) == 25
    whole = {p.name: p.read_bytes() for p in cache.iterdir()}
    assert len(whole) == 3  # two chunks, and what the images hold
    shutil.rmtree(cache)
    images_computed(index, cache)
    assert {p.name: p.read_bytes() for p in cache.iterdir()} == whole


def test_half_written_and_damaged_chunks_are_computed_again(index, tmp_path):
    cache = tmp_path / "cache"
    images_computed(index, cache)
    first, second = sorted(chunks(cache), key=lambda path: path.stat().st_size)
    second.write_bytes(second.read_bytes()[:1000])
    first.write_bytes(b"not an array")
    assert images_computed(index, cache) == 105
    content = {path: path.read_bytes() for path in (first, second)}
    flipped = bytearray(content[second])
    flipped[len(flipped) // 2] ^= 1
    second.write_bytes(flipped)
    assert images_computed(index, cache) == 80
    assert {path: path.read_bytes() for path in (first, second)} == content
    for change in (lambda: second.write_bytes(b""), lambda: second.unlink()):
        change()
        assert images_computed(index, cache) == 80
    first.write_bytes(content[second])
    second.write_bytes(content[first])
    (cache / ".x.npy.1.tmp").write_bytes(b"left over")
    assert images_computed(index, cache) == 105


def test_unreadable_pictures_are_all_named_and_the_rest_is_kept(index, tmp_path):
    for at in (1, 2):
        path = index.root / index.samples[at].views[0].image
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataProblems) as error:
        patches_of(index, tmp_path / "cache", 5)
    assert len(error.value.problems) == 2
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


def test_features_that_are_not_finite_stop_with_the_sample(index, tmp_path):
    def broken(images):
        return {"patches": mean_colours(images)["patches"] * np.inf}

    with (
        pytest.raises(UserError, match="cap_0001_OK: features that are not finite"),
        np.errstate(invalid="ignore"),
    ):
        patches_of(index, tmp_path / "cache", 5, broken)


def test_a_full_disk_is_noticed_before_the_work(index, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    counting = Counting()
    with pytest.raises(UserError, match=r"MB needed \(features .* MB free; make room"):
        patches_of(index, tmp_path / "cache", 5, counting)
    assert counting.images == 0


def test_a_missing_view_is_zero(tmp_path):
    root = write_realiad(tmp_path / "data", categories=("cap",), size=20)
    edit_list(root, "cap", lambda content: content["train"].pop(1))
    index = load_index(root, incomplete="keep").select(split="train")
    store = patches_of(index, tmp_path / "cache", 5, brightened)
    assert (store[0, 1] == 0).all()
    assert (store[0, 2] != 0).any()


def test_stores_with_other_views_join_on_the_common_axis():
    a = FeatureStore([np.ones((2, 1, 2, 2, 3), np.float32)], [("C2",)], ("C2",))
    b = FeatureStore([np.full((1, 2, 2, 2, 3), 2, np.float32)], [("C1", "C2")], ("C1", "C2"))
    joined = FeatureStore.concatenate([a, b], ("C1", "C2"))
    assert joined.shape == (3, 2, 2, 2, 3)
    np.testing.assert_array_equal(joined[:, 0][:, 0, 0, 0], [0, 0, 2])
    np.testing.assert_array_equal(joined[:][:, 1, 0, 0, 0], [1, 1, 2])


def test_images_of_samples_are_those_of_the_pipeline_and_zero_where_a_view_is_missing(tmp_path):
    root = write_realiad(tmp_path / "data", categories=("cap",), size=20)
    edit_list(root, "cap", lambda content: content["train"].pop(1))
    index = load_index(root, incomplete="keep").select(split="train")
    images = image_reader(index, 16)(np.array([1, 0, 1]))
    assert images.shape == (3, len(index.views), 16, 16, 3)
    np.testing.assert_array_equal(images, decoded(index)[[1, 0, 1]])
    assert (images[1, 1] == 0).all()
    broken = root / index.samples[1].views[0].image
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(UserError, match=broken.name):
        image_reader(index, 16)(np.array([0, 1]))


def test_the_digest_covers_all_that_decides_the_numbers(index, monkeypatch):
    def digest(**changes):
        one = {"index": index, "backbone": backbone(), "config": FLOAT32, "batch_size": 27, **changes}
        samples = index.samples[:2]
        pictures = dict.fromkeys(image_paths(samples), "0") | one.pop("pictures", {})
        return Extraction(cache=Path(), **one).digest(samples, pictures)

    found = [
        digest(),
        digest(pictures={index.samples[1].views[2].image: "1"}),
        digest(backbone=backbone("two")),
        digest(config=FeaturesConfig(dtype="bfloat16")),
        digest(batch_size=40),
        digest(index=dataclasses.replace(index, views=("C1", "C3", "C2", "C4", "C5"))),
        # The same samples in a smaller index go through the backbone in smaller passes.
        digest(index=dataclasses.replace(index, samples=index.samples[:5])),
    ]
    monkeypatch.setattr(feature_cache, "PREPROCESSING_VERSION", 2)
    found.append(digest())
    monkeypatch.setattr(feature_cache, "_VERSION", 99)
    found.append(digest())
    monkeypatch.setattr(feature_cache.jax, "__version__", "0.0")
    found.append(digest())
    monkeypatch.setattr(feature_cache.jax, "devices", lambda: [type("Device", (), {"device_kind": "other"})])
    found.append(digest())
    assert len(set(found)) == 11
    monkeypatch.undo()
    assert digest() == found[0]
