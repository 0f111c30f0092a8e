"""Regularizers, one a file: penalties, changes of the gradient, constraints (``base.py``).

Every file is imported, so its class registers. Decoupled weight decay belongs to the optimizer that
has it; dropout and stochastic depth to the model; label smoothing and z-loss to the training loss.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
