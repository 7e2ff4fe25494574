"""Tables 1 and 2 of MVEAD: a line for each category, a column for each of our methods and each of the papers'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvead_jax.comparison.document import Block, Grid, Heading, Points, Table
from mvead_jax.comparison.paper_tables import Outcome, blocks_of, mean, minus, percent
from mvead_jax.comparison.papers import AVERAGE, SETTINGS, SYSTEMS, Place, all_systems, papers_of, realiad
from mvead_jax.evaluation.markdown import difference, figure
from mvead_jax.evaluation.metrics import LEVELS, TITLES

LEVEL_OF_TABLE = {1: "sample", 2: "image"}
OURS = "ours"  # the column of a table of one method
_Figures = Mapping[Place, float]
_Ours = Mapping[str, float | None]  # a figure of each of our columns


@dataclass(frozen=True)
class Column:
    """One of our methods.

    Attributes:
      name: at the head of the column; OURS for the only one of a table that has MVEAD's systems alone beside it.
      method: its name.
      systems: of the papers: it stands beside the first of them that has a figure of the metric.
      outcomes: {setting: {run: outcome}}, settings "single" or "multi"; a run may hold several categories.
    """

    name: str
    method: str
    systems: Sequence[str]
    outcomes: Mapping[str, Mapping[str, Outcome]]


@dataclass(frozen=True)
class _Level:
    """What the parts of a table share: its level, our columns, and the papers' figures by setting."""

    level: str
    columns: Sequence[Column]
    figures: _Figures

    @property
    def alone(self) -> bool:
        return [column.name for column in self.columns] == [OURS]

    def systems(self, printed: str, metric: str) -> list[str]:
        """The systems whose `metric` some paper prints in this setting."""
        shown = SYSTEMS if self.alone else all_systems()
        return [one for one in shown if Place(self.level, printed, AVERAGE, one, metric) in self.figures]

    def papers(self, printed: str, category: str) -> dict[str, dict[str, float]]:
        """What the papers print of a category: {system: {metric: percent}}."""
        found: dict[str, dict[str, float]] = {}
        for metric in LEVELS[self.level]:
            for system in self.systems(printed, metric):
                place = Place(self.level, printed, category, system, metric)
                if place in self.figures:
                    found.setdefault(system, {})[metric] = self.figures[place]
        return found

    def ours(self, setting: str) -> dict[str, dict[str, dict[str, float | None]]]:
        """What our columns have: {category: {column: {metric: percent}}}."""
        found: dict[str, dict[str, dict[str, float | None]]] = {}
        for column in self.columns:
            for outcome in column.outcomes.get(setting, {}).values():
                for category, values in outcome.metrics["categories"].items() if outcome.metrics else ():
                    own = {metric: percent(values[self.level][metric]) for metric in LEVELS[self.level]}
                    found.setdefault(category, {})[column.name] = own
        return found

    def told(self, values: Mapping[str, Any]) -> Any:
        """Figures by column as JSON has them: of the only one itself."""
        return values.get(OURS) if self.alone else values


def table_of_categories(number: int, columns: Sequence[Column]) -> Table:
    """Return table 1 (samples) or 2 (images)."""
    level = LEVEL_OF_TABLE[number]
    table = _Level(level, columns, realiad())
    title = f"Table {number} of MVEAD: {level} level, a line for each category, in percent"
    content: dict[str, Any] = {"title": title, "unit": "percent", "level": level, "settings": {}}
    parts: list[Block] = []
    if not table.alone:
        content["columns"] = {
            one.name: {"method": one.method, "beside": list(one.systems)} for one in columns
        }
        parts.append(_columns_block(columns))
    for setting in dict.fromkeys(setting for column in columns for setting in column.outcomes):
        content["settings"][SETTINGS[setting]], own = _setting_part(table, setting)
        parts += own
    if not table.alone:
        parts.append(_papers_block(content["settings"]))
    parts.append(_unfinished_block(columns))
    runs = {
        (f"{setting} {name}" if table.alone else name): outcome
        for column in columns
        for setting, own in column.outcomes.items()
        for name, outcome in own.items()
    }
    blocks = blocks_of(title, parts, runs, None if table.alone else _groups(columns))
    return Table(f"table{number}", content, blocks)


