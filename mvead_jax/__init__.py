"""Multi-view industrial anomaly detection in JAX."""

__version__ = "0.1.0"
