"""The jobs of these tests share their backbones."""

from kept_backbones import kept_backbones

__all__ = ["kept_backbones"]
