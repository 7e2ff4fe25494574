"""Make the papers' tables on a data set: `python scripts/reproduce.py` is `mvead reproduce`."""

from mvead_jax.commands.reproduce import main
from mvead_jax.runtime.errors import run

if __name__ == "__main__":
    run(main)
