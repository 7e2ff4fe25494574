"""The wheel holds configs/ as mvead_jax/configs/: `--config realiad` works without a checkout. See pyproject.toml."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["mvead_jax*"]), "mvead_jax.configs"],
    package_dir={"mvead_jax.configs": "configs"},
)
