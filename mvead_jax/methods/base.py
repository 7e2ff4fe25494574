"""The door of a method: what a method is told, what it gives, and what it may be able to do besides.

A method is a folder with a config class (its line in registry.py) that says what the method requires and builds
it. Nothing outside of `methods/` names a method: jobs ask for a capability by `isinstance(method, LeavesOneOut)`.

Letters: S samples of an index, B of a batch, V views, h x w cells of a map, D width of a feature map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int, Int32

from mvead_jax.backbones.base import Backbone
from mvead_jax.backbones.info import Info
from mvead_jax.bank.fill import Bank
from mvead_jax.config.schema import TrainConfig
from mvead_jax.data.ignored import Ignored, ignored_patches
from mvead_jax.data.records import DatasetIndex
from mvead_jax.geometry.masks import EpipolarKeys, all_keys
from mvead_jax.training.checkpoints import Checkpoints
from mvead_jax.training.loop import steps_of_epoch

# Nested dicts by name; the leaves are arrays and memory banks (bank.fill.Bank). "/" is in no name.
State = Mapping[str, Any]
PATCHES = "patches"  # the tap of patch features that every backbone has


@dataclass(frozen=True)
class Requires:
    """What a method needs of the program.

    Attributes:
      taps: feature maps of the backbone that it reads; "pyramid" stands for all of the backbone's pyramid.
      images: it needs the pixels too, in training and in scoring.
      geometry: it uses how the views see each other: not at all, where it is known, or always.
      joint_views: the score of one view depends on which other views there are: then the decision is calibrated
        for each pattern of present views.
      sample_score: how the scores of a sample's views become its own.
      foreground: it leaves the background out of its loss and its maps itself; else a scorer gives the
        background the score 0 in the maps of the method.
      min_views: with fewer views it does not work.
    """

    taps: tuple[str, ...] = (PATCHES,)
    images: bool = False
    geometry: Literal["none", "optional", "required"] = "none"
    joint_views: bool = False
    sample_score: Literal["max", "mean"] = "max"
    min_views: int = 1
    foreground: bool = False


@dataclass(frozen=True)
class Spec:
    """What a model looks at; known before anything is learned.

    Attributes:
      views: names of the cameras, in the order of axis V.
      categories: that it learns, in the order of their numbers.
      image_size: side of the square input in pixels.
      backbone: that gives the feature maps.
      maps: (h, w, D) of each feature map, by tap.
      name: of the model, for messages.
    """

    views: tuple[str, ...]
    categories: tuple[str, ...]
    image_size: int
    backbone: Info
    maps: Mapping[str, tuple[int, int, int]]
    name: str = ""

    @classmethod
    def of(cls, views: Sequence[str], categories: Sequence[str], backbone: Backbone, name: str = "") -> Spec:
        """Return the spec of a model on a backbone."""
        shapes = backbone.image_size, backbone.info, backbone.shapes
        return cls(tuple(views), tuple(categories), *shapes, name)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Some samples of one category, as a method scores them.

    Attributes:
      features: [B,V,h,w,D] by tap; zeros where a view is missing.
      present: which views each sample has.
      category: number of the category among those of the model.
      geometry: what `PlansGeometry.plan` made of the category's keys; None for a method without geometry.
      images: [B,V,H,W,3] normalised; None unless the method requires them.
      mesh: over which the samples are divided; None: they are not.
      foreground: patches that show the part, on the grid of the feature map that `foreground_tap` names; None
        where data.foreground is none: every patch counts.
    """

    features: Mapping[str, Float32[Array, "B V h w D"]]
    present: Bool[Array, "B V"]
    category: Int32[Array, " B"]
    geometry: Any = None
    images: Float32[Array, "B V H W 3"] | None = None
    mesh: Mesh | None = field(default=None, metadata={"static": True})
    foreground: Bool[Array, "B V h w"] | None = None


