"""Score the test split of a trained run, or new images: `python scripts/score.py` is `mvead score`."""

from mvead_jax.commands.score import main
from mvead_jax.runtime.errors import run

if __name__ == "__main__":
    run(main)
