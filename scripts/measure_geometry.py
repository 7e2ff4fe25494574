"""How far estimated epipolar lines are from the true ones, on a rendered rig whose cameras are known.

python scripts/measure_geometry.py data/rig --output docs/geometry_table.md

estimates the geometry of every category from its training pictures alone, then measures it with true
correspondences: points of rendered parts that both views of a pair see. For each pair and each way to F it
writes the median distance in pixels between the points and their lines, whether the pair is trusted, and the
share of correspondences inside the mask of delta = 1 patch on a 16 x 16 grid. Needs the extra: pip install -e
'.[rig]'. Under a minute a category on two cores.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from mvead_jax.data.realiad import load_index
from mvead_jax.errors import UserError, run
from mvead_jax.files import read_json, write_text
from mvead_jax.geometry.epipolar import epipolar_mask
from mvead_jax.geometry.estimate import estimate_category
from mvead_jax.geometry.fundamental import line_errors
from mvead_jax.rig import cameras, sample
from mvead_jax.rig.layout import MIRRORED, SampleName

_SAMPLES = 4  # parts whose points are used
_GRID = 16
_WRONG, _GOOD = 6.0, 3.0  # pixels


def correspondences(
    category: str, seed: int, size: int
) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """(a, b) with a < b -> points [n,2] of views a and b as stored, of part points that both see."""
    found: dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray]]] = {}
    for number in range(_SAMPLES):
        name = SampleName(category, "train", number)
        station, light, finish = sample.set_up(name, seed, size)
        seen = sample.look(name, seed, station, light, finish)
        rig = station.rig
        for a in range(5):
            hits = seen.traced[a][0]
            hits = hits.at(hits.face >= 0)
            hits = hits.at(seen.scene.component[hits.face] > 0)
            points = seen.scene.interpolate(hits, seen.scene.vertices)
            normals = seen.scene.interpolate(hits, seen.scene.normals)
            for b in range(a + 1, 5):
                toward = np.float32(rig.centers[b]) - points
                toward /= np.linalg.norm(toward, axis=1, keepdims=True)
                facing = np.einsum("nj,nj->n", toward, normals) > 0.1
                both = facing & ~seen.scene.occluded(points + np.float32(0.05) * normals, toward)
                ends = []
                for view in (a, b):
                    x = cameras.project(points[both], rig.K[view], rig.R[view], rig.t[view])
                    flipped = cameras.VIEWS[view] == MIRRORED[category]
                    ends.append(cameras.mirror(x, size) if flipped else x)
                found.setdefault((a, b), []).append((ends[0], ends[1]))
    return {
        pair: (np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]))
        for pair, parts in found.items()
    }


def measure(root: Path, category: str, seed: int, size: int) -> list[str]:
    """Lines of a Markdown section on one category."""
    index = load_index(root, [category]).select(category=category, split="train")
    begin = time.perf_counter()
    found = estimate_category(index)
    seconds = time.perf_counter() - begin
    geometry = found.geometry
    mask = np.asarray(epipolar_mask(geometry.fundamental(size), (_GRID, _GRID), size / _GRID))
    mirrored = [v for v, flag in zip(geometry.views, geometry.mirrored or (False,) * 5, strict=True) if flag]
    lines = [
        f"### {category}",
        "",
        f"{len(index)} samples of 5 views, {size} x {size}: {seconds:.0f} s. Stored mirrored: found "
        f"{', '.join(mirrored) or 'none'}, true {MIRRORED[category]}.",
        "",
        "| pair | pairwise | its verdict | rig fit | taken | verdict | in mask |",
        "|---|---|---|---|---|---|---|",
    ]
    errors = {}
    for (a, b), (x, y) in correspondences(category, seed, size).items():
        pair, (one, _) = geometry.pairs[a, b], found.pairwise[a, b]
        off = {name: np.median(line_errors(F, x, y)) for name, F in (("pair", one.F), ("taken", pair.F))}
        rig = "none" if found.rig is None else f"{np.median(line_errors(found.rig.F[a, b], x, y)):.2f}"
        p, q = ((points // (size / _GRID)).astype(int) for points in (x, y))
        inside = ((p >= 0) & (p < _GRID) & (q >= 0) & (q < _GRID)).all(1)
        held = mask[a, b, (p[:, 1] * _GRID + p[:, 0])[inside], (q[:, 1] * _GRID + q[:, 0])[inside]].mean()
        errors[a, b] = (off["taken"], pair.ok, held)
        verdicts = ["ok" if ok else "no" for ok in (one.ok, pair.ok)]
        lines.append(
            f"| {geometry.views[a]} {geometry.views[b]} | {off['pair']:.2f} | {verdicts[0]} | {rig} "
            f"| {pair.source} | {verdicts[1]} | {100 * held:.1f} % |"
        )
    good = sum(error < _GOOD and held >= 0.95 for error, _, held in errors.values())
    missed = sum(error > _WRONG and ok for error, ok, _ in errors.values())
    lines += [
        "",
        f"{good} of {len(errors)} pairs under {_GOOD:.0f} px with at least 95 % in the mask; "
        f"{missed} over {_WRONG:.0f} px and trusted.",
        "",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("root", type=Path, help="a set that scripts/render_rig.py rendered")
    parser.add_argument("--output", type=Path, help="write the Markdown here too")
    arguments = parser.parse_args()
    manifest = read_json(arguments.root / "rig.json", "a set of scripts/render_rig.py")
    try:
        settings = manifest["settings"]
        families, seed, size = settings["families"], int(settings["seed"]), int(settings["size"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{arguments.root / 'rig.json'}: not a manifest of the rig ({error!r})") from error
    text = "\n".join(line for family in families for line in measure(arguments.root, family, seed, size))
    print(text)
    if arguments.output:
        write_text(arguments.output, text)


if __name__ == "__main__":
    run(main)
