"""Study a device: is what it computes right and repeatable, and how fast is it?

mvead study-device --output DIR [--minutes 8] [--only STAGE,STAGE]

Needs nothing but the installed package, and no network: a small rendered data set and the references are part of it.
In this order, as far as the minutes reach:

    (always)         the environment: versions, driver, devices, flags that decide the last bits
    correctness      backbones, search, hull, attention, objective and the scores of every method beside float64
    repeatability    five short trainings and scorings, digested stage by stage
    controls         another seed and bfloat16, which the checks must find
    throughput       rates of the parts and of the whole, and the most memory that was held
    scaling          over the devices that are there

What does not fit is listed as not run. Writes study.json and study.md into DIR, which holds no study yet;
`mvead compare DIR DIR ...` sets several studies beside each other. All devices of this machine are used; with
--coordinator, --processes and --process (and a DIR that all share) those of all processes.

exit codes: 0 all that ran passed; 1 a check failed, a control was not found, or nothing ran; 2 a mistake in the command
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from mvead_jax.commands.parsing import Parser, command_parser
from mvead_jax.config.validation import nearest
from mvead_jax.runtime import console
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.memory import keep_freed_memory
from mvead_jax.runtime.paths import expanded
from mvead_jax.runtime.processes import flags, from_flags, guard, is_guarded


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"--minutes {text}: give a number above 0, as 8")
    return value


def _stages(text: str) -> tuple[str, ...]:
    from mvead_jax.study.report import STAGES  # not before: --help needs no NumPy

    for name in text.split(","):
        if name not in STAGES:
            hint = nearest(name, STAGES)
            raise UserError(f"--only {text}: no stage {name!r}{hint}; the stages are {', '.join(STAGES)}")
    return tuple(text.split(","))


def parser() -> Parser:
    """Return the parser of the command."""
    own = command_parser("study-device", __doc__, console.flags(), flags())
    own.add_argument("--output", required=True, type=expanded, metavar="DIR", help="folder of the study")
    own.add_argument(
        "--minutes", type=_minutes, default=8.0, help="after which nothing new begins; default 8"
    )
    own.add_argument("--only", type=_stages, metavar="STAGES", help="of these stages, comma-separated")
    return own


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    keep_freed_memory()
    given = parser().parse(arguments)
    console.apply(given)
    processes = from_flags(given)
    if given.output.exists() and not given.output.is_dir():
        raise UserError(f"--output {given.output}: a file is there; name a folder")
    if processes and not is_guarded():
        sys.exit(guard())

    from mvead_jax.runtime.sharding import is_first, joined  # not before: a guard needs no JAX
    from mvead_jax.study.report import PAGE, STAGES, failures, left_out, verdict
    from mvead_jax.study.study import study_device

    with joined(processes):
        study = study_device(given.output, given.minutes, given.only or STAGES)
        if is_first():
            for line in failures(study):
                print(f"failed: {line}")
            if lines := left_out(study):
                print(f"not run: {len(lines)} items, with their reasons in {given.output / PAGE}")
            print(f"{verdict(study)} in {study['seconds']:.0f} s: {given.output / PAGE}")
    sys.exit(0 if study["passed"] else 1)
