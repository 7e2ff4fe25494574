"""The tables of `mvead reproduce`: each runs what is missing for it, and is made anew after each run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from mvead_jax.comparison import papers
from mvead_jax.comparison.categories_table import LEVEL_OF_TABLE, OURS, table_of_categories
from mvead_jax.comparison.configs_table import configs_table
from mvead_jax.comparison.defect_kinds import kinds_of
from mvead_jax.comparison.document import Table
from mvead_jax.comparison.missing_views_table import missing_views_table
from mvead_jax.comparison.paper_tables import Outcome, figure5, kinds_table, table3
from mvead_jax.config.io import load_config, override
from mvead_jax.config.named import config_file
from mvead_jax.config.schema import Config
from mvead_jax.evaluation.score_files import read_images
from mvead_jax.jobs.budget import budget_text, budgets
from mvead_jax.jobs.category_runs import CategoryRuns
from mvead_jax.jobs.missing_views import Left, score_with_missing_views
from mvead_jax.jobs.reproduce import (
    Run,
    backbone_milliseconds,
    outcome,
    perform,
    read_metrics,
    update_tables,
    write_table,
)
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, write_json
from mvead_jax.serving.latency import sample_time

# What the runs of one row must share; the rest of the protocol follows from the data set or the seed.
_PROTOCOL_OF_ROW = (
    *(
        "method",
        "setting",
        "scored",
        "backbone",
        "weights",
        "backbone_digest",
        "features",
        "precision",
        "input",
    ),
    *("foreground", "fusion", "trained", "patch_score", "scored_images", "scored_samples"),
)


def ablation(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> dict[str, str]:
    """Table 3."""
    _refuse(overrides, ("method", "fusion.kind", "train.objective", "bank.per_view"), "table3 sets it by row")
    rows = papers.ablation()
    runs = {
        row.spec: Run(_folder(row.spec), load_config(f"{config_file('ablation.py')}:{row.spec}", overrides))
        for row in rows
    }
    names = {str(number): row.spec for number, row in enumerate(rows, 1)} | {spec: spec for spec in runs}
    if unknown := [row for row in arguments.rows if row not in names]:
        raise UserError(f"--rows {unknown[0]}: no such row; choose 1 to {len(rows)}, or {' '.join(runs)}")
    chosen = list(dict.fromkeys(names[row] for row in arguments.rows)) or list(runs)

    def tables(failed: Mapping[str, str]) -> list[Table]:
        output = arguments.output
        return [table3({spec: outcome(one, output, failed.get(one.name)) for spec, one in runs.items()})]

    return _perform([runs[spec] for spec in chosen], arguments.output, tables, family=list(runs.values()))


def categories(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> dict[str, str]:
    """Tables 1 and 2, of one method or of several."""
    _refuse(overrides, ("setting",), "use --setting")
    _refuse(overrides, ("data.categories",), "use --categories")
    _check_output(arguments.output)
    settings = list(papers.SETTINGS) if arguments.setting == "both" else [arguments.setting]
    found = [
        CategoryRuns.of(config, settings, arguments.output, name)
        for name, config in _configs(arguments, overrides).items()
    ]
    which, shares = arguments.share
    wanted = [run for own in found for run in own.all if run.name in own.wanted][which - 1 :: shares]
    if arguments.budget:
        planned = budgets(wanted, arguments.output)
        print(budget_text(planned), end="")
        return {one.name: one.error for one in planned if one.error}
    numbers = LEVEL_OF_TABLE if arguments.what == "all" else [int(arguments.what.removeprefix("table"))]
    finished: dict[str, Outcome] = {}

    def tables(failed: Mapping[str, str]) -> list[Table]:
        columns = [own.column(arguments.output, failed, finished) for own in found]
        return [table_of_categories(number, columns) for number in numbers]

    return _perform(wanted, arguments.output, tables, family=[run for own in found for run in own.all])


def _configs(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> dict[str, Config]:
    """Return the configs of tables 1 and 2 by the names of their columns, with what the command line sets."""
    asked = {"data.categories": arguments.categories} if arguments.categories else {}
    specs = arguments.methods or []
    if arguments.what == "all" and not specs:
        specs = [str(config_file(one.config)) for one in papers.methods()]
    if not specs:
        return {OURS: load_config(arguments.config or str(config_file("realiad.py")), {**overrides, **asked})}
    if arguments.config:
        raise UserError(f"--config {arguments.config}: --methods names the configs; leave one of them out")
    _refuse(overrides, ("method",), "--methods names a config for each method")
    loaded = _named(arguments.what, specs)
    return {
        name: override(config, {**_of_method(config, overrides, loaded.values()), **asked})
        for name, config in loaded.items()
    }


def _named(what: str, specs: Sequence[str]) -> dict[str, Config]:
    """Return configs by the names of their folders."""
    configs = {spec: load_config(spec) for spec in specs}
    names = [_name(spec) for spec in configs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{what}: two configs would share the folder {twice[0]}; run one of them elsewhere")
    return dict(zip(names, configs.values(), strict=True))


def cost(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> dict[str, str]:
    """Figure 5."""
    _refuse(overrides, ("backbone.name",), "use --backbones")
    _refuse(overrides, ("train.centers",), "use --centers")
    backbones = _list(arguments.backbones, "--backbones")
    try:
        centers = [int(one) for one in _list(arguments.centers, "--centers")]
    except ValueError:
        raise UserError(f"--centers {arguments.centers}: give whole numbers, as 1,5,10") from None
    # As in the figure: backbones at the paper's K, and K on its backbone; or what is nearest of the choice.
    main_backbone = "dinov2-base" if "dinov2-base" in backbones else backbones[0]
    main_centers = papers.DEFAULT_CENTERS if papers.DEFAULT_CENTERS in centers else max(centers)
    points = dict.fromkeys([(b, main_centers) for b in backbones] + [(main_backbone, k) for k in centers])
    runs = {}
    for backbone, k in points:
        changes = {**overrides, "backbone.name": backbone, "train.centers": str(k)}
        runs[backbone, k] = Run(f"{backbone}-K{k}", load_config(arguments.config, changes))
    times = arguments.output / "backbones.json"
    known = _measured(times, float)

    def tables(failed: Mapping[str, str]) -> list[Table]:
        found = {point: outcome(one, arguments.output, failed.get(one.name)) for point, one in runs.items()}
        for (backbone, _), one in runs.items():
            if backbone not in known and found[backbone, one.config.train.centers].metrics:
                known[backbone] = backbone_milliseconds(one.config)
                write_json(times, known)
        return [figure5(found, known)]

    return _perform(list(runs.values()), arguments.output, tables, warm=True)


def compare(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> dict[str, str]:
    """Any configs beside the first; a field that only some methods have is set in theirs."""
    configs = _named("compare", arguments.configs)
    runs: dict[str, dict[str, Run]] = {name: {} for name in configs}
    for (root, changes), (name, config) in product(
        _roots(arguments, overrides, next(iter(configs.values()))).items(), configs.items()
    ):
        own = override(config, _of_method(config, {**overrides, **changes}, configs.values()))
        runs[name][root] = Run(f"{root}/{name}" if len(arguments.root) > 1 else name, own)
    times, output = arguments.output / "sample_times.json", arguments.output
    known = _measured(times, dict)

    def tables(failed: Mapping[str, str]) -> list[Table]:
        found = {
            name: {root: outcome(one, output, failed.get(one.name)) for root, one in own.items()}
            for name, own in runs.items()
        }
        first = next(iter(runs))
        keys = {name: f"{name} in turns with {first}" for name in runs}
        for name, own in runs.items():
            root = next((r for r in own if found[name][r].metrics and found[first][r].metrics), None)
            if root and keys[name] not in known:
                pair = ((output / runs[one][root].name, runs[one][root].config) for one in (name, first))
                known[keys[name]] = sample_time(*pair)._asdict()
                write_json(times, known)
        return [configs_table(found, {name: known.get(key, {}) for name, key in keys.items()})]

    ordered = [own[root] for root in next(iter(runs.values())) for own in runs.values()]
    return _perform(ordered, output, tables, warm=True)


def _measured(path: Path, kind: type) -> dict[str, Any]:
    """Return the times that earlier calls measured, by name; each is of this kind."""
    found = read_json(path, "times of reproduce.py") if path.exists() else {}
    if not isinstance(found, dict) or not all(isinstance(own, kind) for own in found.values()):
        raise UserError(f"{path}: not the times of reproduce.py; delete it, and they are measured again")
    return found


def _roots(
    arguments: argparse.Namespace, overrides: Mapping[str, str], config: Config
) -> dict[str, dict[str, str]]:
    """Return the data sets by the names of their folders, with the fields that choose each."""
    if not arguments.root:
        return {overrides.get("data.root") or config.data.root: {}}
    _refuse(overrides, ("data.root",), "use --root")
    found = {path.resolve().name: {"data.root": str(path)} for path in arguments.root}
    if len(found) < len(arguments.root):
        raise UserError("--root: two data sets have the same folder name; their runs would share a folder")
    return found


def kinds(arguments: argparse.Namespace) -> None:
    """Finished runs beside each other, by kind of defect."""
    workdirs = list(dict.fromkeys(arguments.workdir))
    names = [path.name for path in workdirs]
    if len(set(names)) < len(names):
        names = [str(path) for path in workdirs]
    scored = {name: read_images(path / "scores") for name, path in zip(names, workdirs, strict=True)}
    images = {
        name: {(one.category, one.sample, one.view, one.label) for one in own} for name, own in scored.items()
    }
    for name, path in zip(names, workdirs, strict=True):
        if odd := images[name] ^ images[names[0]]:
            example = min("/".join(one[:3]) for one in odd)
            raise UserError(
                f"{path / 'scores/images.csv'}: other images or labels than in {workdirs[0]} ({len(odd)}, "
                f"as {example}); compare runs of one test split"
            )
    protocols = {name: read_metrics(path)["protocol"] for name, path in zip(names, workdirs, strict=True)}
    table = kinds_table({name: kinds_of(own) for name, own in scored.items()}, protocols)
    if arguments.output:
        write_table(table, arguments.output)
    print(table.text, end="")


def missing_views(arguments: argparse.Namespace) -> None:
    """Finished runs beside each other, with views of their test samples left out."""
    found: dict[str, dict[str, list[Left]]] = {}
    protocols: dict[str, Mapping[str, Any]] = {}
    _check_output(arguments.output)
    workdirs = list(dict.fromkeys(path.resolve() for path in arguments.workdir))
    for path in workdirs:
        own = read_metrics(path)["protocol"]
        of_first = protocols.setdefault(path.name, own)
        for key in _PROTOCOL_OF_ROW:
            if own.get(key) != of_first.get(key):
                raise UserError(
                    f"--workdir {path}: another {key} than an earlier workdir of the same name ({own.get(key)}, not "
                    f"{of_first.get(key)}); runs of one name are one row: rename the folder"
                )
    for path in workdirs:
        lines = score_with_missing_views(path, arguments.draws, arguments.seed)
        found.setdefault(path.name, {})[str(path.parent)] = lines
        table = missing_views_table(found, protocols, arguments.draws, arguments.seed)
        write_table(table, arguments.output)
    print(table.text, end="")
    print(f"written to {arguments.output / table.name}.json, .md, .tex and .html")


def _perform(
    runs: Sequence[Run],
    output: Path,
    tables: Callable[[Mapping[str, str]], Sequence[Table]],
    *,
    family: Sequence[Run] = (),
    warm: bool = False,
) -> dict[str, str]:
    """Do runs, and make the tables of all that there is after each; return the errors of those that failed."""
    _check_output(output)
    found: list[Table] = []

    def update(failed: Mapping[str, str]) -> None:
        found[:] = update_tables(lambda: tables(failed), output)

    failed = perform(runs, output, update, family=family, warm=warm)
    for table in found:
        print(table.text, end="")
        print(f"written to {output / table.name}.json, .md, .tex and .html")
    return failed


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; name a folder")


def _refuse(overrides: Mapping[str, str], keys: Sequence[str], fix: str) -> None:
    for key in keys:
        if key in overrides:
            raise UserError(f"--config.{key}={overrides[key]}: {fix}")


def _of_method(config: Config, overrides: Mapping[str, str], others: Iterable[Config]) -> dict[str, str]:
    """The overrides without those of sections that this config has not and another has."""
    sections = {key: key.partition(".")[0] for key in overrides}
    elsewhere = {name for name in sections.values() if any(hasattr(other, name) for other in others)}
    return {
        key: text
        for key, text in overrides.items()
        if hasattr(config, sections[key]) or sections[key] not in elsewhere
    }


def _folder(spec: str) -> str:
    return spec.replace(",", "_")


def _name(spec: str) -> str:
    """configs/study.py:gate -> study-gate."""
    path, _, argument = spec.partition(":")
    return "-".join(part for part in (Path(path).stem, _folder(argument)) if part)


def _list(text: str, option: str) -> list[str]:
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise UserError(f"{option} {text!r}: is empty; leave it out or name some")
    return found
