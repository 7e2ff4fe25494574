"""Any program of float32 computed in float64: what a reference is made of where the code itself rounds to float32.

A function is traced as it is, and each operation of the trace is done again with float64 in place of float32, through
loops, branches and functions with derivatives of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

_CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
)
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def in_float64(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of trees of arrays gives, computed in float64: a tree of NumPy arrays.

    Raises:
      NotImplementedError: an operation that holds a program of its own which is not known here.
    """
    trace, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    with jax.enable_x64(True):
        leaves = [_wide(np.asarray(leaf)) for leaf in jax.tree.leaves(arguments)]
        found = jax.jit(lambda *leaves: _evaluate(trace.jaxpr, trace.consts, leaves))(*leaves)
        found = [np.asarray(one) for one in found]
    return jax.tree.unflatten(jax.tree.structure(shape), found)


def _wide(value: Any) -> Any:
    """Return an array in float64 where it is of float32."""
    return value.astype(np.float64) if getattr(value, "dtype", None) == np.float32 else value


def _evaluate(program: core.Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    known: dict[Any, Any] = {}

    def value_of(atom: Any) -> Any:
        return _wide(np.asarray(atom.val, atom.aval.dtype)) if isinstance(atom, core.Literal) else known[atom]

    for names, values in ((program.constvars, map(_wide, constants)), (program.invars, arguments)):
        known |= dict(zip(names, values, strict=True))
    for step in program.eqns:
        results = _step(step, [value_of(atom) for atom in step.invars])
        known |= dict(zip(step.outvars, results, strict=True))
    return [value_of(atom) for atom in program.outvars]


def _closed(program: Any) -> Callable[..., list[Any]]:
    """Return a program inside of an operation as a function."""
    inner = getattr(program, "jaxpr", program)
    return lambda *values: _evaluate(inner, getattr(program, "consts", ()), values)


def _step(step: Any, values: list[Any]) -> list[Any]:
    name, own = step.primitive.name, step.params
    if name in _CALLS:
        return _closed(next(own[key] for key in _BODIES if key in own))(*values)
    if name == "scan":
        return _scan(own, values)
    if name == "while":
        return _while(own, values)
    if name == "cond":
        branches = [_closed(branch) for branch in own["branches"]]
        index = jnp.clip(values[0], 0, len(branches) - 1)  # a predicate is a whole number from 0 on here
        return list(jax.lax.switch(index.astype(jnp.int32), branches, *values[1:]))
    if name in _SCATTERS:
        kept = {key: own[key] for key in ("indices_are_sorted", "unique_indices", "mode")}
        return [_SCATTERS[name](*values, own["dimension_numbers"], **kept)]
    if any(isinstance(one, core.Jaxpr | core.ClosedJaxpr) for one in own.values()):
        raise NotImplementedError(f"{name} holds a program")
    if name == "bitcast_convert_type":  # of the bits of float32
        value = jnp.asarray(values[0])
        value = value.astype(jnp.float32) if value.dtype == jnp.float64 else value
        return [_wide(jax.lax.bitcast_convert_type(value, own["new_dtype"]))]
    own = {key: _wide_type(one) if key in _TYPES else one for key, one in own.items()}
    found = step.primitive.bind(*values, **own)
    return list(found) if step.primitive.multiple_results else [found]


_TYPES = ("new_dtype", "preferred_element_type", "dtype")
_SCATTERS = {
    "scatter": jax.lax.scatter,
    "scatter-add": jax.lax.scatter_add,
    "scatter-max": jax.lax.scatter_max,
}


def _wide_type(dtype: Any) -> Any:
    return np.dtype(np.float64) if dtype == np.float32 else dtype


def _scan(own: dict[str, Any], values: list[Any]) -> list[Any]:
    constants, carried = own["num_consts"], own["num_consts"] + own["num_carry"]
    body = _closed(own["jaxpr"])

    def once(carry, row):
        results = body(*values[:constants], *carry, *row)
        return tuple(results[: own["num_carry"]]), tuple(results[own["num_carry"] :])

    carry, rows = jax.lax.scan(
        once, tuple(values[constants:carried]), tuple(values[carried:]), own["length"], own["reverse"]
    )
    return [*carry, *rows]


def _while(own: dict[str, Any], values: list[Any]) -> list[Any]:
    first, second = own["cond_nconsts"], own["cond_nconsts"] + own["body_nconsts"]
    condition, body = _closed(own["cond_jaxpr"]), _closed(own["body_jaxpr"])
    return list(
        jax.lax.while_loop(
            lambda carry: condition(*values[:first], *carry)[0],
            lambda carry: tuple(body(*values[first:second], *carry)),
            tuple(values[second:]),
        )
    )
