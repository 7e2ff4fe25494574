"""runtime/host.py: the host's precision, devices and forks. Processes of their own: tests/faults/test_host.py."""

import os

import jax
import jax.numpy as jnp
import pytest

from mvead_jax.runtime import host
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.host import check_devices, check_fork, computing


def test_a_host_with_float64_gets_float32_here_and_keeps_float64_after():
    @computing()
    def dtype():
        return jnp.zeros(1).dtype, jnp.arange(2).dtype

    with jax.enable_x64(True):
        assert dtype() == (jnp.float32, jnp.int32)
        assert jnp.zeros(1).dtype == jnp.float64


def test_an_error_inside_leaves_the_hosts_precision_as_it_was():
    with jax.enable_x64(True):
        with pytest.raises(ZeroDivisionError), computing():
            raise ZeroDivisionError
        assert jnp.zeros(1).dtype == jnp.float64


def test_another_process_than_the_one_that_computed_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(host, "_computes", 1)
    with pytest.raises(UserError, match=r"process 1, of which this one, \d+, is a fork.*spawn") as caught:
        check_fork()
    assert str(caught.value).isprintable()
    monkeypatch.setattr(host, "_computes", os.getpid())
    check_fork()
    monkeypatch.setattr(host, "_computes", None)
    check_fork()


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize\nbackend")], ids=repr)
def test_a_platform_that_jax_lacks_is_one_line(monkeypatch, error):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(
        UserError, match=r"^JAX_PLATFORMS=.*: JAX can't start there \(.+\); unset it"
    ) as caught:
        check_devices()
    assert str(caught.value).isprintable()
