"""bptool: train language models from text files by backpropagation written out by hand."""

import os

from bptool.api import (
    Conversation,
    Run,
    compare_optimizers,
    finetune,
    gradcheck,
    load,
    resume,
    train,
)
from bptool.errors import BptoolError

__all__ = [
    "BptoolError",
    "Conversation",
    "Run",
    "compare_optimizers",
    "finetune",
    "gradcheck",
    "load",
    "resume",
    "train",
]
__version__ = "0.1.0"

# Numba reads settings from a file in the working folder, which may be a stranger's, and one of them
# says where compiled code is kept, which is unpickled. What the environment says goes before it.
os.environ.setdefault("NUMBA_CACHE_LOCATOR_CLASSES", "")
