"""Training objectives, one a file: a scalar loss beside its gradient.

Every file is imported, so its class registers.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
