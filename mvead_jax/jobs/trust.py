"""What a run is where no pair of views has a trusted geometry: said before anything is trained, and in its files."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvead_jax.config.schema import Config
from mvead_jax.geometry.category import CategoryGeometry
from mvead_jax.jobs.estimate_geometry import geometry_path
from mvead_jax.jobs.events import forget, read_events, record

log = logging.getLogger(__name__)

_STAGE = "method"
_NEXT = "say where the cameras stand (geometry.nominal), or give them (geometry.cameras)"


def with_trust(config: Config, geometries: Mapping[str, CategoryGeometry]) -> Config:
    """Return the config of the method that a run is: another one if no category has a trusted pair of views."""
    trusted = any(pair.ok for geometry in geometries.values() for pair in geometry.pairs.values())
    return config if trusted or not geometries else config.without_trust()


def record_method(
    asked: Config, config: Config, geometries: Mapping[str, CategoryGeometry], workdir: Path
) -> None:
    """Say which method a run is in the place of the one that was asked for, why, and what would mend it."""
    if config == asked:
        if method_words(workdir):
            forget(workdir, {"stage": _STAGE})
        return
    reasons = [
        f"{category}: {geometry.views[a]} and {geometry.views[b]}: {pair.quality.get('reason', 'not trusted')}"
        for category, geometry in geometries.items()
        for (a, b), pair in sorted(geometry.pairs.items())
    ]
    words = (
        f"{config.method}, not {asked.method}: no pair of views is trusted, so nothing is fused and nothing is "
        "pre-trained"
    )
    event = {"stage": _STAGE, "words": words, "next": _NEXT, "reasons": reasons}
    if event not in read_events(workdir):
        record(workdir, event)
    log.warning("this run is %s", words)
    for reason in reasons:
        log.warning("  %s", reason)
    place = geometry_path(workdir, next(iter(geometries))).parent
    log.warning("to fuse views, %s, and take another --workdir; the evidence is in %s", _NEXT, place)


def method_words(workdir: Path) -> dict[str, Any]:
    """Return for the protocol what a run is in the place of the method that was asked for; empty if it is that one."""
    found = [one for one in read_events(workdir) if one["stage"] == _STAGE]
    return {"method_trained": f"{found[-1]['words']}; to fuse views, {found[-1]['next']}"} if found else {}
