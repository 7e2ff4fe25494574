"""The layouts of public data sets at small scale, drawn from the published tables of them and not from the readers.

python tests/public_layouts.py DIR     draws each into DIR/<name>

Every part is noise on a ramp, and a defect is a dark square that its mask marks.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN, GOOD, DEFECTIVE = 6, 2, 2  # samples
SIZE = 32


def draw(rng: np.random.Generator, defect: bool = False, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return an image uint8 [size,size,3] and its mask, 0 or 255."""
    pixels = np.linspace(80, 170, size)[None, :, None] + rng.normal(0, 6, (size, size, 3))
    mask = np.zeros((size, size), bool)
    if defect:
        y, x = rng.integers(2, size // 2, 2)
        mask[y : y + size // 3, x : x + size // 3] = True
        pixels[mask] *= 0.2
    return pixels.clip(0, 255).astype(np.uint8), mask.astype(np.uint8) * 255


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def single_view(
    root: Path,
    categories: Sequence[str],
    *,
    good: str = "good",
    defects: Sequence[str] = ("scratch",),
    test: str = "test",
    truth: str = "ground_truth",
    mask: str = "_mask.png",
    image: str = ".png",
) -> Path:
    """The layout of MVTec AD with the names of its relatives."""
    rng = np.random.default_rng(0)
    for category in categories:
        place = root / category
        for number in range(TRAIN):
            save(place / f"train/{good}/{number:03d}{image}", draw(rng)[0])
        for number in range(GOOD):
            save(place / f"{test}/{good}/{number:03d}{image}", draw(rng)[0])
        for defect in defects:
            for number in range(DEFECTIVE):
                pixels, marked = draw(rng, defect=True)
                save(place / f"{test}/{defect}/{number:03d}{image}", pixels)
                save(place / f"{truth}/{defect}/{number:03d}{mask}", marked)
    return root


def mvtec_ad(root: Path) -> Path:
    single_view(root, ("bottle", "tile"), defects=("broken_large", "contamination"))
    (root / "license.txt").write_text("a licence")
    return root


def mvtec_ad_2(root: Path) -> Path:
    """Masks lie inside test_public/; the private test sets have no labels, and validation/ is good."""
    single_view(root, ("can",), defects=("bad",), test="test_public", truth="test_public/ground_truth")
    rng = np.random.default_rng(1)
    for place in ("validation/good", "test_private", "test_private_mixed"):
        save(root / f"can/{place}/000_regular.png", draw(rng)[0])
    return root


def btad(root: Path) -> Path:
    return single_view(root, ("01",), good="ok", defects=("ko",), mask=".bmp", image=".bmp")


def mpdd(root: Path) -> Path:
    return single_view(root, ("tubes",), defects=("anomalous",))


def visa(root: Path) -> Path:
    """A CSV lists the images; masks hold the number of the kind of defect, not 255."""
    rng, rows = np.random.default_rng(0), []
    for split, label, count in (
        ("train", "normal", TRAIN),
        ("test", "normal", GOOD),
        ("test", "anomaly", DEFECTIVE),
    ):
        folder = label.capitalize()
        for number in range(count):
            name = f"{number + (100 if split == 'train' else 0):04d}"
            pixels, marked = draw(rng, defect=label == "anomaly")
            image, mask = f"candle/Data/Images/{folder}/{name}.JPG", ""
            save(root / image, pixels)
            if label == "anomaly":
                mask = f"candle/Data/Masks/{folder}/{name}.png"
                save(root / mask, marked // 255 * (number + 1))
            rows.append(("candle", split, label, image, mask))
    (root / "split_csv").mkdir()
    with (root / "split_csv/1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("object", "split", "label", "image", "mask"), *rows])
    return root


def real_iad_variety(root: Path) -> Path:
    """Real-IAD's lists; a view is C01 to C05, an object is a folder, and a defect shows in its first two views."""
    rng = np.random.default_rng(0)
    listed: dict[str, list[dict]] = {"train": [], "test": []}
    for split, kind, first, count in (
        ("train", "OK", 1, TRAIN),
        ("test", "OK", 50, GOOD),
        ("test", "HS", 1, DEFECTIVE),
    ):
        for number in range(first, first + count):
            folder = f"{'OK' if kind == 'OK' else f'NG/{kind}'}/S{number:04d}"
            for view in range(1, 6):
                shown = kind != "OK" and view <= 2
                pixels, marked = draw(rng, defect=shown)
                stem = f"{folder}/gear_{number:04d}_{kind if kind == 'OK' else f'NG_{kind}'}_C0{view}_2024"
                save(root / f"realiadvariety_1024/gear/{stem}.jpg", pixels)
                if shown:
                    save(root / f"realiadvariety_1024/gear/{stem}.png", marked)
                listed[split].append(
                    {
                        "category": "gear",
                        "anomaly_class": kind,
                        "image_path": f"{stem}.jpg",
                        "mask_path": f"{stem}.png" if shown else None,
                    }
                )
    meta = {"prefix": "gear/", "normal_class": "OK"}
    write_json(root / "realiadvariety_jsons/gear.json", {"meta": meta, **listed})
    return root


def manta(root: Path) -> Path:
    """Five views side by side in one PNG, and masks equally wide; a defect shows in the first two."""
    rng = np.random.default_rng(0)
    place = root / "mechanics/gear"
    for split, kind, count in (
        ("train", "good", TRAIN),
        ("test", "good", GOOD),
        ("test", "defect", DEFECTIVE),
    ):
        for number in range(count):
            views = [draw(rng, defect=kind == "defect" and view < 2) for view in range(5)]
            save(place / f"{split}/{kind}/{number:04d}.png", np.concatenate([one for one, _ in views], 1))
            if kind == "defect":
                save(
                    place / f"ground_truth/{kind}/{number:04d}.png",
                    np.concatenate([one for _, one in views], 1),
                )
    return root


def pad(root: Path) -> Path:
    """The layout of MVTec AD; transforms.json has the pose of each training image, test images have none."""
    single_view(root, ("01Gorilla",), defects=("Burrs", "Missing", "Stains"))
    frames = [
        {"file_path": f"./train/good/{number:03d}.png", "transform_matrix": np.eye(4).tolist()}
        for number in range(TRAIN)
    ]
    write_json(root / "01Gorilla/transforms.json", {"camera_angle_x": 0.7, "frames": frames})
    return root


M2AD_VIEWS, M2AD_LIGHTS = ("000", "030"), ("01", "02")  # of 12 and 10


def m2ad(root: Path) -> Path:
    """Views are degrees, name[1:4], under several lights, name[6:8]; some defects can't be seen in an image."""
    rng = np.random.default_rng(0)
    listed: dict[str, list[dict]] = {"train": [], "test": []}
    for split, kind, first, count in (
        ("train", "Good", 1, TRAIN),
        ("test", "Good", 50, GOOD),
        ("test", "NG", 1, DEFECTIVE),
    ):
        for number in range(first, first + count):
            for view in M2AD_VIEWS:
                for light in M2AD_LIGHTS:
                    shown = kind == "NG" and (view, light) != ("030", "02")
                    pixels, marked = draw(rng, defect=shown)
                    stem = f"Bird/{kind}/{number:03d}/C{view}_L{light}"
                    mask = f"Bird/GT/{number:03d}/C{view}_L{light}_mask.png" if shown else ""
                    save(root / f"M2AD_256/{stem}.png", pixels)
                    if mask:
                        save(root / f"M2AD_256/{mask}", marked)
                    listed[split].append(
                        {
                            "img_path": f"{stem}.png",
                            "mask_path": mask,
                            "cls_name": "Bird",
                            "view": view,
                            "illumination": light,
                            "image_anomaly": int(kind == "NG"),
                            "detectable": shown or kind == "Good",
                        }
                    )
    write_json(root / "jsons/meta_unsupervised.json", {split: {"Bird": own} for split, own in listed.items()})
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "mvtec_ad": mvtec_ad,
    "mvtec_ad_2": mvtec_ad_2,
    "btad": btad,
    "mpdd": mpdd,
    "visa": visa,
    "real_iad_variety": real_iad_variety,
    "manta": manta,
    "pad": pad,
    "m2ad": m2ad,
}

if __name__ == "__main__":
    for name, write in LAYOUTS.items():
        print(write(Path(sys.argv[1]) / name))
