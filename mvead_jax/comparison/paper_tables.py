"""Our figures beside the papers', as JSON and as a page. All in percent; the papers' are marked with *.

A figure that nobody has (not run, not printed, one label only) is null in JSON and "-" on the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mvead_jax.comparison.defect_kinds import ALL, MEASURES
from mvead_jax.comparison.document import Block, Grid, Heading, Points, Table, protocol_block
from mvead_jax.comparison.papers import AVERAGE, AblationRow, Cost, ablation, cost, realiad
from mvead_jax.evaluation.markdown import difference, figure

_THEIRS = "Columns with * are the papers' figures as printed, measured by their authors on all of Real-IAD."


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
      metrics: the content of its metrics.json, or None.
      commit, devices: of the program and the machine that trained it.
      seconds: of training, from features in the cache to banks on disk.
      megabytes: of its models on disk.
      by_views: image AUROC of each category by how many views see the defect (defect_kinds.BY_VIEWS).
      resumed: it was stopped and went on, so `seconds` are those of its last stretch only.
      error: why it has no metrics.
    """

    metrics: Mapping[str, Any] | None = None
    commit: str | None = None
    devices: Sequence[str] = ()
    seconds: float | None = None
    megabytes: float | None = None
    by_views: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    resumed: bool = False
    error: str | None = None

    def mean(self, level: str, metric: str = "auroc") -> float | None:
        """A mean over categories, in percent."""
        return None if self.metrics is None else percent(self.metrics["mean"][level][metric])

    def protocol(self) -> dict[str, Any]:
        """How its figures came about, but for the digests."""
        own = self.metrics["protocol"] if self.metrics else {}
        digests = ("config_digest", "models_digest", "evaluation_digest")
        return {key: value for key, value in own.items() if key not in digests}

    def facts(self) -> dict[str, Any]:
        """What goes with its figures into JSON."""
        return {
            "categories": sorted(self.metrics["categories"]) if self.metrics else [],
            "commit": self.commit,
            "devices": list(self.devices),
            "protocol": self.protocol() or None,
            "error": self.error,
        }


NOT_RUN = Outcome()


def table3(outcomes: Mapping[str, Outcome]) -> Table:
    """The ablation. outcomes: by `AblationRow.spec`; rows that are missing stand empty."""
    printed = ablation()
    first = outcomes.get(printed[0].spec, NOT_RUN)
    rows, lines = [], []
    for number, row in enumerate(printed, 1):
        outcome = outcomes.get(row.spec, NOT_RUN)
        ours = {f"{level}_auroc": outcome.mean(level) for level in ("sample", "image")}
        gains = {
            "ours_minus_paper": minus(ours["image_auroc"], row.image_auroc),
            "ours_minus_our_row_1": minus(ours["image_auroc"], first.mean("image")),
            "paper_minus_its_row_1": minus(row.image_auroc, printed[0].image_auroc),
        }
        axes = {"fusion": row.fusion, "pretraining": row.pretraining, "bank": row.bank}
        rows.append(
            {"row": number, **axes, "ours": ours, "paper": {"image_auroc": row.image_auroc}}
            | gains
            | outcome.facts()
        )
        cells = [ours["sample_auroc"], ours["image_auroc"], row.image_auroc]
        lines.append(
            [str(number), *_axes(row), *map(figure, cells), *map(difference, _differences_of_row(gains))]
        )
    header = ["row", "fusion", "pre-training", "bank", "sample AUROC", "image AUROC", "image AUROC *"]
    header += ["ours - paper", "ours - our row 1", "paper - its row 1 *"]
    title = "Table 3 of MVEAD: fusion, pre-training and banks; AUROC in percent"
    blocks = blocks_of(
        title,
        [Grid(header, lines, left=4)],
        {f"row {r['row']}": outcomes.get(p.spec, NOT_RUN) for r, p in zip(rows, printed, strict=True)},
    )
    return Table("table3", {"title": title, "unit": "percent", "rows": rows}, blocks)


