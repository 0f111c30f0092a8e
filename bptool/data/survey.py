"""What has to be known of texts before they are divided and tokenized: one look through them all.

What was found is remembered in the user's cache for texts of :data:`REMEMBERED_FROM` bytes and
more, under the files' names, sizes, times of change and places on the disk: while these stay as
they are, a text whose token file is there is not read again. A file that was changed less than
:data:`SETTLED_SECONDS` ago is not trusted so, since clocks of file systems are coarse.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from bptool import files
from bptool.config.data_section import SplitConfig
from bptool.data.sources import Source, Texts
from bptool.data.split import documents_of
from bptool.errors import DataError

FORMAT_VERSION = 2
REMEMBERED_FROM = 32 * 2**20
SETTLED_SECONDS = 3.0
MAX_FILE_BYTES = 64 * 2**20
_CODE_POINTS = 0x110000
MARKS = ("<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "<eos>", "</s>")
"""That other programs put between documents."""
_LONGEST_MARK = max(map(len, MARKS))

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Survey:
    """What one look at texts tells.

    Attributes:
        sha256: of the texts in order, of where one ends and the next begins included.
        n_texts, n_characters, n_bytes: how many there are, and how long, in UTF-8 for bytes.
        n_documents: that the split by document would tell apart; 0 where it is by position.
        apart: whether a text is a document of its own.
        characters: all different ones, in the order of their code points.
        notes: what a person should know of them, a line each.
    """

    sha256: str
    n_texts: int
    n_characters: int
    n_bytes: int
    n_documents: int
    apart: bool
    characters: str
    notes: str


def survey(
    texts: Texts,
    split: SplitConfig,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Look through ``texts``, or remember what was found before.

    Args:
        texts: what to look at. split: says whether documents are counted.
        cache: a folder for what is remembered, or None: nothing is.
        progress: told how far it is, where the texts are long.

    Raises:
        DataError: a text cannot be read.
    """
    before = Stamps.of(texts)
    if cache is None or before.n_bytes < REMEMBERED_FROM:
        return _look(texts, split, None)
    kept = cache / f"{_key(texts, split, before)[:32]}.survey.json"
    found = _remembered(kept)
    if found is None:
        found = _look(texts, split, _Shown(progress, before.n_bytes))
        if before == Stamps.of(texts) and before.settled():
            with contextlib.suppress(OSError):  # it is then looked at again
                value = {"format_version": FORMAT_VERSION, **asdict(found)}
                files.write_json(kept, value)
    return found


@dataclass(frozen=True)
class Stamps:
    """By what it is seen that a file changed; as they were when :meth:`of` looked."""

    n_bytes: int
    of_files: tuple[tuple[Any, ...], ...]
    seen: float = field(compare=False)

    @classmethod
    def of(cls, texts: Texts) -> Stamps:
        n_bytes = 0
        found: list[tuple[Any, ...]] = []
        for path in texts.paths:
            try:
                entry = path.stat()
            except (OSError, ValueError):
                found.append((str(path.absolute()),))
                continue
            n_bytes += entry.st_size
            stamp = (entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns, entry.st_ino)
            found.append((str(path.absolute()), *stamp))
        return cls(n_bytes, tuple(found), time.time())

    def settled(self) -> bool:
        """Whether every file had been as it was for a while."""
        newest = max((stamp[2] for stamp in self.of_files if len(stamp) > 1), default=0)
        return bool(newest / 1e9 < self.seen - SETTLED_SECONDS)


@dataclass
class _Shown:
    """Tells how far the look is, about: compressed files are longer than their size says."""

    progress: Progress | None
    total: int
    done: int = 0

    def add(self, n_bytes: int) -> None:
        self.done += n_bytes
        if self.progress is not None:
            self.progress("reading", min(self.done, self.total - 1), self.total)

    def end(self) -> None:
        if self.progress is not None:
            self.progress("reading", self.total, self.total)


