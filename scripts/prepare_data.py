"""Prepare a data set once: `python scripts/prepare_data.py` is `mvead prepare`."""

from mvead_jax.commands.prepare import main
from mvead_jax.runtime.errors import run

if __name__ == "__main__":
    run(main)
