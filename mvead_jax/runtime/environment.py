"""What a run ran on: versions, devices and the settings that decide the last bits."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("mvead_jax", "jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn", "pillow", "safetensors"),
    *("grain", "opencv-python-headless", "tensorflow-datasets", "array_record"),
)
_EXTRAS = ("jax2onnx", "onnxruntime", "openvino")  # told where they are installed


def environment() -> dict[str, Any]:
    """JSON-ready facts about this machine and program; no path and no host name."""
    import jax  # not before: who asks for cpu_name alone may have none

    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in devices],
        "processes": jax.process_count(),
        "packages": {name: _version(name) for name in _PACKAGES}
        | {name: version for name in _EXTRAS if (version := _version(name))},
        "commit": _commit(),
        "jax_default_matmul_precision": jax.config.jax_default_matmul_precision,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _version(package: str) -> str | None:
    """None where it is not there: a build of OpenCV by another name, or no ArrayRecord on Windows."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The model's name, whose vector width decides rounding; empty if the system does not tell."""
    known = Path("/proc/cpuinfo")  # Linux
    lines = known.read_text(errors="replace").splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """The checkout's commit, with "+changes" if files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changes = subprocess.run(
            # Without the lock of the index, which a git that is killed would leave in the checkout.
            ["git", "--no-optional-locks", "status", "--porcelain", "-uno"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changes else "")
