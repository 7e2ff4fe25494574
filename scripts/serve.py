"""Score the parts whose images are sent over HTTP: `python scripts/serve.py` is `mvead serve`."""

from mvead_jax.commands.serve import main
from mvead_jax.runtime.errors import run

if __name__ == "__main__":
    run(main)