def figure5(outcomes: Mapping[tuple[str, int], Outcome], milliseconds: Mapping[str, float]) -> Table:
    """Cost and AUROC over backbones and centres.

    Args:
      outcomes: by (backbone, K).
      milliseconds: that each backbone takes for an image on this device.
    """
    printed: dict[tuple[str, int], Cost] = {(one.backbone, one.centers): one for one in cost()}
    rows, lines = [], []
    for key, outcome in outcomes.items():
        backbone, centers = key
        paper = printed.get(key)
        theirs = {
            "image_auroc": paper.image_auroc if paper else None,
            "training_hours_a5000": paper.training_hours if paper else None,
        }
        ours = {f"{level}_auroc": outcome.mean(level) for level in ("sample", "image")}
        time = {
            "training_seconds": outcome.seconds,
            "resumed": outcome.resumed,
            "backbone_milliseconds_per_image": milliseconds.get(backbone),
        }
        rows.append(
            {"backbone": backbone, "centers": centers, "ours": ours | time, "paper": theirs} | outcome.facts()
        )
        seconds = figure(outcome.seconds) + (" (last stretch)" if outcome.resumed else "")
        cells = [seconds, *(figure(ours[f"{level}_auroc"]) for level in ("sample", "image"))]
        lines.append(
            [
                *(backbone, str(centers), figure(milliseconds.get(backbone)), *cells),
                *(figure(theirs["image_auroc"]), figure(theirs["training_hours_a5000"], 2)),
            ]
        )
    header = ["backbone", "K", "backbone ms an image", "training s", "sample AUROC", "image AUROC"]
    header += ["image AUROC *", "training h on an A5000 *"]
    devices = sorted({device for outcome in outcomes.values() for device in outcome.devices})
    title = "Figure 5 of MVEAD: cost and AUROC over backbones and centres K"
    note = (
        f"Ours ran on {', '.join(devices) or 'nothing yet'}. Training: from features in the cache to banks "
        "on disk, all models of the run together. The paper's hours are those of all its training, on all of "
        "Real-IAD; it prints no other point of its figure as a number."
    )
    blocks = blocks_of(
        title, [Grid(header, lines), note], {f"{b} K={k}": o for (b, k), o in outcomes.items()}
    )
    return Table("fig5", {"title": title, "unit": "percent", "devices": devices, "rows": rows}, blocks)


def kinds_table(found: Mapping[str, Mapping[str, Any]], protocols: Mapping[str, Mapping[str, Any]]) -> Table:
    """Runs beside each other, by kind of defect.

    Args:
      found: what `kinds_of` says of each run, by its name; all of the same images.
      protocols: of each run.
    """
    names = list(found)
    first = found[names[0]]["mean"]
    sections = []
    for kind in (*sorted(set(first) - {ALL}), ALL):
        for measure in MEASURES:
            one = first[kind][measure]
            values = [percent(found[name]["mean"][kind][measure]["auroc"]) for name in names]
            cells = [kind, measure, str(one["defects"]), str(one["categories"])]
            sections.append(
                [*cells, *map(figure, values), *(difference(minus(v, values[0])) for v in values[1:])]
            )
    header = ["kind", "AUROC of", "defects", "categories", *names]
    header += [f"{name} - {names[0]}" for name in names[1:]]
    title = "AUROC in percent by kind of defect, plain mean over the categories that have it"
    note = (
        "sample: defective samples of the kind against normal samples. image: images that show it against "
        "all normal images. seen once, twice, more: as image, of samples that show the defect in one view, in "
        "two, in three or more."
    )
    blocks = [Heading(title), Grid(header, sections, left=2), note, protocol_block(protocols)]
    content = {
        "title": title,
        "unit": "share of 1",
        "runs": {name: {**found[name], "protocol": dict(protocols[name])} for name in names},
    }
    return Table("kinds", content, blocks)


def _axes(row: AblationRow) -> list[str]:
    return [row.fusion, row.pretraining, row.bank]


def _differences_of_row(gains: Mapping[str, float | None]) -> list[float | None]:
    return [gains[key] for key in ("ours_minus_paper", "ours_minus_our_row_1", "paper_minus_its_row_1")]


def blocks_of(
    title: str,
    parts: Iterable[Block],
    outcomes: Mapping[str, Outcome],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> list[Block]:
    """Return the page of a table: its parts, and below them what holds for all its figures.

    Args:
      outcomes: by the names of the runs. groups: of runs, as of `protocol_points`.
    """
    blocks: list[Block] = [Heading(title), *parts, _THEIRS]
    found = [outcome.metrics["categories"] for outcome in outcomes.values() if outcome.metrics]
    ours = {category for categories in found for category in categories}
    if ours and ours != {place.category for place in realiad()} - {AVERAGE}:
        blocks.append(
            f"Ours are of other categories than the papers' 30 ({', '.join(sorted(ours))}): compare gains, "
            "not levels."
        )
    failed = [f"{name}: {outcome.error}" for name, outcome in outcomes.items() if outcome.error]
    blocks.append(Points.flat("Failed:", failed))
    protocols = {name: one.protocol() for name, one in outcomes.items() if one.metrics}
    return [*blocks, protocol_block(protocols, groups)]


def percent(share: float | None) -> float | None:
    """Return a share in percent. metrics.json says null where there is no figure, `metrics_of` says NaN."""
    return None if share is None or math.isnan(share) else 100 * share


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
