"""What a command says when it is done: the answer in a few lines. Files, and --verbose, have the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvead_jax.decision.rates import decision_lines, format_decisions
from mvead_jax.evaluation.score_files import read_samples
from mvead_jax.evaluation.tables import format_summary, format_table
from mvead_jax.jobs.events import read_events
from mvead_jax.jobs.trust import method_words
from mvead_jax.jobs.workdir import model_folder, model_names
from mvead_jax.runtime.files import read_json
from mvead_jax.scoring.model_store import read_facts

_HIGHEST = 3  # samples that are named where nothing is decided
_UNDECIDED = (
    "no sample is passed or failed, for no good part was held out to set a threshold; train with "
    "--config.decision.held_out=0.3"
)


def training_answer(workdir: Path) -> str:
    """Return what was learned from how many samples, above which score a sample fails, and the next command."""
    lines = []
    for name in model_names(workdir):
        learned = read_facts(model_folder(workdir, name))["training"]
        lines.append(f"{name}: learned from {learned['samples']} samples, {learned['views']} images")
    decided = {one["category"]: one for one in read_events(workdir) if one["stage"] == "decision"}
    for category, one in decided.items():
        lines.append(
            f"{category}: a sample fails above {one['threshold']:.4g}, by {one['held_out']} held-out samples and "
            f"at most {100 * one['target']:g} % false alarms"
        )
    if not decided:
        lines.append(_UNDECIDED)
    lines += [f"method: {words}" for words in method_words(workdir).values()]
    return "\n".join([*lines, f"trained: {workdir}; next: mvead score --workdir {workdir}"])


def scoring_answer(
    output: Path, metrics: Mapping[str, Any], protocols: Sequence[str], *, labelled: bool, full: bool
) -> str:
    """Return the verdict, the table of metrics where labels are known, and where the report lies.

    Args:
      output: folder of the scores. metrics: what lies in its metrics.json.
      protocols: of metrics_<name>.json, whose tables take the place of that of the run's own protocol.
      full: all metrics with their intervals, and the protocols.
    """
    parts = [format_decisions(metrics) if full else "\n".join(decision_lines(metrics))]
    if not parts[0]:
        parts = [_highest(output), _UNDECIDED]
    tables = [(name, read_json(output / f"metrics_{name}.json", "metrics")) for name in protocols]
    for name, found in tables or ([("", metrics)] if labelled else []):
        title = f"protocol {name}:\n" if name else ""
        parts.append(title + (format_table(found) if full else format_summary(found)))
    parts += [
        f"method: {metrics['protocol'][key]}" for key in ("method_trained",) if key in metrics["protocol"]
    ]
    page = output / "report" / "index.html"
    parts.append(f"written to {output}" + (f"\nreport: {page}" if page.exists() else ""))
    return "\n\n".join(parts) if full else "\n".join(parts)


def _highest(output: Path) -> str:
    """Return the samples with the highest scores, by name."""
    samples = sorted(read_samples(output), key=lambda one: -one.score)
    told = ", ".join(f"{one.sample} {one.score:.4g}" for one in samples[:_HIGHEST])
    return f"{len(samples)} samples scored; highest: {told}"
