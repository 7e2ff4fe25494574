"""A trained workdir, or an artefact of export.py, that looks at one part at a time.

    from mvead_jax import Inspector

    inspector = Inspector.load("runs/realiad", category="usb")
    found = inspector.inspect({"C1": "C1.jpg", "C2": pil_image, "C3": uint8_array})
    print(found.score, found.worst_view, found.text)

Its scores are those of score.py: the same images go the same way. Everything is loaded and checked once, and compiled
once, with the first part or by `warm_up`; a call decodes, computes and returns.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8, UInt16
from PIL import Image

from mvead_jax.backbones.base import Backbone
from mvead_jax.config.schema import Config
from mvead_jax.data.deep_images import is_decoded, lost_bits
from mvead_jax.data.foreground import automatic_foreground
from mvead_jax.data.image_files import ImageFile
from mvead_jax.data.images import image_of
from mvead_jax.data.loading import preprocess
from mvead_jax.data.mirroring import Mirrored, flipped_image, mirrored_table
from mvead_jax.data.shapes import check_shape
from mvead_jax.data.trained_images import TrainedImages
from mvead_jax.decision.calibration import Calibration
from mvead_jax.decision.decide import located
from mvead_jax.features.cache import as_stored
from mvead_jax.features.foreground import Masks
from mvead_jax.jobs.decision import Decider, read_for_scoring
from mvead_jax.jobs.inputs import load_method_backbone
from mvead_jax.jobs.manifest import Manifest
from mvead_jax.jobs.workdir import (
    OVERRIDDEN,
    Job,
    check_ignored,
    checked_facts,
    checked_keys,
    model_folder,
    model_names,
    reading,
    trained_config,
    trained_geometries,
    trained_images,
    trained_thresholds,
)
from mvead_jax.methods.base import foreground_tap
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.host import computing
from mvead_jax.runtime.paths import expanded
from mvead_jax.scoring.model_store import read_facts
from mvead_jax.scoring.scorer import Inputs, Scored, Scorer
from mvead_jax.serving.inspection import Inspection
from mvead_jax.serving.overlay import shown

Given = str | ImageFile | Image.Image | UInt8[np.ndarray, "H W 3"] | UInt16[np.ndarray, "H W 3"]
log = logging.getLogger(__name__)

_THREADS = 8
# Programs over several devices that two threads begin in turns wait for each other for ever. Of all inspectors of a
# process one computes at a time; images are read meanwhile.
_AT_WORK = threading.Lock()


class Inspector:
    """See the module; made by `load`."""

    def __init__(
        self,
        backbone: Backbone,
        scorers: Mapping[str, Scorer],
        calibrations: Mapping[str, Calibration],
        false_alarms: float,
        digest: str,
        trained: TrainedImages,
        dtype: str = "float32",
        strict: bool = False,
        automatic_foreground: bool = False,
        mirrored: Mirrored | None = None,
        thresholds: Mapping[str, float] | None = None,
    ):
        """
        Args:
          scorers: of each category. calibrations: of those that are decided about, for this share of
            `false_alarms`. thresholds: of a user, by category, that decide instead. digest: of all that decides
            what is found, which tells it from others.
            trained: on which images. dtype: in which train.py stored features. strict: data.strict.
            automatic_foreground: leave out what their features tell to be background. mirrored: of which views
            the images that are given are flipped left-right.
        """
        self.calibrations, self.false_alarms, self.digest = dict(calibrations), false_alarms, digest
        self.decider = Decider(self.calibrations, false_alarms, by_hand=thresholds or {})
        self.backbone, self._scorers, self._dtype = backbone, dict(scorers), dtype
        self._automatic_foreground, self._mirrored = automatic_foreground, mirrored or {}
        self._trained, self._strict = trained, strict
        self._warned: set[str] = set()

    @classmethod
    @computing()
    def load(
        cls,
        workdir: str | Path,
        *,
        category: str | None = None,
        overrides: Mapping[str, str] | None = None,
        threshold: float | str | Path | None = None,
        warm: bool = False,
    ) -> Inspector:
        """Return an inspector of the models of a workdir or an artefact, whose files are checked by their manifest.

        Args:
          category: the only one to load; None: all that the workdir has.
          overrides: config fields to change, as score.py takes them.
          threshold: of the user: a number, or the file that the report saved; None: as decision.threshold says.
          warm: compile now, so that the first part takes no longer than the others; else the first part compiles.

        Raises:
          UserError: not a finished workdir, files that changed, no such category, weights that can't be
            found, a threshold of another model, or a training at work there.
        """
        workdir = expanded(workdir)
        overrides = dict(overrides or {})
        if threshold is not None:
            overrides["decision.threshold"] = str(threshold)
        with reading(workdir):
            config = trained_config(workdir, overrides, OVERRIDDEN)
            found = cls._read(workdir, config, category)
        if warm:
            found.warm_up()
        return found

    @classmethod
    def _read(cls, workdir: Path, config: Config, category: str | None) -> Inspector:
        manifest = Manifest(workdir)
        manifest.verify(workdir / "config.json")
        check_ignored(config, workdir)
        if config.data.foreground == "files":
            raise UserError(
                f"{workdir}: trained with data.foreground=files, and images that are handed over have no files "
                "beside them; train with data.foreground=automatic or none, or score by mvead score"
            )
        facts = {name: read_facts(model_folder(workdir, name)) for name in model_names(workdir)}
        learned = {name: own["categories"] for name, own in facts.items()}
        known = sorted({own for categories in learned.values() for own in categories})
        if category is not None and category not in known:
            raise UserError(f"category {category!r}: not trained; {workdir} has {', '.join(known)}")
        chosen = known if category is None else [category]
        backbone = load_method_backbone(config)
        job = Job(config, workdir, backbone, trained_geometries(config, workdir, chosen))
        scorers, used = {}, []
        for name, categories in learned.items():
            if not (own := [one for one in categories if one in chosen]):
                continue
            used.append(name)
            of_model = checked_facts(workdir, name, backbone)
            keys = checked_keys(job, name, of_model, own)
            model = job.load(name, of_model)
            scorers |= {one: Scorer(model, one, keys[one], config.score) for one in own}
        calibrations = read_for_scoring(config, workdir, used, chosen)
        models = manifest.digest(workdir / "models", workdir / "geometry")
        thresholds = trained_thresholds(config, workdir, chosen)
        of_decision = replace(config.decision, threshold="")  # what a file holds counts, not its name
        decides = [models, backbone.digest, config.score, of_decision, *sorted(thresholds.items())]
        digest = hashlib.sha256(repr(decides).encode()).hexdigest()
        return cls(
            *(backbone, scorers, calibrations, config.decision.false_alarms, digest),
            *(trained_images(workdir), config.features.dtype, config.data.strict),
            config.data.foreground == "automatic",
            mirrored_table(config.data.mirrored),
            thresholds,
        )

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(sorted(self._scorers))

    def views(self, category: str | None = None) -> tuple[str, ...]:
        """Return the cameras of the model, in the order in which a list of images is taken."""
        return self._scorers[self._category(category)].model.method.spec.views

    @computing()
    def warm_up(self) -> None:
        """Compile what `inspect` runs, for every category."""
        size = self.backbone.image_size
        for views in {len(self.views(category)) for category in self.categories}:
            self.backbone(
                np.zeros((views, size, size, 3), np.float32)
            )  # another engine forgets what was compiled
        for category in self.categories:
            views = len(self.views(category))
            self.scored(category, np.zeros((views, size, size, 3), np.float32), np.ones(views, bool))

    @computing()
    def inspect(
        self, images: Sequence[Given | None] | Mapping[str, Given | None], category: str | None = None
    ) -> Inspection:
        """Score one part.

        Args:
          images: its images, in the order of `views` or by the names of the views: paths, PIL images, or
            arrays [H,W,3] in the order red, green, blue: uint8, or uint16 of a camera with more than 8 bits,
            read with the bit depth of training. None, or a name left out: no such image.
          category: may be left out where only one is loaded.

        Raises:
          UserError: another number of images, an unknown view, none at all, one that can't be read, one of
            another shape than in training if data.strict is set; or a forked process.
        """
        category = self._category(category)
        return self._inspect([self._read_pictures(images, category)], category, 1)[0]

    def inspect_many(
        self,
        parts: Iterable[Sequence[Given | None] | Mapping[str, Given | None]],
        category: str | None = None,
        batch: int = 8,
    ) -> Iterator[Inspection]:
        """Yield what `inspect` finds on each of many parts, in their order; `batch` parts are read and computed
        at a time, whatever their number in all.

        Raises:
          UserError: as `inspect`, with the number of the part, from 0 on.
        """
        if batch < 1:
            raise UserError(f"batch={batch}: must be at least 1")
        category, numbered = self._category(category), enumerate(parts)
        while group := list(islice(numbered, batch)):
            read = []
            for number, images in group:
                try:
                    read.append(self._read_pictures(images, category))
                except UserError as error:
                    raise UserError(f"part {number}: {error}") from None
            yield from self._inspect(read, category, batch)

    @computing()
    def _inspect(self, read: Sequence[Any], category: str, batch: int) -> list[Inspection]:
        """Return what is found on parts that were read, at most `batch`."""
        pictures, present = (np.stack([one[at] for one in read]) for at in (0, 1))
        found = self._scored(category, pictures, present, batch)
        if not np.isfinite(found.maps[present]).all():
            raise UserError(f"{category}: scores that are not finite; check the weights of the backbone")
        pooling = self._scorers[category].model.method.requires.sample_score
        inspections = []
        for at, (_, has, sizes, warnings, small) in enumerate(read):
            own = Inspection(
                *(category, self.views(category), found.maps[at], found.views[at], found.images[at]),
                *(sizes, pooling),
                warnings=warnings,
                shown=small,
            )
            inspections.append(self._decided(own, has))
        return inspections

    def _decided(self, found: Inspection, present: Bool[np.ndarray, " V"]) -> Inspection:
        """Return what was found with the decision, where the run decides."""
        if not self.decider.decides(found.category):
            return found
        decision = self.decider.one(found.category, found.views, found.view_scores, present, found.pooling)
        maps = {view: found.map_of(view) for view in found.sizes}
        return replace(found, decision=located(decision, maps, found.sizes))

    def preprocess(
        self, images: Sequence[Given | None] | Mapping[str, Given | None], category: str | None = None
    ) -> tuple[Float32[np.ndarray, "V S S 3"], Bool[np.ndarray, " V"], dict[str, tuple[int, int]]]:
        """Return the images as the backbone takes them, zeros where a view is missing; which there are; and the
        size (W, H) of each upright image. Arguments and errors as `inspect`."""
        return self._read_pictures(images, self._category(category))[:3]

    def _read_pictures(self, images: Any, category: str) -> tuple[Any, Any, Any, tuple[str, ...], dict]:
        """Return what `preprocess` returns, the warnings about the images, and the images to be shown."""
        views = self.views(category)
        given = _by_view(images, views, category)
        size = self.backbone.image_size
        pictures = np.zeros((len(views), size, size, 3), np.float32)

        depth = self._trained.bit_depth

        def load(view: str) -> tuple[tuple[int, int], str | None, Any]:
            decoded = is_decoded(given[view])  # an image that Pillow has yet to decode has all its bits
            mirrored = view in self._mirrored.get(category, frozenset())
            image = flipped_image(image_of(given[view], f"view {view}", depth), mirrored)
            pictures[views.index(view)] = preprocess(image, size)
            return image.size, lost_bits(image, depth) if decoded else None, shown(image)

        with ThreadPoolExecutor(_THREADS) as pool:  # decoding releases Python's lock
            found = dict(zip(given, pool.map(load, given), strict=True))
        sizes = {view: size for view, (size, *_) in found.items()}
        lost = [f"view {view}: {words}" for view, (_, words, _) in found.items() if words]
        warnings = self._warnings(category, sizes, lost)
        small = {view: own for view, (*_, own) in found.items()}
        return pictures, np.array([view in given for view in views]), sizes, warnings, small

    @computing()
    def scored(
        self, category: str, pictures: Float32[np.ndarray, "V S S 3"], present: Bool[np.ndarray, " V"]
    ) -> tuple[Float32[np.ndarray, "V h w"], Float32[np.ndarray, " V"], Float32[np.ndarray, " V"]]:
        """Return maps, view scores and image scores of preprocessed images; NaN where there is none."""
        found = self._scored(category, pictures[None], present[None], 1)
        return found.maps[0], found.views[0], found.images[0]

    def _scored(
        self,
        category: str,
        pictures: Float32[np.ndarray, "n V S S 3"],
        present: Bool[np.ndarray, "n V"],
        batch: int,
    ) -> Scored:
        """Return what the scorer says of up to `batch` parts; fewer are filled up, so that one program does."""
        count, views = present.shape
        filled = np.zeros((batch * views, *pictures.shape[2:]), np.float32)
        filled[: count * views] = pictures.reshape(-1, *pictures.shape[2:])
        with _AT_WORK:
            features = {
                tap: np.asarray(as_stored(own, self._dtype), np.float32).reshape(batch, views, *own.shape[1:])
                for tap, own in self.backbone(filled).items()
            }
            scorer = self._scorers[category]
            images = (lambda rows: pictures[rows]) if scorer.model.method.requires.images else None
            filled_up = np.zeros((batch, views), bool)
            filled_up[:count] = present
            inputs = Inputs(features, filled_up, images, self._foreground(features, scorer))
            found = [*scorer.score(inputs, np.arange(count), most=batch)]
        return found[0] if len(found) == 1 else Scored(*map(np.concatenate, zip(*found, strict=True)))

    def _warnings(
        self, category: str, sizes: Mapping[str, tuple[int, int]], lost: Sequence[str]
    ) -> tuple[str, ...]:
        """Return what is odd about images, which is said in the log the first time.

        Args:
          lost: warnings about bits that were lost before the images came.

        Raises:
          UserError: anything, and data.strict is set.
        """
        trained = self._trained.sizes.get(category, {})
        found = [check_shape(view, size, trained, self._strict) for view, size in sizes.items()]
        words = (*(one for one in found if one), *lost)
        if lost and self._strict:
            raise UserError(f"{lost[0]} (data.strict)")
        for line in (f"{category}: {one}" for one in words):
            if line not in self._warned:
                self._warned.add(line)
                log.warning("%s", line)
        return words

    def _foreground(self, features: Mapping[str, np.ndarray], scorer: Scorer) -> Masks | None:
        """Return what gives the masks of samples; None where every patch counts."""
        if not self._automatic_foreground:
            return None
        own = features[foreground_tap(scorer.model.method.spec.maps)]
        return lambda rows: np.stack([[automatic_foreground(view) for view in own[row]] for row in rows])

    def _category(self, category: str | None) -> str:
        if category is None and len(self._scorers) == 1:
            return next(iter(self._scorers))
        if category in self._scorers:
            return category
        problem = "name one" if category is None else "not loaded"
        raise UserError(f"category {category}: {problem} of {', '.join(self.categories)}")


def _by_view(images: Any, views: tuple[str, ...], category: str) -> dict[str, Given]:
    """The images that there are, by view, in the order of `views`."""
    if isinstance(images, Mapping):
        if unknown := [str(view) for view in images if view not in views]:
            raise UserError(f"view {', '.join(unknown)}: unknown; {category} has {', '.join(views)}")
        named = dict(images)
    elif isinstance(images, list | tuple):
        if len(images) != len(views):
            raise UserError(
                f"{len(images)} images; {category} has {len(views)} views: {', '.join(views)} (None for "
                "one that is missing)"
            )
        named = dict(zip(views, images, strict=True))
    else:
        raise UserError(f"images: a {type(images).__name__}; give a list in the order of views, or a dict")
    given = {view: named[view] for view in views if named.get(view) is not None}
    if not given:
        raise UserError(f"no image; {category} has the views {', '.join(views)}")
    return given
