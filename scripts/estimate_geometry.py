"""Estimate how the views of each category see each other: `python scripts/estimate_geometry.py` is `mvead geometry`."""

from mvead_jax.commands.geometry import main
from mvead_jax.runtime.errors import run

if __name__ == "__main__":
    run(main)
