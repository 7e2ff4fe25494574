"""What train.py left in a workdir, checked before anything relies on it.

An artefact of scripts/export.py has a workdir's layout, and so is read as one; its backbone lies in weights/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mvead_jax.backbones.base import Backbone
from mvead_jax.backbones.stored import STORED
from mvead_jax.bank.store import Manifest, read_facts
from mvead_jax.jobs.estimate_geometry import geometry_path, keys_of, uses_geometry
from mvead_jax.config.schema import Config
from mvead_jax.config.io import from_dict, override
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import locked, read_json
from mvead_jax.geometry.category import CategoryGeometry, read_geometry
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.scoring.model_store import fuses
from mvead_jax.runtime.sharding import is_first

WEIGHTS = "weights"  # folder of an artefact
# Config fields, or the start of their names, that may change between training and scoring.
OVERRIDDEN = (
    *("data.root", "data.categories", "data.lists", "data.images", "data.incomplete"),
    *("backbone.weights", "backbone.directory", "backbone.batch_size", "features.cache", "score.", "eval."),
    "decision.false_alarms",
)
# Of these, what may change between scoring and evaluating the maps again.
EVALUATED = ("data.root", "data.images", "eval.")


@dataclass(frozen=True)
class Job:
    """What the models of a run are trained and scored with.

    Attributes:
      geometries: of each category; empty if nothing asks how the views see each other.
    """

    config: Config
    workdir: Path
    backbone: Backbone
    geometries: Mapping[str, CategoryGeometry]


def trained_config(workdir: Path, overrides: Mapping[str, str], changeable: tuple[str, ...]) -> Config:
    """The config of training with what may change after it.

    Raises:
      UserError: no workdir, or a field that may not change.
    """
    path = workdir / "config.json"
    config = from_dict(read_json(path, "a workdir of train.py"), str(path))
    if is_artefact(workdir):
        config = replace(config, backbone=replace(config.backbone, weights=str(workdir / WEIGHTS)))
    config = override(config, overrides)
    for key in overrides:
        if not key.startswith(changeable):
            fixed = "fixed by the training" if changeable == OVERRIDDEN else "fixed by the scoring"
            raise UserError(
                f"--config.{key}: {fixed} in {workdir}; this can change "
                f"{', '.join(changeable)}*; for anything else train into another --workdir"
            )
    if "decision.false_alarms" in overrides and not config.decision.held_out:
        raise UserError(
            f"--config.decision.false_alarms: {workdir} was trained with decision.held_out=0 and decides "
            "nothing; train into another --workdir with a share held out"
        )
    return config


def is_artefact(workdir: Path) -> bool:
    """Whether export.py made it: a backbone lies in it."""
    return (workdir / WEIGHTS / STORED).is_file()


def refuse_artefact(folder: Path, named_by: str = "--workdir") -> None:
    """Raises UserError for an artefact: nothing writes into one, and so whoever reads it needs no lock."""
    if is_artefact(folder):
        raise UserError(f"{named_by} {folder}: an artefact stays as it is; name another folder")


@contextmanager
def reading(workdir: Path) -> Iterator[None]:
    """While it lasts, no training may change the models of a workdir; any number may read them.

    Nothing is written into an artefact for it, nor into a folder that is no workdir.

    Raises:
      UserError: a training is at work there.
    """
    if not (workdir / "config.json").is_file() or is_artefact(workdir):
        yield
        return
    with locked(workdir, shared=True):
        yield


def checked_facts(workdir: Path, name: str, backbone: Backbone) -> dict[str, Any]:
    """What a model was trained with, its files being those that were written.

    Raises:
      UserError: not trained, changed since, or trained with another backbone.
    """
    folder = workdir / "banks" / name
    if not folder.is_dir():
        trained = ", ".join(model_names(workdir)) or "nothing"
        raise UserError(f"{name}: not trained; {folder.parent} holds {trained}")
    if is_first():
        for place in (folder, workdir / "models" / name):
            Manifest(workdir).verify(place)
    facts = read_facts(folder)
    if facts["backbone"] != backbone.digest:
        raise UserError(
            f"{folder}: trained with other weights or sizes than {backbone.name} has now "
            f"({backbone.weights}); restore them or train again"
        )
    return facts


def checked_keys(
    job: Job, name: str, facts: Mapping[str, Any], categories: Sequence[str]
) -> dict[str, EpipolarKeys]:
    """The keys of some categories of a model, on its axis of views.

    Raises:
      UserError: the model was trained with others.
    """
    keys = keys_of(job.config, job.geometries, categories, tuple(facts["views"]), job.backbone)
    changed = [name for name, own in keys.items() if facts["geometry"].get(name) != own.digest]
    if changed and fuses(job.config) and job.config.fusion.kind == "eam":
        folder = job.workdir / "banks" / name
        raise UserError(f"{folder}: trained with another geometry of {', '.join(changed)}; train again")
    return keys


def trained_geometries(
    config: Config, workdir: Path, categories: Sequence[str]
) -> dict[str, CategoryGeometry]:
    """The geometry of each category that train.py left; none if nothing in the config asks for it.

    Raises:
      UserError: one that is missing or has changed.
    """
    found = {}
    for category in categories if uses_geometry(config) else ():
        path = geometry_path(workdir, category)
        if not path.exists():
            eam = config.method == "mvead" and config.fusion.kind == "eam"
            what = "fusion.kind=eam" if eam else f"score.evidence={config.score.evidence}"
            raise UserError(f"{path}: no such file, and {what} needs it; train with it")
        Manifest(workdir).verify(path)
        found[category] = read_geometry(path)
    return found


def model_names(workdir: Path) -> list[str]:
    """The models that a workdir holds."""
    return sorted(path.name for path in (workdir / "banks").glob("*") if path.is_dir())
