"""`python -m mvead_jax` is the command `mvead`."""

from mvead_jax.commands.program import start

if __name__ == "__main__":
    start()
