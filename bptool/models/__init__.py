"""Models, registered by name: transformers (``presets.py``) and the feed-forward ``mlp``."""

from bptool.models import mlp, presets

__all__ = ["mlp", "presets"]
