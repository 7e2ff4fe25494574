"""The files of a study: study.json, which schema.json describes, and study.md, a page of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvead_jax.evaluation.markdown import markdown
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import finite, read_json, write_json, write_text
from mvead_jax.study.budget import FAILED, NOT_RUN, Item
from mvead_jax.study.schema import problem_of

JSON, PAGE = "study.json", "study.md"
VERSION = 1  # of study.json
STAGES = ("correctness", "repeatability", "controls", "throughput", "scaling")


def write_study(folder: Path, study: Mapping[str, Any]) -> None:
    """Write both files."""
    content = finite(dict(study))
    if problem := problem_of(content):
        raise AssertionError(f"the study does not fit its schema: {problem}")
    write_json(folder / JSON, content)
    write_text(folder / PAGE, page(content))


def is_study(path: Path) -> bool:
    """Return whether a folder, or a file, is that of a study."""
    return (path / JSON).is_file() or (path.is_file() and path.suffix == ".json")


def read_study(path: Path) -> dict[str, Any]:
    """Return the content of study.json in a folder, or of such a file.

    Raises:
      UserError: no study, a damaged one, or one of a newer program.
    """
    file = path / JSON if path.is_dir() else path
    found = read_json(file, "the folder of mvead study-device")
    version = found.get("version") if isinstance(found, dict) else None
    if isinstance(version, int | float) and version > VERSION:
        raise UserError(
            f"{file}: version {version}, which a newer program wrote; this one reads {VERSION}: update mvead_jax"
        )
    if problem := problem_of(found):
        raise UserError(f"{file}: not written by mvead study-device ({problem}); run the study again")
    return found


def verdict(study: Mapping[str, Any]) -> str:
    """Return PASS, FAIL or NOTHING RAN, as the items say."""
    if failures(study):
        return "FAIL"
    ran = any(item["status"] != NOT_RUN for stage in STAGES for item in study[stage])
    return "PASS" if ran else "NOTHING RAN"


def failures(study: Mapping[str, Any]) -> list[str]:
    """Return what failed, a line each."""
    return _with_status(study, FAILED)


def left_out(study: Mapping[str, Any]) -> list[str]:
    """Return what was not run, a line each."""
    return _with_status(study, NOT_RUN)


def _with_status(study: Mapping[str, Any], status: str) -> list[str]:
    return [
        f"{stage}: {item['name']}: {item.get('reason', 'no reason is told')}"
        for stage in STAGES
        for item in study[stage]
        if item["status"] == status
    ]


def page(study: Mapping[str, Any]) -> str:
    """Return the study as Markdown."""
    own = study["environment"]
    packages = own["packages"]
    parts = [
        f"# Study of {own['device']} ({own['backend']}, {own['device_count']} devices, {own['processes']} processes)",
        f"{verdict(study)} in {study['seconds']:.0f} s of {60 * study['minutes']:.0f} s. "
        f"jax {packages['jax']}, jaxlib {packages['jaxlib']}, Python {own['python']}, driver {own['driver']}, "
        f"XLA_FLAGS `{own['xla_flags']}`. Backbone of the runs: {study['weights']}.",
        _of_gpus(own) if own["backend"] == "gpu" else "",
        _list("Failed:", failures(study)),
        _list("Not run:", left_out(study)),
        "## Correctness, beside float64",
        _table(("check", "status", "largest difference / RMS", "tolerance"), study["correctness"], _check),
        "## Repeatability of a short training and scoring",
        _table(
            ("precision", "status", "runs", "compiled anew", "scores differ by"),
            study["repeatability"],
            _runs,
        ),
        *map(_stages, study["repeatability"]),
        "## Controls: changes that the checks must find",
        _table(("control", "status", "difference", "tolerance", "of what"), study["controls"], _control),
        "## Throughput",
        _table(("what", "rate", "TFLOP/s", "share of a plain product"), study["throughput"], _rate),
        "## Scaling",
        _table(("what", "rate", "efficiency"), study["scaling"], _grown),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _of_gpus(own: Mapping[str, Any]) -> str:
    cache = "with" if own.get("compilation_cache") else "without"
    return f"{', '.join(f'{name} {value}' for name, value in own['of_gpus'].items())}; {cache} a compilation cache."


def _list(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, "", *(f"- {line}" for line in lines)]) if lines else ""


def _table(header: Sequence[str], items: Sequence[Item], row: Any) -> str:
    return markdown(list(header), [[item["name"], *row(item)] for item in items], left=2)


def number(value: Any, digits: str = ".2g") -> str:
    """Return a number for a table; of none a dash."""
    return "-" if value is None else format(value, digits)


def _check(item: Item) -> list[str]:
    return [item["status"], number(item.get("largest")), number(item.get("tolerance"))]


def _runs(item: Item) -> list[str]:
    anew = {True: "the last", False: "none"}.get(item.get("compiled_anew"), "-")
    return [item["status"], number(item.get("runs"), "d"), anew, number(item.get("floor"))]


def _stages(item: Item) -> str:
    found = item.get("stages", {})
    if not found:
        return ""
    cells = ["bit-equal" if own["equal"] else "not equal" for own in found.values()]
    return markdown([item["name"], *found], [["same bytes", *cells]], left=1)


def _control(item: Item) -> list[str]:
    return [
        item["status"],
        number(item.get("difference")),
        number(item.get("tolerance")),
        item.get("how", "-"),
    ]


def _rate(item: Item) -> list[str]:
    rate = f"{item['value']:.4g} {item['unit']}" if "value" in item else item["status"]
    return [rate, number(item.get("tflops"), ".3g"), number(item.get("share_of_product"), ".2f")]


def _grown(item: Item) -> list[str]:
    rate = f"{item['value']:.4g} {item['unit']}" if "value" in item else item["status"]
    return [rate, number(item.get("efficiency"), ".2f")]
