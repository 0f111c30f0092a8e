"""Writing safetensors files tensor by tensor, so that a checkpoint takes no memory of its own.

The library's ``save`` returns the whole file as bytes, which for a large model is as much memory
as its optimizer state. The format (https://huggingface.co/docs/safetensors): eight bytes with the
length of the header, the header in JSON with each tensor's type, shape and place, then the tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bptool.files import replacing
from bptool.models.base import Array

_NAMES = {"float32": "F32", "float64": "F64"}
_ALIGNMENT = 8
"""Bytes that the data starts at a multiple of, and why tensors of float64 come first."""


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> str:
    """Write float32 and float64 arrays by name to ``path``, whole or not at all; returns the
    SHA-256 of the file, in hexadecimal digits."""
    in_order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "bptool"}}
    position = 0
    for name in in_order:
        tensor = tensors[name]
        place = [position, position + tensor.nbytes]
        kind = {"dtype": _NAMES[tensor.dtype.name], "shape": list(tensor.shape)}
        header[name] = {**kind, "data_offsets": place}
        position = place[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    digest = hashlib.sha256()
    with replacing(path) as file:
        for part in (len(text).to_bytes(8, "little"), text):
            file.write(part)
            digest.update(part)
        for name in in_order:
            tensor = np.ascontiguousarray(tensors[name])
            little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
            data = little.reshape(-1).view(np.uint8).data
            file.write(data)
            digest.update(data)
    return digest.hexdigest()
