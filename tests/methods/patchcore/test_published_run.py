"""PatchCore with weighted image scores as a run: trained, stored, and scored on several devices."""

import dataclasses

import numpy as np
from own_data import write_folders

from mvead_jax.bank.config import BankConfig
from mvead_jax.config.schema import DecisionConfig, EvalConfig
from mvead_jax.evaluation.score_files import read_images, read_maps
from mvead_jax.jobs.score import score
from mvead_jax.jobs.train import train
from mvead_jax.methods.patchcore.config import PatchCoreConfig, PatchCoreSection


def test_images_score_below_the_highest_of_their_maps_by_the_weight(tmp_path):
    write_folders(
        tmp_path / "part", {"a": (".png", (40, 40)), "b": (".png", (40, 40))}, train=4, good=1, defective=1
    )
    base = PatchCoreConfig.debug()
    config = dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, root=str(tmp_path / "part")),
        bank=BankConfig(kind="coreset", share=0.3, projection=8, per_view=False),
        patchcore=PatchCoreSection(("stride8", "stride16"), neighbourhood=3, width=20, reweight=3),
        eval=EvalConfig(bootstrap=0),
        decision=DecisionConfig(),
    )
    train(config, tmp_path / "run")
    told = score(tmp_path / "run", report=False)["protocol"]
    assert "3 x 3" in told["patch_score"]
    lines = read_images(tmp_path / "run/scores")
    maps = read_maps(tmp_path / "run/scores", lines[0].category, len(lines))
    shares = [line.score / float(own.max()) for line, own in zip(lines, maps, strict=True)]
    # Of three rows at about one distance each has a third of the sum.
    assert all(0 < share < 1 for share in shares), shares
    assert len(np.unique(shares)) > 1
