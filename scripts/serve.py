"""Score the parts whose images are sent over HTTP: see --help, or docs/serving.md."""

from mvead_jax.runtime.errors import run
from mvead_jax.serving.http.server import main

if __name__ == "__main__":
    run(main)
