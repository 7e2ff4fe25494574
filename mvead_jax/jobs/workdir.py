"""What train.py left in a workdir, checked before anything relies on it.

An artefact of mvead export has a workdir's layout, and so is read as one; its backbone lies in weights/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from mvead_jax.backbones.base import Backbone
from mvead_jax.backbones.stored import STORED
from mvead_jax.config.io import from_dict, override
from mvead_jax.config.schema import Config
from mvead_jax.data.ignored import FILE as IGNORED
from mvead_jax.data.ignored import digests, ignore_folder, read_ignored, read_stored
from mvead_jax.data.mirroring import mirrored_table
from mvead_jax.data.trained_images import TrainedImages
from mvead_jax.decision.by_hand import scores_digest, thresholds_of
from mvead_jax.geometry.category import CategoryGeometry, read_geometry
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.jobs.estimate_geometry import geometry_path, keys_of, uses_geometry
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.methods.base import Method, Spec, State
from mvead_jax.postprocess.statistics import FILE as STATISTICS
from mvead_jax.postprocess.statistics import ScoreStatistics
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import locked, read_json
from mvead_jax.runtime.sharding import is_first
from mvead_jax.scoring.model_store import FACTS, read_facts, read_state
from mvead_jax.scoring.scorer import Model, keys_grid

WEIGHTS = "weights"  # folder of an artefact
# Config fields, or the start of their names, that may change between training and scoring.
OVERRIDDEN = (
    *("data.root", "data.categories", "data.lists", "data.images", "data.incomplete", "data.strict"),
    "data.foreground_folder",
    *("backbone.weights", "backbone.directory", "backbone.batch_size", "features.cache", "score.", "eval."),
    *("decision.false_alarms", "decision.threshold"),
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

    def method(self, name: str, views: Sequence[str], categories: Sequence[str]) -> Method:
        """Return the method of a model of these views and categories. Raises UserError: settings that do not fit."""
        return self.config.build(Spec.of(views, categories, self.backbone, name))

    def keys(self, method: Method, categories: Sequence[str]) -> dict[str, EpipolarKeys]:
        """Return the keys of some categories on a model's axis of views.

        Raises:
          UserError: an untrusted pair, and geometry.on_failure=error.
        """
        place = method.spec.views, method.spec.image_size, keys_grid(method)
        return keys_of(self.config, self.geometries, categories, *place)

    def load(self, name: str, facts: Mapping[str, Any]) -> Model:
        """Return the model `name` of the workdir. Args: facts: what it was trained with (`checked_facts`).

        Raises:
          UserError: a file that is missing or not what it should be.
        """
        method, folder = (
            self.method(name, facts["views"], facts["categories"]),
            model_folder(self.workdir, name),
        )
        state: State = read_state(folder, jax.eval_shape(method.init, jax.random.key(0)))
        statistics = ScoreStatistics.read(folder / STATISTICS, method.spec.views)
        return Model(method, state, statistics, read_stored(folder / IGNORED))


def trained_config(workdir: Path, overrides: Mapping[str, str], changeable: tuple[str, ...]) -> Config:
    """Return the config of training with what may change after it.

    Raises:
      UserError: no workdir, or a field that may not change.
    """
    path = workdir / "config.json"
    values = read_json(path, "a workdir of train.py")
    refuse_version_1(workdir)
    config = from_dict(values, str(path))
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
    """Return whether export.py made it: a backbone lies in it."""
    return (workdir / WEIGHTS / STORED).is_file()


def refuse_artefact(folder: Path, named_by: str = "--workdir") -> None:
    """Raise UserError for an artefact: nothing writes into one, and so whoever reads it needs no lock."""
    if is_artefact(folder):
        raise UserError(f"{named_by} {folder}: an artefact stays as it is; name another folder")


def refuse_version_1(workdir: Path) -> None:
    """Raise UserError for a workdir or an artefact of version 1, whose models lie elsewhere."""
    if (workdir / "banks").is_dir():
        raise UserError(
            f"{workdir}: made by version 1 of this program (it has banks/), which this one does not read; train "
            "into another --workdir"
        )


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
    """Return what a model was trained with, its files being those that were written.

    Raises:
      UserError: not trained, changed since, or trained with another backbone.
    """
    folder = model_folder(workdir, name)
    if not folder.is_dir():
        trained = ", ".join(model_names(workdir)) or "nothing"
        raise UserError(f"{name}: not trained; {folder.parent} holds {trained}")
    if is_first():
        Manifest(workdir).verify(folder)
    facts = read_facts(folder)
    if facts["backbone"] != backbone.digest:
        info = backbone.info
        raise UserError(
            f"{folder}: trained with other weights, sizes or another engine than {info.name} has now "
            f"({info.weights}, {backbone.engine}); restore them or train again"
        )
    return facts


def checked_keys(
    job: Job, name: str, facts: Mapping[str, Any], categories: Sequence[str]
) -> dict[str, EpipolarKeys]:
    """Return the keys of some categories of a model, on its axis of views.

    Raises:
      UserError: the model was trained with others.
    """
    keys = job.keys(job.method(name, facts["views"], facts["categories"]), categories)
    changed = [name for name, own in keys.items() if facts["geometry"].get(name) != own.digest]
    if changed and job.config.requires().geometry != "none":
        folder = model_folder(job.workdir, name)
        raise UserError(f"{folder}: trained with another geometry of {', '.join(changed)}; train again")
    return keys


def trained_geometries(
    config: Config, workdir: Path, categories: Sequence[str]
) -> dict[str, CategoryGeometry]:
    """Return the geometry of each category that train.py left; none if nothing in the config asks for it.

    Raises:
      UserError: one that is missing or has changed.
    """
    found = {}
    for category in categories if uses_geometry(config) else ():
        path = geometry_path(workdir, category)
        if not path.exists():
            by_method = config.requires().geometry != "none"
            what = f"method={config.method}" if by_method else "evidence along epipolar lines (section score)"
            raise UserError(f"{path}: no such file, and {what} needs it; train with it")
        Manifest(workdir).verify(path)
        found[category] = read_geometry(path)
    return found


def trained_images(workdir: Path) -> TrainedImages:
    """Return what the models of a workdir remember of their training images.

    Raises:
      UserError: nothing is trained, or the facts of a model are not those that train.py writes.
    """
    folders = [model_folder(workdir, name) for name in model_names(workdir)]
    if not folders:
        raise UserError(f"{workdir / 'models'}: no model; run mvead train")
    found = []
    for folder in folders:
        try:
            found.append(TrainedImages.from_json(read_facts(folder).get("images")))
        except (ValueError, AttributeError) as error:
            raise UserError(f"{folder / FACTS}: {error}; train again") from None
    try:
        return TrainedImages.joined(found)
    except ValueError as error:
        raise UserError(f"{workdir / 'models'}: {error}; train again") from None


def check_ignored(config: Config, workdir: Path) -> None:
    """Raise UserError if masks of data.ignore are not those of the training.

    A model holds its masks: where their folder is not there any more, nothing is compared.
    """
    if not config.data.ignore or not ignore_folder(config.data).is_dir():
        return
    facts = [read_facts(model_folder(workdir, name)) for name in model_names(workdir)]
    views = {category: own["views"] for own in facts for category in own["categories"]}
    trained = {category: masks for own in facts for category, masks in own.get("ignored", {}).items()}
    folder = ignore_folder(config.data)
    now = digests(read_ignored(folder, views, mirrored_table(config.data.mirrored), others=True))
    pairs = sorted(
        {(category, view) for found in (trained, now) for category in found for view in found[category]}
    )
    if changed := [
        " ".join(at) for at in pairs if trained.get(at[0], {}).get(at[1]) != now.get(at[0], {}).get(at[1])
    ]:
        raise UserError(
            f"data.ignore {folder}: changed since training ({', '.join(changed)}), and banks and thresholds are "
            "those of the earlier masks; train again, or put the earlier ones back"
        )


def trained_thresholds(config: Config, workdir: Path, categories: Sequence[str]) -> dict[str, float]:
    """Return a user's threshold of each category; none where decision.threshold is empty.

    Raises:
      UserError: as `thresholds_of`.
    """
    models = Manifest(workdir).digest(workdir / "models")
    return thresholds_of(
        config.decision.threshold, categories, scores_digest(models, config.score.deciding())
    )


def model_folder(workdir: Path, name: str) -> Path:
    """Return where a workdir keeps a model."""
    return workdir / "models" / name


def model_names(workdir: Path) -> list[str]:
    """Return the models that a workdir holds."""
    return sorted(path.name for path in (workdir / "models").glob("*") if path.is_dir())
