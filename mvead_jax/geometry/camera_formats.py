"""Camera files of other programs, told by their content and refused with the way to convert them.

They describe the same cameras in other words, so they are named rather than called broken JSON.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mvead_jax.data.safe_paths import decoded, read_at_most
from mvead_jax.runtime.errors import UserError

_LARGEST = 2**26  # bytes of a camera file
_FORMATS = (
    (
        r"opencv_storage|opencv-matrix",
        "a file of OpenCV's FileStorage",
        "read it by cv2.FileStorage(path, cv2.FILE_STORAGE_READ).getNode(name).mat()",
    ),
    (
        r"^\s*cam\d+\s*:",
        "a camchain of Kalibr",
        "K is made of intrinsics (fu, fv, cu, cv), R and t of the products of T_cn_cnm1 from cam0 on",
    ),
    (
        r"^#\s*(?:Camera list|Image list) with|^\d+\s+(?:SIMPLE_|OPENCV|PINHOLE|RADIAL|FULL_|FOV)",
        "a text file of COLMAP",
        "cameras.txt has the parameters of K, images.txt R and t of x_cam = R X + t as QW QX QY QZ TX TY TZ",
    ),
    (
        r"^%YAML|^<\?xml|^[\w ]+:\s*(?:\[|$)",
        "YAML or XML",
        "read it by the program that wrote it",
    ),
)


def read_camera_file(path: Path) -> Any:
    """Return the JSON of a camera file, with or without a byte order mark.

    Raises:
      UserError: missing, no JSON, a name twice in one object, or a file of another program, which is named.
    """
    what = "expected cameras: K, R, t of every view or F of the pairs, in JSON"
    try:
        content = read_at_most(path, _LARGEST)
        if content is None:
            raise UserError(f"{path}: more than {_LARGEST} bytes; {what}")
        text = decoded(content)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {what}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {what}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 ({error}); {what}") from None
    if found := _other_format(text):
        name, how = found
        raise UserError(
            f"{path}: {name}, which is not read; {how}, undistort the images if there are distortion "
            "coefficients, and write K, R, t of every view into a cameras.json (mvead_jax/geometry/known_cameras.py)"
        )
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); {what}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of some pairs. Raises ValueError: a name stands in it twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return found


def _other_format(text: str) -> tuple[str, str] | None:
    """Return the name of another format, and how it is converted."""
    if text.lstrip()[:1] in ("{", "["):
        return _FORMATS[0][1:] if re.search(_FORMATS[0][0], text) else None
    return next((own[1:] for own in _FORMATS if re.search(own[0], text, re.MULTILINE)), None)
