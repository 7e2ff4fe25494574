"""Check an artefact: `python scripts/verify.py` is `mvead verify`."""

from mvead_jax.commands.verify import main
from mvead_jax.runtime.errors import run

if __name__ == "__main__":
    run(main)