@dataclass(frozen=True)
class TrainData:
    """The training samples of a model, which should be normal.

    Attributes:
      index: the samples.
      features: [S,V,h,w,D] by tap, arrays or FeatureStores that read what is asked for.
      geometry: the epipolar keys of each category; every patch of the other views where nothing is known.
      backbone: that made the features.
      images: [n,V,H,W,3] of samples by their positions; None unless the method requires them.
      foreground: masks of samples by their positions, as of `Batch`; None where data.foreground is none.
      ignored: masks of each category's views, whose patches never count (data.ignore).
    """

    index: DatasetIndex
    features: Mapping[str, Any]
    geometry: Mapping[str, EpipolarKeys]
    backbone: Backbone
    images: Callable[[Int[np.ndarray, " n"]], Float32[np.ndarray, "n V H W 3"]] | None = None
    foreground: Callable[[Int[np.ndarray, " n"]], Bool[np.ndarray, "n V h w"]] | None = None
    ignored: Mapping[str, Ignored] = field(default_factory=dict)

    def counted(self, grid: tuple[int, int]) -> Bool[np.ndarray, "S V h w"] | None:
        """Return which patches of each sample count, on a grid; None where all do."""
        if not self.ignored:
            return None
        found = np.ones((len(self.index), len(self.index.views), *grid), bool)
        for at, category in enumerate(self.categories):
            masks = self.ignored.get(category, {})
            if (own := ignored_patches(masks, self.index.views, grid, category)) is not None:
                found[self.category_numbers() == at] = ~own
        return found

    @property
    def categories(self) -> tuple[str, ...]:
        return self.index.categories

    def category_numbers(self) -> Int32[np.ndarray, " S"]:
        """Return the place of each sample's category among the categories."""
        places = {name: at for at, name in enumerate(self.categories)}
        return np.array([places[sample.category] for sample in self.index.samples], np.int32)


@dataclass(frozen=True)
class RunContext:
    """The run that a model is trained in.

    Attributes:
      seed: what everything random follows from.
      checkpoints: where the states of a training go; None: a run that is killed starts over.
    """

    seed: int
    checkpoints: Checkpoints | None = None

    @property
    def key(self) -> jax.Array:
        return jax.random.key(self.seed)


class Method(Protocol):
    """A method with its settings and the spec of its model: a frozen dataclass that the config class builds."""

    spec: Spec
    requires: Requires

    def init(self, key: jax.Array) -> State:
        """Return a state before training: the shapes of all that is restored, counted and exported."""

    def fit(self, data: TrainData, run: RunContext) -> State:
        """Return what is learned from the training samples.

        All processes must call. What is large and not trained together (memory banks) is in the state of the
        first process only.

        Raises:
          UserError: samples it cannot learn from, or a loss that is no number.
          Stopped: the run was asked to stop; its state is saved.
        """

    def score(self, state: State, batch: Batch) -> Float32[Array, "B V h w"]:
        """Return the anomaly maps of a batch, higher is more abnormal; pure, and jit-able where banks are arrays.

        What stands in the map of a missing view is not looked at.
        """

    def state_bytes(self, images: int) -> int:
        """Return the bytes of a state that was learned from so many training images."""

    def describe(self) -> dict[str, str]:
        """Return how scores come about, in words: lines of the protocol beside every figure.

        "fusion", "trained", "bank" and "patch_score", as far as the method has them; others may follow.
        """


@runtime_checkable
class ScoresImages(Protocol):
    """A method whose score of an image is not the highest of its map."""

    def image_scores(self, maps: Float32[Array, "B V h w"]) -> Float32[Array, "B V"]:
        """Return the score of each image of a batch by the method's own rule."""


@runtime_checkable
class TellsRange(Protocol):
    """A method whose released evaluation cuts its maps off, at bounds that the training left in the state."""

    def map_range(self, state: State) -> tuple[float, float]:
        """Return the least and the largest value; the same twice where nothing was trained."""


@runtime_checkable
class ScoresImagesByFeatures(Protocol):
    """A method whose score of an image depends on more than its map."""

    def score_images(
        self, state: State, batch: Batch, maps: Float32[Array, "B V h w"]
    ) -> Float32[Array, "B V"]:
        """Return the score of each image of a batch by the method's own rule; anything for a missing view.

        Args: maps: what `score` gave for the batch.
        """


@runtime_checkable
class GrowsBank(Protocol):
    """A method whose model can take further samples into its bank without being fitted anew."""

    @property
    def grows(self) -> bool:
        """Whether that holds for these settings: only a bank of all patches grows."""

    def grow(self, state: State, data: TrainData, first: int) -> State:
        """Return the state with the samples from position `first` on, which the state has not learned.

        In one process, and only where `grows`; the rows of banks are arrays of the host.

        Args: data: of all samples, those that are known first.
        """


