"""Multi-view industrial anomaly detection in JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvead_jax.serving.inspection import Inspection
    from mvead_jax.serving.inspector import Inspector

__version__ = "0.1.0"
__all__ = ["Inspection", "Inspector", "__version__"]


def __getattr__(name: str):
    if name in ("Inspection", "Inspector"):  # not before: JAX takes seconds to load
        from mvead_jax.serving import inspector

        return getattr(inspector, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
