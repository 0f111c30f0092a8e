"""The process of one peer or limit; started by :mod:`benchmarks.protocol`."""

from __future__ import annotations

import importlib
import json
import sys

from benchmarks.protocol import Served, serve

MAKERS = {
    "bptool": "with_bptool:train",
    "pytorch": "with_pytorch:train",
    "pytorch-compile": "with_pytorch:train_compiled",
    "jax": "with_jax:train",
    "limits": "limits:of_step",
    "bptool-decode": "with_bptool:decode",
    "pytorch-decode": "with_pytorch:decode",
    "read": "limits:of_memory",
}
"""``module:function``, called with the settings as keyword arguments."""


def make() -> Served:
    """What the arguments of this process name."""
    name, settings = sys.argv[1:]
    module, _, function = MAKERS[name].partition(":")
    maker = getattr(importlib.import_module(f"benchmarks.peers.{module}"), function)
    served: Served = maker(**json.loads(settings))
    return served


if __name__ == "__main__":
    serve(make)