@runtime_checkable
class LeavesOneOut(Protocol):
    """A method that can score training samples as if it had not learned from them."""

    def leave_one_out(
        self, state: State, data: TrainData, chosen: Int[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n V h w"] | None:
        """Return maps of some training samples, each without its own rows; NaN where a view is missing.

        All processes must call; None in all but the first. Args: chosen: positions of samples in the index.
        """


@runtime_checkable
class PlansGeometry(Protocol):
    """A method whose scoring reads how the views of a category see each other."""

    def plan(self, keys: EpipolarKeys) -> Any:
        """Return a pytree of arrays: the keys of a category as `score` takes them in `Batch.geometry`."""


@runtime_checkable
class ShowsAttention(Protocol):
    """A method whose patches attend to patches of other views, and that can tell to which."""

    def attended(
        self, state: State, batch: Batch, keys: EpipolarKeys, top: int
    ) -> tuple[Int[np.ndarray, "B V N K"], Float32[np.ndarray, "B V N K"]]:
        """Return the K patches that each patch attended to most, as b N + k, and their shares of its attention.

        On one device of the calling process. Args: batch: of one category. keys: of that. top: K.
        """


@runtime_checkable
class Trains(Protocol):
    """A method that is trained step by step by training/loop.py."""

    @property
    def training(self) -> TrainConfig | None:
        """The section of the config that the loop follows; None if these settings train nothing."""

    def checkpoint_bytes(self) -> int:
        """Return the bytes of one state of the training."""


@runtime_checkable
class ChecksSteps(Protocol):
    """A method that some numbers of steps do not train."""

    def check_steps(self, steps: int) -> None:
        """Raise UserError if so many steps leave untrained what the scores are made of."""


def training_steps(method: Method, samples: int) -> int:
    """Return how many steps a training on so many samples has; 0 if these settings train nothing.

    Raises:
      UserError: as `ChecksSteps`.
    """
    if not isinstance(method, Trains) or (own := method.training) is None:
        return 0
    steps = own.epochs * steps_of_epoch(samples, own)
    if isinstance(method, ChecksSteps):
        method.check_steps(steps)
    return steps


@runtime_checkable
class ReadsFiles(Protocol):
    """A method whose training reads files besides data set and weights."""

    def file_digests(self) -> dict[str, str]:
        """Return a digest of them by the config's field that names them; empty if these settings name none.

        Raises:
          UserError: files that are not there or cannot be read.
        """


def file_digests(method: Method) -> dict[str, str]:
    """Return the digests of `ReadsFiles`; empty of a method without them."""
    return method.file_digests() if isinstance(method, ReadsFiles) else {}


def foreground_tap(maps: Mapping[str, tuple[int, int, int]]) -> str:
    """Return the feature map on whose grid foreground masks are: the patches', or else the coarsest one.

    Args:
      maps: (h, w, D) of each feature map that a method reads, as `Spec.maps`.
    """
    return PATCHES if PATCHES in maps else min(maps, key=lambda tap: maps[tap][0] * maps[tap][1])


def map_shape(method: Method) -> tuple[int, int]:
    """Return (h, w) of a method's anomaly maps, without computing one."""
    spec, views = method.spec, len(method.spec.views)
    size = (spec.image_size, spec.image_size, 3)
    geometry = None
    if isinstance(method, PlansGeometry):
        geometry = method.plan(all_keys(views, spec.maps[PATCHES][:2]))

    def score(key: jax.Array, geometry: Any) -> jax.Array:
        features = {tap: jnp.zeros((1, views, *shape), jnp.float32) for tap, shape in spec.maps.items()}
        images = jnp.zeros((1, views, *size), jnp.float32) if method.requires.images else None
        present, category = jnp.ones((1, views), bool), jnp.zeros(1, jnp.int32)
        return method.score(method.init(key), Batch(features, present, category, geometry, images))

    shape = jax.eval_shape(score, jax.random.key(0), geometry).shape
    assert shape[:2] == (1, views), f"{type(method).__name__}.score gives maps {shape}"
    return shape[2:]


def parameter_count(method: Method) -> int:
    """Return how many numbers a method learns besides the rows of memory banks."""
    state = jax.eval_shape(method.init, jax.random.key(0))
    leaves = jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, Bank))
    return sum(math.prod(leaf.shape) for leaf in leaves if not isinstance(leaf, Bank))
