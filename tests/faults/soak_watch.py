"""score.py --watch at work for long, killed now and then, while images come as feeding.py brings them.

    python tests/faults/soak_watch.py --root data/soak --workdir runs/soak --output DIR --seconds 240

feeds the test images of a data set into <output>/incoming, waits until all is decided, checks the lines by
the bytes of the images and the scores by <workdir>/scores, and draws the watcher's memory.

exit codes: 0 all is as it must be; 1 it is not
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from feeding import Event, Pictures, apply, feed, wrong_lines

from mvead_jax.data.realiad import load_index
from mvead_jax.serving.watch.arrivals import Arrivals

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))


class Watcher:
    """A process of score.py --watch; `said` is what it and those before it wrote."""

    def __init__(self, workdir: Path, incoming: Path, output: Path, timeout: float):
        self._command = [sys.executable, "scripts/score.py", f"--workdir={workdir}", f"--input={incoming}"]
        self._command += ["--watch", f"--output={output}", f"--timeout={timeout}"]
        for folder in (incoming, output):
            folder.mkdir(parents=True, exist_ok=True)
        self._journal, self._log = output / "decisions.jsonl", output / "said.txt"
        self.start()

    def start(self) -> None:
        with self._log.open("a") as log:
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log, env=environment)

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait()

    def lines(self) -> list[dict]:
        """The finished lines so far."""
        content = self._journal.read_bytes() if self._journal.exists() else b""
        return [json.loads(line) for line in content.split(b"\n")[:-1]]

    @property
    def said(self) -> str:
        return self._log.read_text()


def soak(
    watcher: Watcher, events: list[Event], incoming: Path, kills: list[float], every: float = 0.25
) -> np.ndarray:
    """Lets the events happen by the clock; kills the watcher at some seconds, and starts it again.

    Returns: [n,3] seconds, resident and anonymous MB of the watcher.
    """
    from measure_memory import memory_of

    begin, looks, events, kills = time.monotonic(), [], list(events), list(kills)
    while events or kills:
        now = time.monotonic() - begin
        while events and events[0].second <= now:
            apply(events.pop(0), incoming)
        if kills and kills[0] <= now:
            kills.pop(0)
            watcher.end(signal.SIGKILL)
            watcher.start()
        looks.append((now, *memory_of(watcher.process.pid)))
        time.sleep(every)
    return np.array(looks)


def settle(watcher: Watcher, pictures: Pictures, seconds: float) -> list[str]:
    """What is still wrong when nothing is any more, the watcher has ended, or so many seconds have passed."""
    end = time.monotonic() + seconds
    while wrong := wrong_lines(watcher.lines(), pictures):
        if time.monotonic() > end or watcher.process.poll() is not None:
            break
        time.sleep(1)
    return wrong


def pictures_of(root: Path) -> dict[tuple[str, str], bytes]:
    """The bytes of the test images, by sample and view."""
    index, found = load_index(root).select(split="test"), {}
    for sample in index.samples:
        for view in sample.views:
            with (index.root / view.image).open("rb") as file:
                found[sample.id, view.name] = file.read()
    return found


def largest_difference(lines: list[dict], scores: Path) -> tuple[int, float]:
    """How many scores of views there are, and how far the last line of a sample is from images.csv, of 1."""
    last = {line["sample"]: line for line in lines}
    with (scores / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    return len(rows), max(
        abs(last[row["sample"]]["views"][row["view"]] / float(row["score"]) - 1) for row in rows
    )


def seconds_of_a_look(incoming: Path, views: tuple[str, ...]) -> float:
    """Of a watcher of one category, at a folder in which nothing happens; the median of five."""
    logging.disable()  # what is passed over, the watcher has told already
    arrivals, seconds = Arrivals(incoming, {"any": views}), []
    for number in range(6):
        begin = time.monotonic()
        arrivals.look(number)
        seconds.append(time.monotonic() - begin)
    return float(np.median(seconds[1:]))


def main() -> None:
    from measure_memory import draw

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, required=True, help="data set of one category")
    parser.add_argument("--workdir", type=Path, required=True, help="trained, and scored")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--seconds", type=float, default=60, help="in which the samples begin to come")
    parser.add_argument("--timeout", type=float, default=5, help="of the watcher")
    parser.add_argument("--kills", type=int, default=0)
    given = parser.parse_args()
    pictures = pictures_of(given.root)
    others = list(pictures.values())[:50]
    events = feed(pictures, others=others, seconds=given.seconds, timeout=given.timeout, seed=0)
    kills = np.random.default_rng(0).uniform(0.1, 0.9, given.kills) * events[-1].second
    incoming = given.output / "incoming"
    watcher = Watcher(given.workdir.resolve(), incoming.resolve(), given.output.resolve(), given.timeout)
    looks = soak(watcher, events, incoming, sorted(kills))
    wrong = settle(watcher, pictures, 600)
    code = watcher.end(signal.SIGTERM)
    print(*wrong[:20], sep="\n")
    lines = watcher.lines()
    scores, difference = largest_difference(lines, given.workdir / "scores")
    print(f"{len(pictures)} images in {len(events)} events; {len(lines)} lines; {len(wrong)} wrong")
    print(f"{scores} scores, at most {difference:.2g} of their size from those of score.py")
    draw(looks, "score.py --watch", given.output / "memory.png")
    quarters = [part[:, 2].max() for part in np.array_split(looks, 4)]
    peaks = ", ".join(f"{peak:.0f}" for peak in quarters)
    print(f"anonymous MB, peak of each quarter: {peaks}; exit code {code}")
    files = sum(path.is_file() for path in incoming.rglob("*"))
    seconds = seconds_of_a_look(incoming, tuple(sorted({view for _, view in pictures})))
    print(f"a look at {files} files takes {seconds:.3f} s")
    sys.exit(bool(wrong) or code != 143)


if __name__ == "__main__":
    main()
