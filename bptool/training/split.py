"""Which way a step is cut over the workers; the two are in :class:`bptool.training.step.Shards`."""

from __future__ import annotations

from typing import Literal

Split = Literal["batch", "inside"]
