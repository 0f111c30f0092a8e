"""Writing a token file so that it can be interrupted at any moment and gone on with.

While it is made, ``<name>.part`` holds the tokens so far, locked by the process that makes it, and
``<name>.journal`` says, from time to time, how far it had come when all was safely on the disk.
Whoever comes next goes on from there. Only a whole file gets its own name. Where another process
makes the same file just now, or a file system knows no locks, a file of our own is written instead,
which cannot be gone on with.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from bptool import files
from bptool.data.tokenfile import ALIGNMENT, FORMAT_VERSION, MAGIC
from bptool.errors import DataError

PART, JOURNAL = ".part", ".journal"
JOURNAL_VERSION = 1
JOURNAL_CHARACTERS = 1 << 25
"""That are tokenized anew at most after an interruption."""
MAX_JOURNAL_BYTES = 512 * 2**20
TRAIN, VALIDATION = 0, 1
_WIDEST_COUNT = 10**18


class Halt(Exception):
    """Raised by what is told of progress, between two batches: stop, and keep what was made."""


@dataclass
class Journal:
    """How far a token file has come.

    Attributes:
        key: what the file follows from. tokenizer, vocab_size, note: see the file's header.
        n_tokens, n_batches, n_characters: of the training and of the validation part.
        validation_bytes: of UTF-8 that the validation tokens but the first stand for.
    """

    key: str
    tokenizer: dict[str, Any] = field(default_factory=dict)
    vocab_size: int = 0
    note: str = ""
    n_tokens: list[int] = field(default_factory=lambda: [0, 0])
    n_batches: list[int] = field(default_factory=lambda: [0, 0])
    n_characters: list[int] = field(default_factory=lambda: [0, 0])
    validation_bytes: int = 0


class TokenWriter:
    """Makes the token file ``path``; used in a ``with`` block.

    Args:
        path: the file. key: hash of all that it follows from.

    Raises:
        DataError: the folder cannot be written or the disk is full; also from the methods.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.journal = Journal(key)
        self._journal_path = path.with_suffix(JOURNAL)
        self._kept = False  # whether what is there stays where the block ends early
        self._unsaved = 0
        with self._errors():
            self._file, self._part = self._open()

    @property
    def is_resumable(self) -> bool:
        """Whether what is written could be gone on with."""
        return self._part == self.path.with_suffix(PART)

    def begin(self, tokenizer: dict[str, Any], vocab_size: int, note: str = "") -> None:
        """Say what makes the tokens; forgets what another tokenizer has made."""
        if self.journal.tokenizer != tokenizer or self.journal.vocab_size != vocab_size:
            self.journal = Journal(self.journal.key, tokenizer, vocab_size, note)
        with self._errors():
            self._start = 16 + self._header_length()
            self._file.truncate(self._start + sum(self.journal.n_tokens) * self._dtype.itemsize)
            self._file.seek(0, os.SEEK_END)

    def add(self, part: int, ids: NDArray[np.int32], n_characters: int, n_bytes: int = 0) -> None:
        """Append a batch to ``TRAIN`` or, when that is whole, to ``VALIDATION``.

        Args:
            ids: the tokens. n_characters: that they were made of.
            n_bytes: to count as ``validation_bytes``.
        """
        with self._errors():
            self._file.write(ids.astype(self._dtype).data)
        journal = self.journal
        journal.n_tokens[part] += len(ids)
        journal.n_batches[part] += 1
        journal.n_characters[part] += n_characters
        journal.validation_bytes += n_bytes
        self._unsaved += n_characters
        if self._unsaved >= JOURNAL_CHARACTERS:
            self.save()

    def save(self) -> None:
        """Make sure that it can be gone on from here."""
        if not self.is_resumable:
            return
        with self._errors():
            self._file.flush()
            os.fsync(self._file.fileno())
            value = {"format_version": JOURNAL_VERSION, **asdict(self.journal)}
            files.write_bytes(self._journal_path, json.dumps(value, ensure_ascii=False).encode())
        self._kept, self._unsaved = True, 0

    def finish(self) -> None:
        """Write the header, and give the file its name."""
        with self._errors():
            self._file.seek(0)
            length = self._start - 16
            self._file.write(MAGIC + length.to_bytes(8, "little"))
            self._file.write(self._header().ljust(length))
            self._file.flush()
            os.fsync(self._file.fileno())
            if os.name == "nt":  # which renames no open file
                self._file.close()
            try:
                files.publish(self._part, self.path)
            except PermissionError:
                # On Windows another process that made the same file first may have it mapped.
                if not self.path.exists():
                    raise
                self._part.unlink(missing_ok=True)
            finally:
                self._forget_journal()
        self._file.close()

    def _forget_journal(self) -> None:
        """Remove the journal of a part that has become the file, even where flushing its folder
        failed then."""
        if self.is_resumable and not self._part.exists():
            with contextlib.suppress(OSError):
                self._journal_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Halt) and self.journal.tokenizer:
            self.save()
        # what the text itself is to blame for comes again: nothing is kept for it
        wrong_text = isinstance(error, DataError) and not isinstance(error.__cause__, OSError)
        if error is not None and (wrong_text or not self._kept):
            self._remove()
        with contextlib.suppress(OSError):
            self._file.close()

    def _remove(self) -> None:
        if os.name == "nt":
            self._file.close()
        for path in [self._part, *([self._journal_path] if self.is_resumable else [])]:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _open(self) -> tuple[BinaryIO, Path]:
        """The file to write, with the journal read where it goes on."""
        part = self.path.with_suffix(PART)
        while True:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
            flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
            file = os.fdopen(os.open(part, flags, 0o600), "r+b")
            try:
                files.lock(file.fileno())
                same = os.path.samestat(os.fstat(file.fileno()), os.stat(part))
            except FileNotFoundError:
                same = False
            except OSError:
                file.close()
                break
            if same:
                self._read_journal(os.fstat(file.fileno()).st_size)
                return file, part
            file.close()  # another process has just finished it
        descriptor, name = tempfile.mkstemp(prefix=files.TEMPORARY_PREFIX, dir=self.path.parent)
        return os.fdopen(descriptor, "wb"), Path(name)

    def _read_journal(self, size: int) -> None:
        """Take over what the journal says, if that can be true of a part of ``size`` bytes."""
        try:
            value = json.loads(files.read_bounded(self._journal_path, MAX_JOURNAL_BYTES))
            if value.pop("format_version") != JOURNAL_VERSION:
                return
            found = _checked(value)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return
        before, self.journal = self.journal, found
        needed = 16 + self._header_length() + sum(found.n_tokens) * self._dtype.itemsize
        if found.key != before.key or size < needed:
            self.journal = before
        else:
            self._kept = True

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.journal.vocab_size <= 2**16 else "<u4")

    def _header(self, widest: bool = False) -> bytes:
        journal = self.journal
        counts = (*journal.n_tokens, journal.validation_bytes)
        if widest:
            counts = (_WIDEST_COUNT,) * 3
        header = {
            "format_version": FORMAT_VERSION,
            "dtype": "uint16" if self._dtype.itemsize == 2 else "uint32",
            "key": journal.key,
            "vocab_size": journal.vocab_size,
            "tokenizer": journal.tokenizer,
            "note": journal.note,
            "n_train": counts[0],
            "n_validation": counts[1],
            "validation_bytes": counts[2],
        }
        return json.dumps(header, ensure_ascii=False).encode("utf-8")

    def _header_length(self) -> int:
        """The counts are known only at the end: room is left for the largest."""
        return -(-(16 + len(self._header(widest=True))) // ALIGNMENT) * ALIGNMENT - 16

    @contextlib.contextmanager
    def _errors(self) -> Any:
        try:
            yield
        except PermissionError as error:
            raise DataError(
                f"{self.path}: cannot be written; check the folder's permissions"
            ) from error
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot write the token file ({error.strerror or error}); free some "
                "space, or set BPTOOL_CACHE_DIR to a folder elsewhere"
            ) from error


def _checked(value: dict[str, Any]) -> Journal:
    """A journal of the right types; ValueError, TypeError or KeyError where it is not."""
    numbers = [value["vocab_size"], value["validation_bytes"]]
    for name in ("n_tokens", "n_batches", "n_characters"):
        training, validation = value[name]
        numbers += [training, validation]
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError
    if not isinstance(value["tokenizer"], dict) or not isinstance(value["note"], str):
        raise ValueError
    return Journal(**value)
