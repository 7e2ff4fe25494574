r"""The rows of the paper's table 3: configs/ablation.py:<fusion>,<pretraining>,<bank>

    fusion        none | mvas | eam
    pretraining   none (with fusion none) | copy | deepsvdd | mcp | mcp+reg
    bank          shared (one for all views) | per_view

python scripts/train.py --config configs/ablation.py:eam,mcp+reg,per_view --workdir runs/row \
    --config.data.root=DIR
python scripts/score.py --workdir runs/row

scripts/reproduce.py table3 runs all ten and prints them beside the paper's. DINOv2-base, block 7, 224 x 224;
any other field is set on the command line.
"""

from mvead_jax.bank.config import BankConfig
from mvead_jax.methods.mvead.config import FusionConfig, MveadConfig, PretrainConfig
from mvead_jax.runtime.errors import UserError

FUSIONS = ("none", "mvas", "eam")
PRETRAININGS = ("none", "copy", "deepsvdd", "mcp", "mcp+reg")
BANKS = ("shared", "per_view")


def get_config(row: str = "eam,mcp+reg,per_view") -> MveadConfig:
    parts = row.split(",")
    if len(parts) != 3:
        raise UserError(f"configs/ablation.py:{row}: give <fusion>,<pretraining>,<bank>")
    for part, known in zip(parts, (FUSIONS, PRETRAININGS, BANKS), strict=True):
        if part not in known:
            raise UserError(f"configs/ablation.py:{row}: {part!r} is none of {', '.join(known)}")
    fusion, pretraining, bank = parts
    if (fusion == "none") != (pretraining == "none"):
        raise UserError(
            f"configs/ablation.py:{row}: fusion none goes with pretraining none, and no other; an untrained "
            "fusion is called copy"
        )
    return MveadConfig(
        fusion=FusionConfig(kind=fusion),
        train=PretrainConfig(objective="none" if pretraining in ("none", "copy") else pretraining),
        bank=BankConfig(per_view=bank == "per_view"),
    )
