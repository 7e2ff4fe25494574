"""The environment of a study: what decides the last bits, and by what name a table shows it."""

from __future__ import annotations

import os
from typing import Any

import jax

from mvead_jax.runtime.environment import environment

# Of XLA: those that decide whether a GPU repeats its bytes (docs/reproducibility.md).
_OF_GPUS = (
    *("xla_gpu_deterministic_ops", "xla_gpu_exclude_nondeterministic_ops", "xla_gpu_autotune_level"),
    *("xla_gpu_per_fusion_autotune_cache_dir", "xla_gpu_dump_autotune_results_to"),
    "xla_gpu_load_autotune_results_from",
)


def surroundings() -> dict[str, Any]:
    """Return the JSON-ready facts; paths in flags are left out."""
    found = environment()
    flags = dict(_flag(text) for text in os.environ.get("XLA_FLAGS", "").split())
    device = jax.devices()[0]
    return found | {
        "backend": jax.default_backend(),
        "device": found["cpu"] if device.platform == "cpu" else device.device_kind,
        "device_count": jax.device_count(),
        "driver": device.client.platform_version,
        "xla_flags": " ".join(f"--{name}={value}" for name, value in flags.items()),
        "compilation_cache": bool(
            jax.config.jax_compilation_cache_dir
        ),  # of GPUs it holds their autotuning too
        "of_gpus": {name: flags.get(name, "default") for name in _OF_GPUS},
    }


def _flag(text: str) -> tuple[str, str]:
    """Return the name and the value of a flag; of a path only that there is one."""
    name, _, value = text.lstrip("-").partition("=")
    return name, "(a path)" if "/" in value or "\\" in value else value or "true"
