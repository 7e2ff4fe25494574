"""Variants of MVEAD that docs/study.md compares: configs/study.py:<variant>

`mvead` is the paper's, `patchcore` has no fusion; each of the others changes one thing:

    evidence                  PatchCore with scores added along epipolar lines
    evidence_half             the same, weight 0.5 instead of 1
    evidence_max              the same, the highest of the other views instead of their mean
    evidence_all              the same, from anywhere in the other views
    standardised              the same, weight 0: only standardised by view
    mvead_evidence            evidence on attended features
    untrained                 the fusion as it starts
    fast                      learning rate 1e-3 instead of 1e-4
    strong_negatives          λ = 5 instead of 0.1
    gate                      a learned gate for each patch on what it attends to
    better_keys               of the keys on a line only those more alike than by chance
    both_banks                banks of attended and of plain features, scores standardised and added
    no_residual               only what a patch attends to
    everywhere                every patch of the other views is a key, whatever the geometry
    mean_over_views           D3: one softmax for each view
    heads_8                   D4: eight heads instead of one (EfficientNet-Lite0 has none of its own)
    random_start              D5: random projections
    centres_each_epoch        D7: k-means again before each epoch
    mask_mean                 D8: masked patches hold their view's mean feature

python scripts/train.py --config configs/study.py:gate --workdir runs/gate \\
    --config.data.root=data/rig-study --config.train.epochs=20
python scripts/reproduce.py compare --output runs/study --config.data.root=data/rig-study \\
    --config.train.epochs=20 configs/study.py:patchcore configs/study.py:mvead configs/study.py:gate

EfficientNet-Lite0 at 256 x 256, as the demo.
"""

from dataclasses import replace

from mvead_jax.config.schema import (
    BackboneConfig,
    BankConfig,
    Config,
    DataConfig,
    FusionConfig,
    ScoreConfig,
    TrainConfig,
)
from mvead_jax.runtime.errors import UserError

_BASE = Config(data=DataConfig(image_size=256), backbone=BackboneConfig(name="efficientnet-lite0"))
_EVIDENCE = ScoreConfig(evidence="epipolar")
VARIANTS = {
    "mvead": _BASE,
    "patchcore": replace(_BASE, method="patchcore"),
    "evidence": replace(_BASE, method="patchcore", score=_EVIDENCE),
    "evidence_half": replace(_BASE, method="patchcore", score=replace(_EVIDENCE, weight=0.5)),
    "evidence_max": replace(_BASE, method="patchcore", score=replace(_EVIDENCE, pooling="max")),
    "evidence_all": replace(_BASE, method="patchcore", score=ScoreConfig(evidence="all")),
    "standardised": replace(_BASE, method="patchcore", score=ScoreConfig(evidence="all", weight=0.0)),
    "mvead_evidence": replace(_BASE, score=_EVIDENCE),
    "untrained": replace(_BASE, train=TrainConfig(objective="none")),
    "fast": replace(_BASE, train=TrainConfig(learning_rate=1e-3)),
    "strong_negatives": replace(_BASE, train=TrainConfig(negative_weight=5.0)),
    "gate": replace(_BASE, fusion=FusionConfig(gate="patch")),
    "better_keys": replace(_BASE, fusion=FusionConfig(keys="better")),
    "both_banks": replace(_BASE, bank=BankConfig(unfused=True)),
    "no_residual": replace(_BASE, fusion=FusionConfig(residual=False)),
    "everywhere": replace(
        _BASE, geometry=replace(_BASE.geometry, threshold=1000.0, on_failure="unconstrained")
    ),
    "mean_over_views": replace(_BASE, fusion=FusionConfig(combine="mean")),
    "heads_8": replace(_BASE, fusion=FusionConfig(heads=8)),
    "random_start": replace(_BASE, fusion=FusionConfig(init="random")),
    "centres_each_epoch": replace(_BASE, train=TrainConfig(center_update="epoch")),
    "mask_mean": replace(_BASE, train=TrainConfig(mask_fill="mean")),
}


def get_config(variant: str = "mvead") -> Config:
    if variant not in VARIANTS:
        raise UserError(f"configs/study.py:{variant}: no such variant; choose {', '.join(VARIANTS)}")
    return VARIANTS[variant]
