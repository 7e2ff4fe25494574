"""Programs of float32 done again in float64 give what NumPy gives in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.study.float64 import in_float64

X = np.random.default_rng(0).standard_normal((6, 5), np.float32)


@jax.custom_jvp
def doubled(x):
    return 2 * x


doubled.defjvp(lambda primals, tangents: (doubled(*primals), 2 * tangents[0]))

PROGRAMS = {
    "a cast to float32": (lambda x: jnp.tanh(x.astype(jnp.float32)), np.tanh),
    "a product": (
        lambda x: jnp.einsum("ij,kj->ik", x, x, preferred_element_type=jnp.float32),
        lambda x: x @ x.T,
    ),
    "jit": (lambda x: jax.jit(jnp.exp)(x), np.exp),
    "a derivative of its own": (lambda x: doubled(jnp.sin(x)), lambda x: 2 * np.sin(x)),
    "scan": (
        lambda x: jax.lax.scan(lambda s, row: (s + row, s * row), x[0], x)[0],
        lambda x: x[0] + x.sum(0),
    ),
    "while": (
        lambda x: (
            jax.lax.fori_loop(jnp.int32(0), jnp.int32(3), lambda i, s: s * x, x) * (1 + jnp.zeros_like(x))
        ),
        lambda x: x**4,
    ),
    "cond": (lambda x: jax.lax.cond(x[0, 0] > 5, jnp.sin, jnp.cos, x), np.cos),
    "scatter-add": (
        lambda x: jnp.zeros((3, 5), jnp.float32).at[jnp.arange(6, dtype=jnp.int32) % 3].add(x),
        lambda x: x[:3] + x[3:],
    ),
    "a choice": (lambda x: jnp.where(x > 0, jnp.argmax(x, 1)[:, None].astype(jnp.float32), 0), None),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_that_of_float64(name):
    function, expected = PROGRAMS[name]
    expected = expected or (lambda x: np.where(x > 0, x.argmax(1)[:, None], 0))
    found = in_float64(function, X)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected(X.astype(np.float64)), rtol=1e-14, atol=1e-15)


def test_float32_alone_would_not_pass_that_test():
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(
            np.asarray(jnp.exp(X)), np.exp(X.astype(np.float64)), rtol=1e-14, atol=1e-15
        )


def test_what_it_does_not_know_is_refused():
    def summed(x):
        return jax.lax.reduce(x, np.float32(0), lambda a, b: a + jnp.sin(b), (0,))

    with pytest.raises(NotImplementedError, match="reduce holds a program"):
        in_float64(summed, X)
