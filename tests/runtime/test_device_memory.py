"""Sizes of calls follow from the memory of a device."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mvead_jax.backbones.base import load_backbone
from mvead_jax.bank import nearest
from mvead_jax.bank.search import exact
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.runtime import device_memory, sharding


@pytest.fixture
def memory(monkeypatch):
    """Sets the bytes that every device is taken to have."""

    def of(size):
        for place in (device_memory, nearest, exact):
            monkeypatch.setattr(place, "device_bytes", lambda: int(size))

    return of


@pytest.mark.parametrize(("limit", "counts"), [("max\n", False), ("4000000\n", True), (None, False)])
def test_cpu_devices_share_the_memory_of_the_machine_or_container(limit, counts, tmp_path, monkeypatch):
    file = tmp_path / "memory.max"
    if limit is not None:
        file.write_text(limit)
    monkeypatch.setattr(device_memory, "_CONTAINER_LIMIT", file)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert device_memory.device_bytes() == (1_000_000 if counts else machine // 4)


@pytest.mark.parametrize(("limit", "expected"), [(0.0, 2), (3.9, 2), (4.0, 4), (100.0, 64), (1e12, 64)])
def test_powers_of_two_lie_between_their_limits(limit, expected):
    assert device_memory.power_of_two(limit, 2, 64) == expected


def test_the_largest_value_is_found_in_loops_branches_and_compiled_functions():
    def inner(x):
        return jnp.outer(x, x).sum()  # 100 x 100 numbers

    def looped(x):
        return jax.lax.fori_loop(0, 3, lambda _, total: total + jax.jit(inner)(x), jnp.float32(0))

    def branched(x):
        return jax.lax.cond(x[0] > 0, inner, lambda x: x.sum(), x)

    x = jnp.ones(100)
    for function in (inner, looped, branched, jax.checkpoint(inner)):
        assert device_memory.largest_value(function, x) == 4 * 100 * 100


def test_a_value_is_divided_over_the_devices_but_within_a_shard_it_is_whole():
    mesh = sharding.local_mesh()

    def whole(x):
        return x[:, :, None] * x[:, None, :]

    divided = jax.shard_map(
        whole, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"), check_vma=False
    )
    x = jax.ShapeDtypeStruct((4, 50), jnp.float32)
    for function in (whole, divided):
        assert device_memory.largest_value(function, x, devices=4) == 4 * 50 * 50


def test_fewer_images_go_through_a_backbone_where_memory_is_short(memory):
    def images(size, side):
        memory(size)
        own = load_backbone(BackboneConfig(name="dinov2-small", block=1, weights="random"), side, ["patches"])
        return own.images_at_a_time(0), own.images_at_a_time(7)

    assert images(24e9, 56) == (32, 7)
    assert images(1, 56) == (1, 7)
    # The logits of 6 heads and 1,370 tokens take 45 MB: 16 times as many bytes hold one image.
    assert images(16 * 4 * 6 * 1370**2 * 5, 518) == (4, 7)


def test_a_passing_batch_fits_what_xla_sets_aside():
    own = load_backbone(BackboneConfig(name="dinov2-small", block=2, weights="random"), 224, ["patches"])
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    aside = jax.jit(own.apply).lower(image).compile().memory_analysis().temp_size_in_bytes
    assert aside <= 4 * device_memory.largest_value(own.apply, image)


def test_products_follow_the_memory_of_an_accelerator(memory, monkeypatch):
    assert exact.queries_at_once() == 256
    monkeypatch.setattr(exact.jax, "default_backend", lambda: "gpu")
    found = []
    for size in (1e9, 8e9, 24e9, 80e9):
        memory(size)
        found.append(exact.queries_at_once())
        assert size <= 1e9 or found[-1] * 16384 * 4 <= size / 64
    assert found == [256, 1024, 4096, 8192]


def test_the_answer_from_disk_does_not_depend_on_the_memory(memory):
    draw = np.random.default_rng(0)
    bank, queries = draw.normal(size=(3000, 1024)).astype(np.float32), draw.normal(size=(20, 1024))
    answers, pieces = [], []
    for size in (1, 24e9):
        memory(size)
        pieces.append(0)

        def count(rows):
            pieces[-1] += 1

        answers.append(nearest.nearest_on_disk(queries.astype(np.float32), bank, on_piece=count))
    assert pieces == [3, 1]
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    np.testing.assert_array_equal(answers[0][1], answers[1][1])
