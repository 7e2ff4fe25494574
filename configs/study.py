"""Variants of MVEAD that docs/study.md compares: configs/study.py:<variant>

`mvead` is the paper's, `patchcore` has no fusion; each of the others changes one thing:

    evidence                  PatchCore with scores added along epipolar lines
    evidence_half             the same, weight 0.5 instead of 1
    evidence_max              the same, the highest of the other views instead of their mean
    evidence_all              the same, from anywhere in the other views
    standardised              the same, weight 0: only standardised by view
    mvead_evidence            evidence on attended features
    hull                      PatchCore by the distance to the hull of the nearest patches, no evidence
    hull_lines                the same, images with the highest score on their lines (configs/hull.py)
    hull_anywhere             the same, from anywhere in the other views
    nearest_lines             PatchCore, images with the highest score on their lines
    mvead_hull                the hull on attended features
    coreset, hull_half, hull_quarter, hull_tenth
                              PatchCore on a tenth of the patches; the hull on a coreset of a half, quarter, tenth
    patchcore_10, hull_10, patchcore_20, hull_20
                              PatchCore and the hull on 10 or 20 of 40 samples; the others are held out
    patchcore_512, hull_512   images of 512 x 512: four times as many patches
    untrained                 the fusion as it starts
    fast                      learning rate 1e-3 instead of 1e-4
    strong_negatives          λ = 5 instead of 0.1
    everywhere                every patch of the other views is a key, whatever the geometry
    mean_over_views           D3: one softmax for each view
    heads_8                   D4: eight heads instead of one (EfficientNet-Lite0 has none of its own)
    random_start              D5: random projections
    centres_each_epoch        D7: k-means again before each epoch
    mask_mean                 D8: masked patches hold their view's mean feature

python scripts/train.py --config configs/study.py:fast --workdir runs/fast \\
    --config.data.root=data/rig-study --config.train.epochs=20
python scripts/reproduce.py compare --output runs/study --config.data.root=data/rig-study \\
    --config.train.epochs=20 configs/study.py:patchcore configs/study.py:mvead configs/study.py:fast

EfficientNet-Lite0 at 256 x 256, as the demo.
"""

from mvead_jax.config.io import config_of, override
from mvead_jax.config.schema import BackboneConfig, Config, DataConfig
from mvead_jax.runtime.errors import UserError

# Variant -> method, and the fields that it changes.
VARIANTS = {
    "mvead": ("mvead", {}),
    "patchcore": ("patchcore", {}),
    "evidence": ("patchcore", {"score.evidence": "epipolar"}),
    "evidence_half": ("patchcore", {"score.evidence": "epipolar", "score.weight": "0.5"}),
    "evidence_max": ("patchcore", {"score.evidence": "epipolar", "score.pooling": "max"}),
    "evidence_all": ("patchcore", {"score.evidence": "all"}),
    "standardised": ("patchcore", {"score.evidence": "all", "score.weight": "0"}),
    "mvead_evidence": ("mvead", {"score.evidence": "epipolar"}),
    "hull": ("patchcore", {"score.distance": "hull"}),
    "hull_lines": ("patchcore", {"score.distance": "hull", "score.image_evidence": "epipolar"}),
    "hull_anywhere": ("patchcore", {"score.distance": "hull", "score.image_evidence": "all"}),
    "nearest_lines": ("patchcore", {"score.image_evidence": "epipolar"}),
    "coreset": ("patchcore", {"bank.kind": "coreset", "bank.share": "0.1"}),
    "hull_half": ("patchcore", {"score.distance": "hull", "bank.kind": "coreset", "bank.share": "0.5"}),
    "hull_quarter": ("patchcore", {"score.distance": "hull", "bank.kind": "coreset", "bank.share": "0.25"}),
    "hull_tenth": ("patchcore", {"score.distance": "hull", "bank.kind": "coreset", "bank.share": "0.1"}),
    "patchcore_10": ("patchcore", {"decision.held_out": "0.75"}),
    "hull_10": ("patchcore", {"score.distance": "hull", "decision.held_out": "0.75"}),
    "patchcore_20": ("patchcore", {"decision.held_out": "0.5"}),
    "hull_20": ("patchcore", {"score.distance": "hull", "decision.held_out": "0.5"}),
    "patchcore_512": ("patchcore", {"data.image_size": "512"}),
    "hull_512": ("patchcore", {"score.distance": "hull", "data.image_size": "512"}),
    "mvead_hull": ("mvead", {"score.distance": "hull"}),
    "untrained": ("mvead", {"train.objective": "none"}),
    "fast": ("mvead", {"train.learning_rate": "1e-3"}),
    "strong_negatives": ("mvead", {"train.negative_weight": "5"}),
    "everywhere": ("mvead", {"geometry.threshold": "1000", "geometry.on_failure": "unconstrained"}),
    "mean_over_views": ("mvead", {"fusion.combine": "mean"}),
    "heads_8": ("mvead", {"fusion.heads": "8"}),
    "random_start": ("mvead", {"fusion.init": "random"}),
    "centres_each_epoch": ("mvead", {"train.center_update": "epoch"}),
    "mask_mean": ("mvead", {"train.mask_fill": "mean"}),
}


def get_config(variant: str = "mvead") -> Config:
    if variant not in VARIANTS:
        raise UserError(f"configs/study.py:{variant}: no such variant; choose {', '.join(VARIANTS)}")
    method, changes = VARIANTS[variant]
    base = config_of(
        method, data=DataConfig(image_size=256), backbone=BackboneConfig(name="efficientnet-lite0")
    )
    return override(base, changes)
