"""The folder of a scoring: which it is, whether it may be written, and what of an earlier one goes.

unfinished.json   of what, while it is scored; without it and with metrics.json the folder is finished
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mvead_jax.evaluation.score_files import ScoreFiles, maps_path, read_images
from mvead_jax.jobs.workdir import is_artefact, refuse_artefact
from mvead_jax.report.attention import attended_path
from mvead_jax.report.overlays import remove_overlays
from mvead_jax.report.page import remove_report
from mvead_jax.runtime.console import command
from mvead_jax.runtime.environment import environment
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, remove, write_json

_UNFINISHED = "unfinished.json"


def default_output(workdir: Path, images: Path | None) -> Path:
    """<workdir>/scores for the test split, <workdir>/scores_<name of the folder> for new images.

    Raises:
      UserError: an artefact, which stays as it was exported.
    """
    if is_artefact(workdir):
        raise UserError(f"{workdir}: an artefact stays as it is; name a folder by --output")
    return workdir / ("scores" if images is None else f"scores_{images.resolve().name}")


def begin(output: Path, scored: str, categories: Sequence[str], decides: bool = False) -> ScoreFiles:
    """Empty lists, and nothing of an earlier scoring that would outlive this one.

    Args:
      categories: that the folder holds or is about to, for whoever comes next if this is killed.
      decides: decisions come with the scores.
    """
    write_json(output / _UNFINISHED, {"scored": scored, "categories": list(dict.fromkeys(categories))})
    for path in [*output.glob("metrics*.json"), *output.glob("regions*.csv"), output / "bootstrap.npz"]:
        remove(path)
    for name in categories:
        remove(maps_path(output, name))
        remove(attended_path(output, name))
    remove_report(output / "report")
    remove_overlays(output)
    files = ScoreFiles(output, decides)
    write_json(output / "environment.json", environment())
    write_json(output / "command.json", command())
    return files


def check_output(output: Path, scored: str) -> list[str]:
    """The categories whose scores `output` holds.

    Raises:
      UserError: `output` is neither new nor empty, and holds something else than scores of the same images.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; name a folder")
    refuse_artefact(output, "--output")
    if not output.exists() or all(path.name.startswith(".") for path in output.iterdir()):
        return []  # what is hidden was left by a writer that was killed
    if not any(
        (output / name).exists() for name in ("samples.csv", "images.csv", "metrics.json", _UNFINISHED)
    ):
        raise UserError(f"--output {output}: holds other files; name a new folder")
    path = output / _UNFINISHED
    try:
        if path.exists():  # killed before the end
            before = read_json(path, "what score.py began")
            source, categories = before["scored"], before["categories"]
        elif (path := output / "metrics.json").exists():
            before = read_json(path, "metrics of score.py")
            source, categories = before["protocol"].get("scored", scored), list(before["categories"])
        else:
            source, categories = scored, sorted({line.category for line in read_images(output)})
        categories = [name for name in categories if Path(name).name == name]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not written by score.py; name a new folder") from error
    if source != scored:
        raise UserError(f"--output {output}: holds the scores of {source}; name another folder")
    return categories


def finish(output: Path) -> None:
    """The folder is finished."""
    remove(output / _UNFINISHED)
