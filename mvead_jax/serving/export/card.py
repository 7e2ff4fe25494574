"""MODEL_CARD.md of an artefact: what it is, what it was measured by, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from mvead_jax.backbones.base import Backbone
from mvead_jax.config.schema import Config
from mvead_jax.evaluation.markdown import figure, format_protocols, markdown
from mvead_jax.evaluation.metrics import LEVELS, TITLES
from mvead_jax.jobs.provenance import training_words
from mvead_jax.serving.export.golden import TOLERANCE


def model_card(
    config: Config,
    backbone: Backbone,
    facts: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, Any] | None,
    decision: str,
    environments: Mapping[str, Mapping[str, Any]],
    sizes: Mapping[str, int],
    digest: str,
    golden: int,
) -> str:
    """Return the text.

    Args:
      facts: of each model, as train.py left them with the models.
      metrics: of the scoring of the test split; None if there is none.
      decision: how samples pass and fail, in words.
      environments: "trained" and "exported" on what; "measured" if there are metrics.
      sizes: bytes below each folder. digest: of the models' files. golden: scorings to verify by.
    """
    categories = sorted({one for own in facts.values() for one in own["categories"]})
    views = list(dict.fromkeys(view for own in facts.values() for view in own["views"]))
    counts, info = [own["training"] for own in facts.values()], backbone.info
    parts = [
        f"# {config.method} on {backbone.info.name}: {', '.join(categories)}",
        "An anomaly detector for parts that are photographed by fixed cameras. It learned how good parts "
        "look; a part scores by how far its most unusual patch is from everything seen in training. Made by "
        "mvead_jax, `mvead export`.",
        "## Data",
        f"- categories: {', '.join(categories)}; views: {', '.join(views)}",
        f"- trained on {training_words(counts)}",
        f"- input: {backbone.image_size} x {backbone.image_size} pixels, resized without cropping",
        "- golden/ holds images of the data set, models/ what was learned from its training images, which "
        "may be their features: who gets the artefact gets these",
        "## Metrics",
        *_metrics(metrics),
        "## Decision",
        f"- {decision}",
        "## Intended use, and limits",
        "- to point out parts that look unlike the good ones of training, for a person or a further test to "
        "judge; not as the only safeguard where a missed defect harms someone",
        "- for the same kind of part, cameras, places of cameras, light and preprocessing as in training: "
        "anything that changes the images of good parts raises their scores",
        "- what the training images show is taken as good, defects among them too; a defect that no camera "
        f"sees, or smaller than a cell of the feature maps ({_cells(backbone)} of {backbone.image_size} pixels), "
        "may be missed",
        "- a sample with a missing view is scored by the others and says so",
        *_untrained(backbone),
        "## Hardware",
        *(f"- {what} on {_hardware(own)}" for what, own in environments.items()),
        f"- scores on other devices, or by another release of XLA, may differ in the last bits; verify.py "
        f"allows {TOLERANCE:g} of a sample's largest score",
        "## Licences",
        f"- weights: {info.licence}"
        + (f" (here: {info.weights})" if info.trained else "; not used here, the weights are random"),
        "- data: under the terms of its owner, which this program does not know; they hold for golden/ and, "
        "as they may see it, for models/",
        "- program: mvead_jax, Apache-2.0",
        "## Files and hashes",
        *(f"- {name}: {size / 1e6:.1f} MB" for name, size in sizes.items()),
        f"- backbone: {backbone.digest}",
        f"- models: {digest}",
        "- each file: manifest.json (SHA-256), which manifest.sha256 seals",
        f"- `mvead verify <this folder>` compares all hashes and {golden} golden scorings",
    ]
    text = parts[0]
    for before, part in pairwise(parts):
        text += ("\n" if before.startswith("- ") and part.startswith("- ") else "\n\n") + part
    return text + "\n"


def _metrics(metrics: Mapping[str, Any] | None) -> Sequence[str]:
    if metrics is None:
        return ["Not measured: the workdir had no scores of the test split when this was exported."]
    lines = []
    for category, levels in {**metrics["categories"], "mean": metrics["mean"]}.items():
        for level, names in LEVELS.items():
            values = [levels[level].get(name) for name in names]
            cells = [figure(None if value is None else 100 * value) for value in values]
            lines.append([category, level, *cells, *[""] * (4 - len(cells))])
    header = ["category", "level", *(f"{TITLES[name]} %" for name in LEVELS["pixel"])]
    return [
        "Of the test split; what they were measured by is below them, and they hold for nothing else.",
        markdown(header, lines, 2),
        format_protocols({"this": metrics["protocol"]}),
    ]


def _cells(backbone: Backbone) -> str:
    strides = sorted({backbone.image_size // shape[1] for shape in backbone.shapes.values()})
    return ", ".join(f"{stride} x {stride}" for stride in strides)


def _untrained(backbone: Backbone) -> Sequence[str]:
    return () if backbone.info.trained else ("- UNTRAINED backbone: random weights, for tests only",)


def _hardware(environment: Mapping[str, Any]) -> str:
    return (
        f"{environment.get('cpu') or 'an unknown CPU'}, {environment.get('cpus')} cores; "
        f"{', '.join(environment.get('devices', []))}; jax {environment.get('packages', {}).get('jax')}"
    )
