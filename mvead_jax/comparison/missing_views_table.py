"""Runs beside each other with views left out of the test samples: what each loses by cameras that fail."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mvead_jax.comparison.configs_table import Estimate, estimate
from mvead_jax.comparison.document import Grid, Heading, Table, protocol_block


class Line(Protocol):
    """AUROC of a category in one draw of so many missing views (jobs/missing_views.py)."""

    category: str
    missing: int
    auroc: float
    seen: float


def missing_views_table(
    found: Mapping[str, Mapping[str, Sequence[Line]]],
    protocols: Mapping[str, Mapping[str, Any]],
    draws: int,
    seed: int,
) -> Table:
    """Return the table of runs with missing views.

    Args:
      found: {run: {data set: lines}}. A cell is a category of one data set.
      protocols: of each run. draws, seed: by which the lines came about.
    """
    whole = {name: _cells(own, "auroc") for name, own in found.items()}
    seen = {name: _cells(own, "seen") for name, own in found.items()}
    steps = sorted({missing for own in whole.values() for missing in own})
    title = "Sample AUROC with views left out, percent; mean over the cells +/- standard error"
    note = (
        f"Views are left out of each test sample at random, in {draws} draws (seed {seed}) whose mean is a cell's "
        "value; a cell is a category of one data set. A method that needs several views has no figure where too "
        "few are left."
    )
    header = ["run", *(f"{missing or 'none'} missing" for missing in steps)]
    lines = [[name, *(estimate(_values(own, step)).text for step in steps)] for name, own in whole.items()]
    gains = [[name, *(_change(own, step).signed for step in steps[1:])] for name, own in whole.items()]
    shown = [[name, *(estimate(_values(own, step)).text for step in steps)] for name, own in seen.items()]
    blocks = [
        *(Heading(title), Grid(header, lines), note),
        "Less than with all views, of the same cells:",
        Grid([header[0], *header[2:]], gains),
        "Only defects that a view still shows:",
        *(Grid(header, shown), protocol_block(protocols)),
    ]
    content = {
        "title": title,
        "unit": "percent",
        "draws": draws,
        "seed": seed,
        "rows": [
            {
                "name": name,
                "sample AUROC": {str(step): estimate(_values(whole[name], step))._asdict() for step in steps},
                "defects still seen": {
                    str(step): estimate(_values(seen[name], step))._asdict() for step in steps
                },
                "cells": {
                    str(step): {"/".join(cell): value for cell, value in whole[name].get(step, {}).items()}
                    for step in steps
                },
            }
            for name in found
        ],
    }
    return Table("missing-views", content, blocks)


def _cells(found: Mapping[str, Sequence[Line]], measure: str) -> dict[int, dict[tuple[str, str], float]]:
    """Return {missing: {cell: percent, the mean over the draws}}, without the cells that have no value."""
    values: dict[int, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for root, lines in found.items():
        for line in lines:
            values[line.missing][root, line.category].append(100 * getattr(line, measure))
    means = {
        missing: {cell: math.fsum(own) / len(own) for cell, own in cells.items()}
        for missing, cells in values.items()
    }
    return {
        missing: {cell: value for cell, value in cells.items() if not math.isnan(value)}
        for missing, cells in means.items()
    }


def _values(own: Mapping[int, Mapping[tuple[str, str], float]], step: int) -> list[float]:
    return list(own.get(step, {}).values())


def _change(own: Mapping[int, Mapping[tuple[str, str], float]], step: int) -> Estimate:
    whole = own.get(0, {})
    return estimate([value - whole[cell] for cell, value in own.get(step, {}).items() if cell in whole])
