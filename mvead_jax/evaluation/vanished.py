"""Marked defects that vanish: of a small one no pixel is left where masks are resized to be compared.

Its pixels count as normal then, and the figures of pixels do not tell of it. So a line does: in the log, in
the protocol beside every figure ("vanished_masks"), and at the top of tables and of the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvead_jax.evaluation.protocols import OWN, EvaluationProtocol

NONE_VANISHED = "none"
_KEY = "vanished_masks"


def vanished_words(protocol: EvaluationProtocol, categories: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how many marked defects vanish in which category, NONE_VANISHED if none does.

    Args:
      categories: {name: {level: metrics}} under this protocol.
    """
    own = {name: levels["pixel"] for name, levels in categories.items()}
    lost = [f"{name} {one[_KEY]} of {one['marked_masks']}" for name, one in own.items() if one[_KEY]]
    if not lost:
        return NONE_VANISHED
    size = "their own size" if protocol.size == OWN else f"{protocol.size} x {protocol.size} pixels"
    larger = "" if protocol.size == OWN else "; the protocol official compares at the size of the masks"
    return (
        f"marked defects of which no pixel is left at {size}: {', '.join(lost)}; "
        f"their pixels count as normal{larger}"
    )


def vanished_warning(protocol: Mapping[str, Any]) -> str | None:
    """Return the warning of a protocol as metrics.json has it; None if no marked defect vanished."""
    words = protocol.get(_KEY, NONE_VANISHED)
    return None if words == NONE_VANISHED else str(words)