@dataclass
class _Tally:
    present: Any = field(default_factory=lambda: np.zeros(_CODE_POINTS, bool))
    n_characters: int = 0
    n_bytes: int = 0
    marks: Counter[str] = field(default_factory=Counter)
    end: str = ""
    """Of what was added last: a mark may begin there."""

    def add(self, text: str) -> None:
        self.n_characters += len(text)
        if "<" in text or "<" in self.end:
            for mark in MARKS:
                self.marks[mark] += (self.end[1 - len(mark) :] + text).count(mark)
        before = self.end if len(text) < _LONGEST_MARK else ""
        self.end = (before + text)[-_LONGEST_MARK:]
        self.present[np.frombuffer(text.encode("utf-32-le"), np.uint32)] = True


def _look(texts: Texts, split: SplitConfig, shown: _Shown | None) -> Survey:
    digest, tally = hashlib.sha256(), _Tally()
    n_texts, apart = 0, False
    for source in texts:
        n_texts += 1
        apart |= source.is_document
        tally.end = ""
        digest = _hashed(digest, source, tally, shown)
    n_documents = 0
    if split.by == "document":
        for number, _ in documents_of(texts, split.separator):
            n_documents = number + 1
    if shown is not None:
        shown.end()
    return Survey(
        sha256=digest.hexdigest(),
        n_texts=n_texts,
        n_characters=tally.n_characters,
        n_bytes=tally.n_bytes,
        n_documents=n_documents,
        apart=apart,
        characters="".join(map(chr, np.flatnonzero(tally.present).tolist())),
        notes="\n".join([*texts.report.notes(), *_of_marks(tally.marks, split, apart)]),
    )


def _of_marks(marks: Mapping[str, int], split: SplitConfig, apart: bool) -> Iterator[str]:
    """That marks of other programs stand in a text, and how to make them borders."""
    for mark, n in marks.items():
        if n == 0 or mark in split.separator:
            continue
        times = "once" if n == 1 else f"{n:,} times"
        has = f"{mark} stands in the text {times}, as ordinary characters"
        if apart:
            yield f"{has}; a record is a document of its own and needs no such mark"
        else:
            yield (
                f"{has}; if it ends a document, make it a border: train with "
                f"--set data.split.by=document --set 'data.split.separator={mark}'"
            )


def _hashed(digest: Any, source: Source, tally: _Tally, shown: _Shown | None) -> Any:
    """``digest`` with a text added: its length, then its bytes.

    The length is known for certain only at the end, so a text whose length was not guessed is read
    twice, unless it is one slice.
    """
    slices = iter(source.slices())
    first, second = next(slices, ""), next(slices, None)
    held = [first] if second is None else [first, second]
    length = len(first.encode("utf-8")) if second is None else source.n_bytes
    trial, n = digest.copy(), 0
    trial.update(length.to_bytes(8, "little"))
    for text in chain(held, slices):
        data = text.encode("utf-8")
        trial.update(data)
        tally.add(text)
        n += len(data)
        if shown is not None:
            shown.add(len(data))
    tally.n_bytes += n
    if n == length:
        return trial
    digest.update(n.to_bytes(8, "little"))
    for text in source.slices():
        data = text.encode("utf-8")
        digest.update(data)
        n -= len(data)
    if n != 0:
        raise DataError(f"{source.place}: changed while it was read; start again")
    return digest


def _key(texts: Texts, split: SplitConfig, stamps: Stamps) -> str:
    by = [split.by, split.separator] if split.by == "document" else [split.by]
    reading = asdict(texts.reading)
    value = [FORMAT_VERSION, stamps.of_files, by, reading]
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _remembered(path: Path) -> Survey | None:
    try:
        value = files.loads_strictly(files.read_bounded(path, MAX_FILE_BYTES))
        if value.pop("format_version") != FORMAT_VERSION:
            return None
        found = Survey(**value)
        for name, kind in Survey.__annotations__.items():
            if type(getattr(found, name)).__name__ != kind:
                return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return found