def _setting_part(table: _Level, setting: str) -> tuple[dict[str, Any], list[Block]]:
    """Return one setting as JSON and as blocks, a grid for each metric."""
    printed, ours = SETTINGS[setting], table.ours(setting)
    papers = {category: table.papers(printed, category) for category in ours}
    average = table.papers(printed, AVERAGE)
    told: dict[str, Any] = {
        "categories": {
            category: {"ours": table.told(ours[category]), "papers": papers[category]}
            for category in sorted(ours)
        },
        "mean": {},
        "printed_average": average,
        "runs": {
            name: outcome.facts()
            for column in table.columns
            for name, outcome in column.outcomes.get(setting, {}).items()
        },
    }
    blocks: list[Block] = []
    for metric in LEVELS[table.level]:
        systems = table.systems(printed, metric)
        values = {
            category: (
                {name: own[metric] for name, own in ours[category].items()},
                _of(papers[category], metric),
            )
            for category in sorted(ours)
        }
        means = _means(values, systems, [column.name for column in table.columns])
        told["mean"][metric] = means | {key: table.told(means[key]) for key in ("ours", "ours_all")}
        blocks += [
            Heading(f"{printed}, {table.level} {TITLES[metric]}", 2),
            _grid(table.columns, systems, values, means, _of(average, metric)),
        ]
    return told, blocks


def _of(papers: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, float]:
    return {system: own[metric] for system, own in papers.items() if metric in own}


def _means(
    values: Mapping[str, tuple[_Ours, Mapping[str, float]]], systems: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    """Return plain means: over the categories for which all our columns that have any figure and a paper have
    one, and for columns that have a figure of all of ours, over these."""
    known = {category for category, (ours, _) in values.items() if any(v is not None for v in ours.values())}
    having = {name for name in names if any(ours.get(name) is not None for ours, _ in values.values())}
    both = [
        (ours, papers)
        for ours, papers in values.values()
        if having and papers and all(ours.get(name) is not None for name in having)
    ]
    every = {name: [values[category][0].get(name) for category in known] for name in names}
    return {
        "categories": len(both),
        "ours": {name: mean(ours.get(name) for ours, _ in both) for name in names},
        "papers": {one: mean(papers.get(one) for _, papers in both) for one in systems},
        "ours_all": {name: None if None in own else mean(own) for name, own in every.items()},
    }


def _grid(
    columns: Sequence[Column],
    systems: Sequence[str],
    values: Mapping[str, tuple[_Ours, Mapping[str, float]]],
    means: Mapping[str, Any],
    average: Mapping[str, float],
) -> Grid:
    beside = {one.name: next((own for own in one.systems if own in systems), None) for one in columns}
    beside = {name: system for name, system in beside.items() if system}

    def line(title: str, ours: _Ours, papers: Mapping[str, float | None]) -> list[str]:
        cells = [figure(ours.get(column.name)) for column in columns]
        cells += [figure(papers.get(system)) for system in systems]
        gains = [minus(ours.get(name), papers.get(system)) for name, system in beside.items()]
        return [title, *cells, *map(difference, gains)]

    lines = [line(category, *own) for category, own in values.items()]
    lines.append(line(f"mean of the {means['categories']} that both have", means["ours"], means["papers"]))
    lines.append(line(f"mean of all {len(values)} of ours", means["ours_all"], {}))
    lines.append(line("average as printed (30)", {}, average))
    header = ["category", *(column.name for column in columns), *(f"{system} *" for system in systems)]
    return Grid([*header, *(f"{name} - {system}" for name, system in beside.items())], lines)


def _columns_block(columns: Sequence[Column]) -> Points:
    return Points.flat(
        "Our columns:",
        [
            f"{one.name}: method {one.method}, beside {one.systems[0] if one.systems else 'none of the papers'}"
            for one in columns
        ],
    )


def _papers_block(settings: Mapping[str, Any]) -> Points:
    """Say which paper prints each of the papers' columns; two may print one system by protocols of their own."""
    shown = {one for own in settings.values() for one in own["printed_average"]}
    by_papers: dict[str, list[str]] = {}
    for system in all_systems():
        if system in shown:
            by_papers.setdefault(" and ".join(papers_of(system)), []).append(system)
    return Points.flat(
        "The papers' columns, each by the protocol of the paper that prints it:",
        [f"in the tables of {papers}: {', '.join(systems)}" for papers, systems in by_papers.items()],
    )


def _unfinished_block(columns: Sequence[Column]) -> Points:
    lines = []
    for column in columns:
        for setting, own in column.outcomes.items():
            left = [name for name, one in own.items() if not one.metrics and not one.error]
            if left:
                lines.append(f"{column.name}, {SETTINGS[setting]}: {len(left)} of {len(own)} runs")
    return Points.flat("Not finished yet:", lines)


def _groups(columns: Iterable[Column]) -> dict[str, list[str]]:
    """Return names for the runs of a whole column, and for those of it in one setting."""
    found: dict[str, list[str]] = {}
    for column in columns:
        found[column.name] = [name for own in column.outcomes.values() for name in own]
        for setting, own in column.outcomes.items():
            found[f"{column.name} {SETTINGS[setting]}"] = list(own)
    return found
