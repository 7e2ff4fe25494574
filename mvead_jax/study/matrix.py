"""Several studies beside each other: device x precision x flags, against how far the runs of each differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mvead_jax.evaluation.markdown import markdown
from mvead_jax.runtime.errors import UserError
from mvead_jax.study.budget import PASSED
from mvead_jax.study.repeatability import RUNS, TOLERANCE, relative_difference
from mvead_jax.study.report import number, verdict

BIT_EQUAL, WITHIN, DECISIONS, DIFFERENT = "bit-equal", "within tolerance", "same decisions", "different"
_HARDWARE = {"cpu": "CPU", "gpu": "GPU", "tpu": "TPU"}
_NONE = "not run"


def matrix(studies: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a row for each study and precision, JSON-ready.

    "pass" is false where two of float32 are too far apart, where a study failed, and where one could be compared with
    no other.

    Args:
      studies: the content of each study.json by its name; two or more.

    Raises:
      UserError: no two can be compared in float32.
    """
    rows = [_row(name, study, precision) for name, study in studies.items() for precision in RUNS]
    for row in rows:
        row["against"] = {
            other["study"]: _apart(row["run"], other["run"], row["weights"] == other["weights"])
            for other in rows
            if other["precision"] == row["precision"] and other is not row
        }
        own = next(one for one in rows if one["study"] == row["study"] and one["precision"] == "float32")
        row["own_float32"] = None if own is row else _apart(row["run"], own["run"], True)
    problems = [
        f"{row['study']} and {other}, {row['precision']}: {cell['level']}, {cell['difference']:.2g} of the median score"
        for row in rows
        for other, cell in row["against"].items()
        if row["study"] < other and row["precision"] == "float32" and cell["level"] in (DECISIONS, DIFFERENT)
    ]
    problems += _alone([row for row in rows if row["precision"] == "float32"])
    problems += [f"{name}: the study itself failed" for name, study in studies.items() if _failed(study)]
    for row in rows:
        row["floor"] = row.pop("run").get("floor")
    lacking = [name for name in _HARDWARE if name not in {row["backend"] for row in rows}]
    return {
        "tolerance": TOLERANCE,
        "rows": rows,
        "not_run": lacking,
        "problems": problems,
        "pass": not problems,
    }


def _failed(study: Mapping[str, Any]) -> bool:
    """Return whether an item failed, or the study says so; one in which nothing ran neither passed nor failed."""
    found = verdict(study)
    return found == "FAIL" or (found == "PASS" and not study["passed"])


def _alone(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the studies that were compared with no other, a line each. Raises UserError: all of them."""
    lines = [
        f"{row['study']}: compared with no other study, {row['precision']}: {_reasons(row)}"
        for row in rows
        if not any("difference" in cell for cell in row["against"].values())
    ]
    if len(lines) == len(rows):
        raise UserError(
            f"nothing to compare: {rows[0]['study']} and {_reasons(rows[0])}; give studies whose float32 runs "
            "were done, with the same weights, samples and stages"
        )
    return lines


def _reasons(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{other}: {cell['level']}" for other, cell in row["against"].items())


def _row(name: str, study: Mapping[str, Any], precision: str) -> dict[str, Any]:
    own, checks = study["environment"], [one for one in study["correctness"] if one["name"] != "all"]
    run = next((one for one in study["repeatability"] if one["name"] == precision), {})
    stages = run.get("stages", {})
    return {
        "study": name,
        "backend": own["backend"],
        "device": own["device"],
        "devices": own["device_count"],
        "processes": own["processes"],
        "jax": own["packages"]["jax"] or "-",
        "flags": own["xla_flags"],
        "weights": study["weights"],
        "precision": precision,
        "checks": [sum(one["status"] == PASSED for one in checks), len(checks)],
        "runs": run.get("runs", 0),
        "repeats": bool(stages) and all(one["equal"] for one in stages.values()),
        "run": run,
    }


def _apart(a: Mapping[str, Any], b: Mapping[str, Any], same_weights: bool) -> dict[str, Any]:
    """Return how far two runs are apart: the strictest of the three levels that holds, and by how much."""
    if "scores" not in a or "scores" not in b:
        return {"level": _NONE}
    if not same_weights:
        return {"level": "other weights"}
    if why := _not_comparable(a, b):
        return {"level": f"not compared: {why}"}
    difference = relative_difference(a["scores"], b["scores"])
    differing = [stage for stage, one in a["stages"].items() if one["digest"] != b["stages"][stage]["digest"]]
    floors = [a["floor"], b["floor"]]
    found = {
        "difference": difference,
        "floor": None if None in floors else max(floors),
        "differing": differing,
    }
    if not differing:
        return {"level": BIT_EQUAL, **found}
    if a["decisions"] != b["decisions"]:
        return {"level": DIFFERENT, **found}
    return {"level": WITHIN if difference <= TOLERANCE else DECISIONS, **found}


def _not_comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Return what two runs that were both done do not share; nothing if they can be compared."""
    if others := sorted(a["stages"].keys() ^ b["stages"].keys()):
        return f"only one has the stages {', '.join(others)}"
    for part in ("scores", "decisions"):
        if len(a[part]) != len(b[part]):
            return f"other test samples, {len(a[part])} and {len(b[part])} {part}"
    scores = (*a["scores"], *b["scores"])
    return "" if all(one is not None and math.isfinite(one) for one in scores) else "a score is no number"


def format_matrix(found: Mapping[str, Any]) -> str:
    """Return the matrix as Markdown: columns 1, 2 ... are the studies in their order."""
    names = list(dict.fromkeys(row["study"] for row in found["rows"]))
    numbers = {name: str(at) for at, name in enumerate(names, 1)}
    header = ["", "device", "devices x processes", "jax", "flags", "precision", "checks", "run to run"]
    header += [*numbers.values(), "own float32"]
    lines = [_line(row, names, numbers) for row in found["rows"]]
    lines += [["", _HARDWARE[name], *[_NONE] * (len(header) - 2)] for name in found["not_run"]]
    parts = [
        "\n".join(f"{at}: {name}" for name, at in numbers.items()),
        markdown(header, lines, left=7),
        f"bit-equal: all stages are the same bytes; within tolerance: the scores differ by at most "
        f"{found['tolerance']:g} of their median and the decisions are the same; numbers are that difference.",
        "\n".join([f"FAIL: {line}" for line in found["problems"]]) or "PASS",
    ]
    return "\n\n".join(parts)


def _line(row: Mapping[str, Any], names: Sequence[str], numbers: Mapping[str, str]) -> list[str]:
    count = row["devices"] // row["processes"]
    floor = "bit-equal" if row["repeats"] else number(row["floor"])
    cells = [_cell(row["against"].get(name)) for name in names]
    return [
        *(
            numbers[row["study"]],
            row["device"],
            f"{count} x {row['processes']}",
            row["jax"],
            row["flags"] or "-",
        ),
        *(row["precision"], f"{row['checks'][0]} of {row['checks'][1]}" if row["checks"][1] else _NONE),
        f"{floor} ({row['runs']} runs)" if row["runs"] else _NONE,
        *(*cells, _cell(row["own_float32"])),
    ]


def _cell(apart: Mapping[str, Any] | None) -> str:
    if apart is None:
        return "-"
    return f"{apart['level']} {apart['difference']:.1e}" if apart.get("differing") else apart["level"]
