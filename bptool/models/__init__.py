"""Models: each one file, its forward and backward in order, registered by name."""

from bptool.models import gpt2, mlp

__all__ = ["gpt2", "mlp"]
