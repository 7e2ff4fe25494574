"""A tiny data set in Real-IAD layout, drawn with NumPy: for tests of everything that reads one.

    python tests/fake_realiad.py --output DIR --train 300 --normal 300 --defective 600

draws one at Real-IAD's scale for one category: 1,200 samples of five views, 256 x 256 pixels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from mvead_jax.rig.cameras import five_cameras


def write_realiad(
    root: Path,
    *,
    categories=("bolt", "cap"),
    train=4,
    normal=3,
    defective=3,
    views=5,
    size=64,
    lists="realiad_jsons",
    images="realiad_64",
    seed=0,
) -> Path:
    """Gradients with noise; a defect is a dark square, visible in the first half of the views only."""
    for category in categories:
        rng = np.random.default_rng([seed, *category.encode()])
        content = {"meta": {"prefix": f"{category}/", "normal_class": "OK"}, "train": [], "test": []}
        number = 0
        for split, count, code in (("train", train, "OK"), ("test", normal, "OK"), ("test", defective, "HS")):
            for _ in range(count):
                number += 1
                content[split] += _write_sample(
                    root / images / category, category, number, code, views, size, rng
                )
        path = root / lists / f"{category}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return root


def write_cameras(root: Path, size: int, **places) -> None:
    """cameras.json of the rig: places = which of its five cameras took C1, C2, ... of a category."""
    rig = five_cameras(size)
    content = {
        category: {
            "views": {
                f"C{v + 1}": {"K": rig.K[p].tolist(), "R": rig.R[p].tolist(), "t": rig.t[p].tolist()}
                for v, p in enumerate(own)
            }
        }
        for category, own in places.items()
    }
    (root / "cameras.json").write_text(json.dumps({"categories": content}))


def edit_list(root: Path, category: str, change, lists="realiad_jsons") -> None:
    """Rewrites one list after `change(content)`."""
    path = root / lists / f"{category}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _write_sample(
    folder: Path, category: str, number: int, code: str, views: int, size: int, rng
) -> list[dict]:
    place = Path("OK") if code == "OK" else Path("NG") / code
    name = f"{category}_{number:04d}_{'OK' if code == 'OK' else f'NG_{code}'}"
    entries = []
    for view in range(1, views + 1):
        ramp = np.linspace(60, 180, size)[:, None] + 10 * view
        pixels = np.repeat((ramp + rng.normal(0, 6, (size, size)))[..., None], 3, -1)
        shown = code != "OK" and view <= (views + 1) // 2
        mask = np.zeros((size, size), np.uint8)
        if shown:
            y, x = rng.integers(4, size // 2, 2)
            mask[y : y + size // 4, x : x + size // 4] = 255
            pixels[mask > 0] *= 0.3
        stem = place / f"S{number:04d}" / f"{name}_C{view}_20240101{view:02d}0000"
        (folder / stem).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{stem}.jpg", quality=95)
        if shown:
            Image.fromarray(mask).save(folder / f"{stem}.png")
        entries.append(
            {
                "category": category,
                "anomaly_class": code if shown else "OK",
                "image_path": f"{stem}.jpg",
                "mask_path": f"{stem}.png" if shown else None,
            }
        )
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a data set in Real-IAD's layout.")
    parser.add_argument("--output", type=Path, required=True)
    for name, count in (("train", 300), ("normal", 300), ("defective", 600), ("size", 256), ("views", 5)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--categories", default="bolt", help="comma list")
    options = vars(parser.parse_args())
    options["categories"] = options["categories"].split(",")
    write_realiad(options.pop("output"), images=f"realiad_{options['size']}", **options)


if __name__ == "__main__":
    main()
