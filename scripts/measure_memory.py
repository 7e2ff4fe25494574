"""Run a command and record how much memory it takes, to see that it does not grow with the data.

    python scripts/measure_memory.py --output runs/memory/prepare -- \\
        python scripts/prepare_data.py --root DIR --output data/prepared

writes <output>.csv (seconds, resident and anonymous MB of the command and its children) and <output>.png,
and prints the peaks of the first and second half. Anonymous memory is the program's own; what is resident
beyond it are pages of mapped files, which the system takes back when it needs them. Linux only: reads /proc.

exit codes: that of the command; 2 a mistake in this one
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mvead_jax.runtime.errors import UserError, run
from mvead_jax.runtime.paths import expanded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", type=expanded, required=True, help="of the curve, without a suffix")
    parser.add_argument("--every", type=float, default=0.25, help="seconds between two looks")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise UserError("no command; give it after --")
    if not Path("/proc/self/status").exists():
        raise UserError("/proc/self/status: no such file; memory is only measured on Linux")
    looks, code = measure(command, arguments.every)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with arguments.output.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([("seconds", "resident_mb", "anonymous_mb"), *looks.round(2)])
    draw(looks, " ".join(command), arguments.output.with_suffix(".png"))
    for column, name in ((1, "resident"), (2, "anonymous")):
        halves = [half[:, column] for half in np.array_split(looks, 2) if len(half)]
        print(f"{name} MB, peak of each half: {', '.join(f'{half.max():.0f}' for half in halves)}")
    print(f"{looks[-1, 0]:.1f} s; written to {arguments.output}.csv and .png")
    sys.exit(code)


def measure(command: Sequence[str], every: float) -> tuple[np.ndarray, int]:
    """([n, 3] seconds, resident and anonymous MB; exit code) of a command."""
    begin = time.monotonic()
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        raise UserError(f"{command[0]}: {error.strerror}") from None
    looks = []
    while process.poll() is None:
        look = memory_of(process.pid)
        if any(look):  # it may have ended just now
            looks.append((time.monotonic() - begin, *look))
        time.sleep(every)
    return np.array(looks or [(0.0, 0.0, 0.0)]), process.returncode


def memory_of(pid: int) -> tuple[float, float]:
    """Resident and anonymous MB of a process and all below it; 0 where it has ended."""
    resident = anonymous = 0.0
    waiting = [pid]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            waiting += [
                int(child) for file in folder.glob("task/*/children") for child in file.read_text().split()
            ]
        except OSError:
            continue
        resident += float(fields.get("VmRSS", "0 kB").split()[0]) * 1024 / 1e6
        anonymous += float(fields.get("RssAnon", "0 kB").split()[0]) * 1024 / 1e6
    return resident, anonymous


def draw(looks: np.ndarray, title: str, path: Path) -> None:
    """The two curves."""
    figure = Figure(figsize=(7, 3), dpi=110)
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot(looks[:, 0], looks[:, 1], label="resident")
    axis.plot(looks[:, 0], looks[:, 2], label="anonymous")
    axis.set(xlabel="seconds", ylabel="MB", ylim=(0, None))
    axis.set_title(title if len(title) < 90 else f"{title[:90]} ...", fontsize=7)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, format="png")


if __name__ == "__main__":
    run(main)
