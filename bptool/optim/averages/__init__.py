"""Averages of the weights along training, one a file; every file is imported, so its class
registers.

An average is evaluated and kept beside the weights; training does not see it.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
