"""Public data sets by name, docs/data_sets.md: configs/data_sets.py:<name>, such as configs/data_sets.py:mvtec_ad

python scripts/check_data.py DIR
python scripts/train.py --config configs/data_sets.py:mvtec_ad --workdir runs/mvtec_ad --config.data.root=DIR
python scripts/score.py --workdir runs/mvtec_ad

A name sets the reader, its options and a method that needs no download of weights: PatchCore on EfficientNet-Lite0
where a sample has one view, and for M2AD, whose 120 views of a sample are too many to fuse; MVEAD where a sample has
five views. --config.method=..., or the reader's fields in another config, take another method: --config
configs/multiflow.py --config.data.reader=manta.

Running time and figures: not measured here, where the data sets are not at hand.
"""

from pathlib import Path

from mvead_jax.config.io import load_config, override
from mvead_jax.config.schema import Config
from mvead_jax.runtime.errors import UserError

SINGLE = "patchcore.py:published_lite0"
# Name -> the config beside this one, the reader, and its options.
SETS = {
    "mvtec_ad": (SINGLE, "single_view", ""),
    "mvtec_ad_2": (SINGLE, "single_view", ""),
    "btad": (SINGLE, "single_view", ""),
    "mpdd": (SINGLE, "single_view", ""),
    "visa": (SINGLE, "visa", ""),
    "pad": (SINGLE, "pad", ""),
    "real_iad_variety": ("folder.py", "real_iad_variety", ""),
    "manta": ("folder.py", "manta", ""),
    "m2ad_synergy": ("folder.py:patchcore", "m2ad", "lights=views"),
    "m2ad_invariant": ("folder.py:patchcore", "m2ad", "lights=samples,undetectable=drop"),
}


def get_config(name: str = "mvtec_ad") -> Config:
    if name not in SETS:
        raise UserError(f"configs/data_sets.py:{name}: no such data set; choose {', '.join(SETS)}")
    config, reader, options = SETS[name]
    found = load_config(str(Path(__file__).parent / config))
    return override(found, {"data.reader": reader, **({"data.options": options} if options else {})})
