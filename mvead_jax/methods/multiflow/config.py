"""The settings of Multi-Flow: the released code's by default."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mvead_jax.config.schema import BackboneConfig, Config, DataConfig, TrainConfig
from mvead_jax.config.validation import number
from mvead_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from mvead_jax.methods.base import Requires, Spec
    from mvead_jax.methods.multiflow.method import MultiFlowMethod


@dataclass(frozen=True)
class MultiFlowSection:
    """The flow (methods/multiflow/flow.py).

    Attributes:
      tap: the feature map that it models, as the backbone gives it: `stride32` of EfficientNet-B5 is its block
        35, as released; any other tap of a backbone, such as `block9` or `patches`.
      normalise: `none`, as released; `channels`: each channel's mean over training patches is subtracted and
        the result divided by its deviation, for feature maps whose channels are far from unit variance.
      graph: which views send messages to which: `top-ring`, the paper's, of one camera above and a ring;
        `complete`, `chain`, `none`, or a list of edges such as C1>C2,C2<>C3. `auto` is the first of these
        that geometry.nominal allows, `complete` where it names another number of views.
      noise: on the features while training, with a condition that tells the flow of it: `gaussian`,
        `softflow`, `uniform`, or `none`.
      kernels: side of the convolutions of each coupling; as many couplings as numbers.
      hidden: channels between the two convolutions of a coupling's networks.
      clamp: bound of the logarithm of a coupling's scales.
      gain: of the networks' outputs, as it starts.
      rematerialise: compute the inside of couplings a second time for the gradient instead of storing it: less
        memory, the same numbers.
    """

    tap: str = "stride32"
    normalise: Literal["none", "channels"] = "none"
    graph: str = "auto"
    noise: Literal["gaussian", "softflow", "uniform", "none"] = "gaussian"
    kernels: tuple[int, ...] = (3, 3, 3, 3, 3, 5)
    hidden: int = number(64, least=1)
    clamp: float = number(1.9, above=0)
    gain: float = number(0.0)
    rematerialise: bool = False


@dataclass(frozen=True)
class MultiFlowTrainConfig(TrainConfig):
    """Multi-Flow's training: AdamW with decays .9 and .95, on every parameter, at a constant rate.

    Attributes:
      drop_last: leave out the last samples of an epoch where they do not fill a batch, as released.
    """

    epochs: int = number(40, least=0)
    learning_rate: float = number(2e-4, least=0)
    weight_decay: float = number(1e-5, least=0)
    drop_last: bool = True

    @property
    def whole_batches(self) -> bool:
        return self.drop_last


@dataclass(frozen=True)
class MultiFlowConfig(Config):
    """Multi-Flow: the likelihood of features under a normalising flow whose views exchange messages."""

    method: str = "multiflow"
    data: DataConfig = field(default_factory=lambda: DataConfig(image_size=768))
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="efficientnet-b5"))
    train: MultiFlowTrainConfig = field(default_factory=MultiFlowTrainConfig)
    multiflow: MultiFlowSection = field(default_factory=MultiFlowSection)

    def __post_init__(self):
        super().__post_init__()
        kernels = self.multiflow.kernels
        if not kernels or any(side < 1 or side % 2 == 0 for side in kernels):
            raise UserError(
                f"config multiflow.kernels={','.join(map(str, kernels))}: give the side of each coupling's "
                "convolutions, odd numbers such as 3,3,5"
            )

    @classmethod
    def debug(cls) -> MultiFlowConfig:
        found = super().debug()
        section = MultiFlowSection(tap="stride16", kernels=(3,), hidden=4)
        return replace(found, multiflow=section, train=replace(found.train, learning_rate=1e-3))

    def requires(self) -> Requires:
        from mvead_jax.methods.base import Requires

        joint = self.multiflow.graph != "none"
        return Requires((self.multiflow.tap,), joint_views=joint, sample_score="mean", foreground=True)

    def build(self, spec: Spec) -> MultiFlowMethod:
        from mvead_jax.geometry.nominal import parse_nominal
        from mvead_jax.methods.multiflow.graph import named_graph
        from mvead_jax.methods.multiflow.method import MultiFlowMethod

        if len(spec.maps) != 1:
            raise UserError(
                f"config multiflow.tap={self.multiflow.tap!r}: stands for {', '.join(spec.maps)}; name one"
            )
        nominal = self.geometry.nominal
        rig = parse_nominal(nominal) if len(nominal) == len(spec.views) else None
        angles = (rig.elevation, rig.azimuth) if rig else (None, None)
        graph = named_graph(self.multiflow.graph, spec.views, *angles)
        return MultiFlowMethod(spec, self.multiflow, self.train, graph, self.requires())
