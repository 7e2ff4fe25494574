"""scripts/reproduce.py called in this process, and the data set that its tests run on."""

import runpy
import sys
from pathlib import Path

import pytest
from fake_realiad import write_realiad

_MAIN = runpy.run_path(str(Path(__file__).parents[1] / "scripts/reproduce.py"), run_name="reproduce")["main"]


def run_reproduce(*arguments) -> int:
    """Run the script with a command line and return its exit code; what is no SystemExit is raised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["reproduce.py", *map(str, arguments)])
        try:
            _MAIN()
        except SystemExit as end:
            return end.code
    return 0


def two_categories(folder: Path) -> Path:
    """Write two categories of two views, under the names of real ones, so that the papers have figures beside them."""
    return write_realiad(folder, categories=("usb", "bolt"), size=32, views=2, train=3, normal=2, defective=2)
