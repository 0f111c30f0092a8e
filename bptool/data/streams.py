"""The bytes of a file, compressed or not, in chunks of a bounded size."""

from __future__ import annotations

import errno
import gzip
import importlib
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bptool.errors import DataError
from bptool.files import open_regular

COMPRESSED = (".gz", ".zst")
GZIP, ZSTD, PARQUET = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"PAR1"
"""What files of each begin with."""
CHUNK_BYTES = 1 << 20
_FED = 1 << 11
"""Compressed bytes that a zstd decoder is given at once: no more than 64 MiB can come of them."""


def read_chunks(path: Path) -> Iterator[bytes]:
    """What ``path`` holds, decompressed where its name ends in ``.gz`` or ``.zst``, or where it
    begins as such files do.

    All chunks but the last have :data:`CHUNK_BYTES` bytes, so that what is made of them does not
    depend on how a file was compressed.

    Raises:
        DataError: there is no such file, or it cannot be read or decompressed.
    """
    suffix = path.suffix.lower()
    try:
        with open_regular(path) as packed:
            start = packed.read(len(ZSTD))
            packed.seek(0)
            if suffix == ".zst" or start == ZSTD:
                yield from _rechunked(_zstd(path))
                return
            is_gzip = suffix == ".gz" or start.startswith(GZIP)
            file = gzip.GzipFile(fileobj=packed) if is_gzip else packed
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the name and the folder") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); copy it again") from None
    except OSError as error:
        raise DataError(unreadable(path, error)) from None
    except ValueError as error:
        raise DataError(f"{str(path)!r}: cannot be the name of a file ({error})") from None


def unreadable(path: Path | str, error: OSError) -> str:
    """What a message says of a file that cannot be read."""
    pipe = f"; send what it gives to standard input: cat {shlex.quote(str(path))} | bptool ... -"
    remedy = pipe if error.errno == errno.EINVAL else ""
    return f"{path}: cannot be read ({error.strerror or error}){remedy}"


def optional(module: str, extra: str, path: Path) -> Any:
    """A package that only some kinds of files need.

    Raises:
        DataError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(
            f'{path}: this needs the package {module}; install it: pip install "bptool[{extra}]"'
        ) from None


def _zstd(path: Path) -> Iterator[bytes]:
    """The frames of a file one after the other; a frame that does not end is an error."""
    library = optional("zstandard", "zstd", path)
    try:
        with open_regular(path) as file:
            decoder, begun = library.ZstdDecompressor().decompressobj(), False
            while fed := file.read(_FED):
                while fed:
                    begun = True
                    if found := decoder.decompress(fed):
                        yield found
                    fed = b""
                    if decoder.eof:
                        fed = decoder.unused_data
                        decoder, begun = library.ZstdDecompressor().decompressobj(), False
        if begun:
            raise DataError(f"{path}: not a whole zstd file (it ends too early); copy it again")
    except library.ZstdError as error:
        raise DataError(f"{path}: not a whole zstd file ({error}); copy it again") from None


def _rechunked(parts: Iterator[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for part in parts:
        for at in range(0, len(part), CHUNK_BYTES):
            held += part[at : at + CHUNK_BYTES]
            if len(held) >= CHUNK_BYTES:
                yield bytes(held[:CHUNK_BYTES])
                del held[:CHUNK_BYTES]
    if held:
        yield bytes(held)
