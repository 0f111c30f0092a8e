"""The bytes of a file, compressed or not, in chunks of a bounded size."""

from __future__ import annotations

import errno
import gzip
import importlib
import io
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bptool.errors import DataError
from bptool.files import open_regular

COMPRESSED = (".gz", ".zst")
CHUNK_BYTES = 1 << 20
_FED = 1 << 11
"""Compressed bytes that a zstd decoder is given at once: no more than 64 MiB can come of them."""


def read_chunks(path: Path) -> Iterator[bytes]:
    """What ``path`` holds, decompressed where its name ends in ``.gz`` or ``.zst``.

    All chunks but the last have :data:`CHUNK_BYTES` bytes, so that what is made of them does not
    depend on how a file was compressed.

    Raises:
        DataError: there is no such file, or it cannot be read or decompressed.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".zst":
            yield from _rechunked(_zstd(path))
            return
        with open_regular(path) as packed:
            file = gzip.GzipFile(fileobj=packed) if suffix == ".gz" else packed
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


def open_zstd(path: Path) -> io.BufferedReader:
    """A zstd file as one of bytes to read; errors as of :func:`read_chunks`."""
    return io.BufferedReader(_Parts(_zstd(path)), CHUNK_BYTES)


class _Parts(io.RawIOBase):
    """A file whose bytes are those of ``parts``, one after the other."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._held = parts, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._held:
            self._held = memoryview(next(self._parts, b""))
        n = min(len(buffer), len(self._held))
        buffer[:n], self._held = self._held[:n], self._held[n:]
        return n


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
