"""Regularizers that act on parameters, one a file. Every file is imported, so its class registers.

Decoupled weight decay belongs to the optimizer that has it, dropout to the model.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
