"""The metrics of a finished scoring again, by other protocols or lists, from its files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mvead_jax.config.schema import Config
from mvead_jax.data.deep_images import BIT_DEPTHS
from mvead_jax.evaluation.score_files import scored_files
from mvead_jax.evaluation.sealed_metrics import check_files as check_score_files
from mvead_jax.evaluation.sealed_metrics import read_sealed
from mvead_jax.jobs.decision import FACTS
from mvead_jax.jobs.evaluate import evaluate
from mvead_jax.jobs.inputs import test_split
from mvead_jax.jobs.report_pages import write_images, write_page
from mvead_jax.jobs.scores_folder import default_output
from mvead_jax.jobs.workdir import EVALUATED, trained_config
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import locked


def evaluate_again(
    workdir: Path,
    output: Path | None = None,
    *,
    overrides: Mapping[str, str] | None = None,
    protocols: Sequence[str] = (),
    report: bool = True,
    overlays: bool = False,
) -> dict[str, Any]:
    """Return the metrics of a finished scoring of the test split, from its files: no model, backbone or features.

    Args and returns as `score`.

    Raises:
      UserError: as `score`; the scoring is not finished.
    """
    config = trained_config(workdir, overrides or {}, EVALUATED)
    output = output or default_output(workdir, None)
    _sealed_metrics(output)  # or there is nothing to lock
    with locked(output):
        return _evaluated(config, workdir, output, protocols, report, overlays)


def _evaluated(
    config: Config, workdir: Path, output: Path, protocols: Sequence[str], report: bool, overlays: bool
) -> dict[str, Any]:
    """`evaluate_again` in a folder that nobody else writes into."""
    before = _sealed_metrics(output)
    try:
        words, categories = dict(before["protocol"]), tuple(before["categories"])
        scored = words["scored"]
        made = {name: own["decision"] for name, own in before["categories"].items() if "decision" in own}
        decided = {name: {key: own[key] for key in FACTS if key in own} for name, own in made.items()}
        attended = [name for name in before.get("files", ()) if name.startswith("attended/")]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{output / 'metrics.json'}: not written by score.py; score again") from error
    if scored != "test split":
        raise UserError(f"{output}: holds the scores of {scored}, of which no labels are known")
    check_score_files(output, before, [*scored_files(categories), *attended])
    # What was scored is fixed, and it may have been scored by other lists than it was trained on.
    data = replace(
        config.data,
        categories=categories,
        lists=str(words.get("lists", config.data.lists)),
        incomplete=words.get("incomplete_samples", config.data.incomplete),
    )
    told = words.get("bit_depth")
    index = test_split(replace(config, data=data), told if told in BIT_DEPTHS else 8, ())
    metrics = evaluate(output, index, words, config, protocols, decided)
    if report:
        write_page(output, index, workdir)
    if overlays:
        write_images(output, index, workdir)
    return metrics


def _sealed_metrics(output: Path) -> dict[str, Any]:
    return read_sealed(output / "metrics.json", "the scores of a finished mvead score")
