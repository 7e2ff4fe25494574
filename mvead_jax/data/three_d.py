"""3D data sets, which are not read: told by name before another reader takes their images for views."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

_CLOUDS = (".ply", ".pcd", ".stl", ".xyz")
_IMAGES_AND_CLOUDS = {"rgb", "xyz"}  # folders beside each other in MVTec 3D-AD
_REAL_IAD_D3 = re.compile(r"real[-_ ]?iad[-_ ]?d3|realiad3d", re.IGNORECASE)
_MOST_FOLDERS = 200  # that are looked into
_DEEPEST = 7


def three_d_words(root: Path) -> str | None:
    """Return which 3D data lies at `root`, and by what it is told; None if there is none.

    It is told by its name, by folders rgb/ and xyz/ beside each other, or by point clouds in folders of images'
    kind, two folders below the root or deeper: a drawing beside one's own images is no data set.
    """
    if not root.is_dir():
        return None
    named = []
    with suppress(OSError):  # the readers say it
        named = [path.name for path in root.iterdir() if path.is_dir() and _REAL_IAD_D3.search(path.name)]
    if named or _REAL_IAD_D3.search(root.name):
        return f"Real-IAD D3 ({named[0] if named else root.name}/)"
    top = len(root.parts)
    for number, (place, folders, files) in enumerate(os.walk(root)):
        depth = len(Path(place).parts) - top
        folders[:] = sorted(folders) if depth < _DEEPEST else []
        where = Path(place).relative_to(root).as_posix()
        if set(folders) >= _IMAGES_AND_CLOUDS:
            return f"MVTec 3D-AD, or data in its layout ({where}/xyz/)"
        cloud = next((name for name in sorted(files) if name.lower().endswith(_CLOUDS)), None)
        if cloud and depth >= 2:
            return f"3D data such as Real-IAD D3 or Real3D-AD ({where}/{cloud})"
        if number == _MOST_FOLDERS:
            return None
    return None
