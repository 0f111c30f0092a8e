"""Safetensors files, written and read tensor by tensor: a checkpoint takes no memory of its own.

The library's ``save`` returns the whole file as bytes, which for a large model is as much memory
as its optimizer state. The format (https://huggingface.co/docs/safetensors): eight bytes with the
length of the header, the header in JSON with each tensor's type, shape and place, then the tensors.
A file may come from anyone, so each number in it is held to the size of the file and to the arrays
that are read into before anything is done with it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bptool.errors import DamagedError, RunError
from bptool.files import format_bytes, loads_strictly, open_regular, replacing
from bptool.models.base import Array

_NAMES = {"float32": "F32", "float64": "F64"}
_MAX_HEADER_BYTES = 16 * 2**20
_CHUNK_BYTES = 2**20
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


def read_tensors(path: Path, into: Mapping[str, Array], sha256: object) -> None:
    """Read the tensors of a file that :func:`write_tensors` made into arrays by name.

    Args:
        sha256: the digest that it gave; nothing is read from a file with another one.

    Raises:
        DamagedError: the file is missing, or not as it was written.
        RunError: it holds other tensors than ``into``.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            needed = sum(tensor.nbytes for tensor in into.values())
            if size > 8 + _MAX_HEADER_BYTES + needed:
                raise RunError(
                    f"{path} is of another model: it has {format_bytes(size)}, and this model "
                    f"needs {format_bytes(needed)}"
                )
            if _sha256(file) != sha256:
                raise DamagedError(f"{path} is damaged: its sha256 is not that of what was written")
            start = _read_header(path, file, size, into)
            for name in into:
                _read_tensor(file, *start[name], into[name])
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror or error}") from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file, in hexadecimal digits; OSError where it cannot be read."""
    with open_regular(path) as file:
        return _sha256(file)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while data := file.read(_CHUNK_BYTES):
        digest.update(data)
    return digest.hexdigest()


def _read_header(
    path: Path, file: BinaryIO, size: int, into: Mapping[str, Array]
) -> dict[str, tuple[int, str]]:
    """Where each tensor of ``into`` begins in the file, and of which type it is."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
        raise DamagedError(f"{path} is not a safetensors file: its header has no such length")
    try:
        header = loads_strictly(file.read(length))
    except ValueError as error:
        raise DamagedError(
            f"{path} is not a safetensors file: its header is no JSON ({error})"
        ) from None
    if not isinstance(header, dict):
        raise DamagedError(f"{path} is not a safetensors file: its header is no object")
    header.pop("__metadata__", None)
    for name in sorted(into.keys() | header.keys()):
        if name not in header:
            raise RunError(f"{path} is of another model: it has no tensor '{name}'")
        if name not in into:
            raise RunError(f"{path} is of another model: this one has no tensor {ascii(name)[:80]}")
    places = {
        name: _place(path, name, header[name], 8 + length, size, array)
        for name, array in into.items()
    }
    end = 8 + length
    for start, n_bytes in sorted((places[name][0], into[name].nbytes) for name in into):
        if start != end:
            raise DamagedError(f"{path} is not a safetensors file: tensors overlap or leave a gap")
        end = start + n_bytes
    if end != size:
        raise DamagedError(f"{path} is not a safetensors file: {size - end:,} bytes follow its end")
    return places


def _place(
    path: Path, name: str, entry: Any, first: int, size: int, array: Array
) -> tuple[int, str]:
    """Where a tensor begins, by its entry in the header, and its type."""
    entry = entry if isinstance(entry, dict) else {}
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise DamagedError(f"{path} is not a safetensors file: '{name}' has no shape or place")
    if tuple(shape) != array.shape:
        raise RunError(
            f"{path} is of another model: '{name}' has shape {tuple(shape)}, "
            f"this model needs {array.shape}"
        )
    kind = _NAMES[array.dtype.name]
    if entry.get("dtype") != kind:
        found = ascii(entry.get("dtype"))[:80]
        raise RunError(f"{path} is of another model: '{name}' is {found}, not {kind}")
    start, stop = offsets
    if stop - start != array.nbytes or first + stop > size:
        raise DamagedError(f"{path} is not a safetensors file: '{name}' is not where it should be")
    return first + start, kind


def _are_sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 8
        and all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**62 for n in value)
    )


def _read_tensor(file: BinaryIO, start: int, kind: str, array: Array) -> None:
    """Read one tensor into ``array``."""
    file.seek(start)
    dtype = np.dtype("<f4" if kind == "F32" else "<f8")
    if not array.flags.c_contiguous:  # a small part of it at a time would not be faster
        array[...] = np.frombuffer(file.read(array.nbytes), dtype).reshape(array.shape)
        return
    flat, step = array.reshape(-1), _CHUNK_BYTES // dtype.itemsize
    for at in range(0, flat.size, step):
        part = flat[at : at + step]
        part[...] = np.frombuffer(file.read(part.nbytes), dtype)
