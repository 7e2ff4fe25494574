"""Camera files as people bring them (docs/own_data.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from input_cases import Case

from mvead_jax.geometry.known_cameras import read_cameras

SIZE = (64, 48)  # of the stored images
CASES: list[Case] = []


def cameras() -> dict[str, Any]:
    """Return two cameras that look at the origin, half a radian apart."""
    c, s = float(np.cos(0.5)), float(np.sin(0.5))
    K = [[50, 0, 32], [0, 50, 24], [0, 0, 1]]
    views = {
        "C1": {"K": K, "R": np.eye(3).tolist(), "t": [0, 0, 10]},
        "C2": {"K": K, "R": [[c, 0, s], [0, 1, 0], [-s, 0, c]], "t": [0.0, 0, 10]},
    }
    return json.loads(json.dumps({"views": views}))


def add(what: str, says: str, content: Callable[[], str | bytes]) -> None:
    """Add a case of a file with some content, read for images of 64 x 48 pixels."""

    def run(folder: Path) -> str:
        path, text = folder / "cameras.json", content()
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        geometry = read_cameras(path, "part", ("C1", "C2"), (SIZE, SIZE))
        assert geometry.valid().sum() == 2
        return "taken"

    CASES.append(Case("camera", what, says, run))


def changed(**fields: Any) -> Callable[[], str]:
    """Return the content in which the first camera has other fields."""

    def content() -> str:
        found = cameras()
        found["views"]["C1"] |= fields
        return json.dumps(found)

    return content


def entry(**fields: Any) -> Callable[[], str]:
    """Return the content with further fields of the category."""
    return lambda: json.dumps(cameras() | fields)


def pairs(**fields: Any) -> Callable[[], str]:
    """Return F of the pair in place of cameras, with further fields."""
    F = [[0, 0, 0], [0, 0, -1], [0, 1, 0]]
    return lambda: json.dumps({"convention": "opencv", "pairs": [{"a": "C1", "b": "C2", "F": F} | fields]})


def sized(K: list[list[float]], size: Any) -> Callable[[], str]:
    return changed(K=K, image_size=size)


LARGE = [[500, 0, 320], [0, 500, 240], [0, 0, 1]]  # of images ten times as large
OPENCV = """%YAML:1.0
---
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 50., 0., 32., 0., 50., 24., 0., 0., 1. ]
"""
KALIBR = """cam0:
  camera_model: pinhole
  distortion_coeffs: [-0.4, 0.2, 0.0, 0.0]
  distortion_model: radtan
  intrinsics: [50.0, 50.0, 32.0, 24.0]
  resolution: [64, 48]
"""
COLMAP = """# Camera list with one line of data per camera:
#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]
1 SIMPLE_RADIAL 64 48 50 32 24 0.01
"""

add("K, R and t of every view", "taken", lambda: json.dumps(cameras()))
add("with a byte order mark", "taken", lambda: b"\xef\xbb\xbf" + json.dumps(cameras()).encode())
add("K of images ten times as large, and their image_size", "taken", sized(LARGE, [640, 480]))
add("an image_size that a resize has rounded", "taken", sized(LARGE, [641, 480]))
add("distortion that is zero", "taken", changed(dist=[0, 0, 0, 0, 0]))
add("a comment, and a name that begins with _", "taken", changed(comment="of May", _dist=[-0.4]))
add("F of the pairs", "taken", pairs())
add("a name that nothing reads", "refused: did you mean 'mirrored'?", changed(mirrord=True))
add("a name of the category that nothing reads", "refused: did you mean 'convention'?", entry(convension="a"))
add("a name of a pair that nothing reads", "refused: 'sampson' is unknown here", pairs(sampson=1))
add("distortion coefficients", "refused: lens distortion is not computed with", changed(dist=[-0.4, 0.2]))
add("one coefficient, k1", "refused: lens distortion is not computed with", changed(k1=-0.1))
add(
    "a fisheye model",
    "refused: distortion_model is 'equidistant': lens distortion is not computed with",
    changed(distortion_model="equidistant"),
)
add(
    "an image_size of one number", "refused: image_size is 256; give [width, height]", changed(image_size=256)
)
add(
    "an image_size of a list of one",
    "refused: image_size is [64]; give [width, height]",
    changed(image_size=[64]),
)
add("an image_size in text", "refused: image_size is '64x48'", changed(image_size="64x48"))
add("width and height swapped", "refused: are width and height swapped?", changed(image_size=[48, 64]))
add("an image_size of a crop", "refused: which is another shape", changed(image_size=[64, 64]))
add(
    "K of images ten times as large, without their image_size",
    "refused: the principal point of K, (320, 240), lies outside its image",
    changed(K=LARGE),
)
add(
    "K in millimetres, or of an image of width 1",
    "refused: the focal length of K, 0.8, is too short for its image",
    changed(K=[[0.8, 0, 0.5], [0, 0.8, 0.5], [0, 0, 1]]),
)
add(
    "K transposed",
    "refused: the last row of K is [32.0, 24.0, 1.0]; it is 0, 0, 1",
    changed(K=[[50, 0, 0], [0, 50, 0], [32, 24, 1]]),
)
add("a negative focal length", "refused: they are above 0", changed(K=[[-50, 0, 32], [0, 50, 24], [0, 0, 1]]))
add("R as a rotation vector", "refused: cv2.Rodrigues makes a matrix of it", changed(R=[0, 0.5, 0]))
add("R that is none", "refused: R is no rotation", changed(R=[[1, 0, 0], [0, 1, 0], [0, 0, -1]]))
add("mirrored in text", "refused: mirrored is 'false'; give true or false", changed(mirrored="false"))
add(
    "a view twice",
    "refused: 'C1' stands in it twice",
    lambda: json.dumps(cameras()).replace('"C2"', '"C1"'),
)
add("OpenCV's YAML", "refused: a file of OpenCV's FileStorage, which is not read", lambda: OPENCV)
add(
    "OpenCV's XML",
    "refused: a file of OpenCV's FileStorage, which is not read",
    lambda: '<?xml version="1.0"?>\n<opencv_storage>\n<K>1</K>\n</opencv_storage>\n',
)
add(
    "OpenCV's JSON",
    "refused: a file of OpenCV's FileStorage, which is not read",
    lambda: json.dumps({"K": {"type_id": "opencv-matrix", "rows": 3, "cols": 3, "data": [1]}}),
)
add("Kalibr's camchain", "refused: a camchain of Kalibr, which is not read", lambda: KALIBR)
add("COLMAP's cameras.txt", "refused: a text file of COLMAP, which is not read", lambda: COLMAP)
add(
    "COLMAP's images.txt",
    "refused: a text file of COLMAP, which is not read",
    lambda: "# Image list with two lines of data per image:\n1 1 0 0 0 0 0 10 1 C1.png\n\n",
)
add("YAML of another program", "refused: YAML or XML, which is not read", lambda: "camera_matrix:\n  - 1\n")
