"""From the ``data`` section to two arrays of token ids."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bptool import __version__
from bptool.config.choice import Choice
from bptool.config.data_section import DataConfig
from bptool.data.cache import cache_folder
from bptool.data.decoding import reading_of
from bptool.data.encoding import encode_documents
from bptool.data.record_report import MOST_CHARACTERS
from bptool.data.sources import Texts
from bptool.data.split import Fragments, Split, grouped, split_texts
from bptool.data.survey import Progress, Stamps, Survey, survey
from bptool.data.token_writer import (
    JOURNAL_CHARACTERS,
    TRAIN,
    VALIDATION,
    Halt,
    Journal,
    TokenWriter,
)
from bptool.data.tokenfile import TokenFile, forget_unused, open_token_file
from bptool.data.tokenizers import (
    END_OF_TEXT,
    Tokenizer,
    TokenizerConfig,
    tokenizer_from_json,
)
from bptool.data.tokenizers.base import (
    Place,
    UnknownCharacters,
    describe_character,
    shown_character,
)
from bptool.errors import ConfigError, DataError, UserError
from bptool.registry import tokenizers

PARTS = ("training text", "validation text")
MOST_PLACES = 5
"""Of an unknown character that are named."""
SECONDS_A_LOOK = 0.1
"""At how far learning a vocabulary is."""
SECONDS_TO_STOP = 0.5
"""For a vocabulary's learning to hear that it is to stop, which it does while it reads."""


@dataclass(frozen=True)
class Corpus:
    """A text, split and tokenized.

    Attributes:
        train, validation: token ids (uint16 or uint32), mapped from the token file; read-only.
        tokenizer: what made them.
        text_sha256: hash of the texts after line ends were made LF.
        n_characters: characters of all texts.
        validation_bytes: UTF-8 bytes that the validation *targets* (all tokens but the first)
            stand for: bits per byte is the summed loss in nats / ln 2 / ``validation_bytes``.
            A special token stands for no byte, so the bits it costs count in full.
        token_file: where the ids are kept; None for rows of records.
        reused: True if the token file was there already.
        notes: what whoever trains on it should know of it and of how it was made.
    """

    train: NDArray[Any]
    validation: NDArray[Any]
    tokenizer: Tokenizer
    text_sha256: str
    n_characters: int
    validation_bytes: int
    token_file: Path | None
    reused: bool
    notes: tuple[str, ...] = ()

    @property
    def n_train(self) -> int:
        """Tokens to train on."""
        return len(self.train)

    @property
    def n_validation(self) -> int:
        """Tokens to validate on."""
        return len(self.validation)


def prepare(
    config: DataConfig,
    context: int,
    progress: Progress | None = None,
    cache: Path | None = None,
    tokenizer: Tokenizer | None = None,
) -> Corpus:
    """Read, split and tokenize the text of ``config``, or map the token file made before.

    Args:
        config: the ``data`` section.
        context: tokens of a sequence; each part must hold at least one more.
        progress: told how far it is; may raise :class:`bptool.data.token_writer.Halt` to stop
            so that the next call goes on from there.
        cache: folder for token files; by default the user's cache folder.
        tokenizer: use this one (a run's own, for another text) instead of training one.

    Raises:
        DataError: a text cannot be read, is too short for ``context``, or has one kind of token.
        ConfigError: the tokenizer's settings are wrong.
    """
    if config.records is not None:
        raise ConfigError("this works on a text, and the configuration trains on records")
    return prepare_and_survey(config, context, progress, cache, tokenizer)[0]


def prepare_and_survey(
    config: DataConfig,
    context: int,
    progress: Progress | None,
    cache: Path | None,
    tokenizer: Tokenizer | None,
) -> tuple[Corpus, Survey]:
    """See :func:`prepare`; and what was found in the texts."""
    say = progress or _say_nothing
    texts = texts_of_config(config)
    folder = cache_folder("tokens", cache)
    stamps = Stamps.of(texts)
    found = survey(texts, config.split, folder, say)
    kind, settings = _tokenizer_choice(config, tokenizer)
    made_from = tokenizer.to_json() if tokenizer else settings
    key = _key(found.sha256, config, found.apart, made_from)
    path = folder / f"{key[:32]}.tokens"
    file = open_if_whole(path, key)
    reused = file is not None
    if file is None:
        forget_unused(folder)
        _check_variety(found, config)
        if tokenizer is not None:
            check_known(tokenizer, texts, found)
        split = split_texts(texts, config.split, found.n_characters, found.n_documents, found.apart)
        with TokenWriter(path, key) as writer:
            made = tokenizer or _begun(writer) or _train(kind, settings, found, split, say)
            _write(writer, made, split, found, say)
            if Stamps.of(texts) != stamps:
                raise DataError(f"{', '.join(config.text)}: changed while it was read; start again")
            writer.finish()
        file = open_token_file(path, key)
    made_by = tokenizer or tokenizer_from_json(file.header["tokenizer"])
    _check_length(file, context, config)
    corpus = Corpus(
        train=file.train,
        validation=file.validation,
        tokenizer=made_by,
        text_sha256=found.sha256,
        n_characters=found.n_characters,
        validation_bytes=_validation_bytes(file, made_by),
        token_file=path,
        reused=reused,
        notes=tuple(note for note in (*found.notes.split("\n"), file.header.get("note")) if note),
    )
    return corpus, found


def texts_of_config(config: DataConfig) -> Texts:
    """The texts of ``config``, read as it says."""
    return Texts(config.text, reading_of(config))


def _write(
    writer: TokenWriter, tokenizer: Tokenizer, split: Split, found: Survey, say: Progress
) -> None:
    """Tokenize both parts, from where ``writer`` stands; ``say`` is told bytes, about."""
    writer.begin(tokenizer.to_json(), tokenizer.vocab_size, tokenizer.note)
    if sum(split.shares) >= JOURNAL_CHARACTERS:
        writer.save()  # the tokenizer may have taken long
    sizes = tokenizer.token_bytes()
    for part, fragments in ((TRAIN, split.train), (VALIDATION, split.validation)):
        total = split.shares[part] * found.n_bytes // found.n_characters
        counts = writer.journal

        def report(part: int = part, total: int = total, counts: Journal = counts) -> None:
            done = counts.n_characters[part] * found.n_bytes // found.n_characters
            say(PARTS[part], min(done, total), total)

        skip = counts.n_batches[part]
        report()
        batches = encode_documents(fragments(), split.separator, split.ends, tokenizer, skip)
        for ids, n_characters in batches:
            n_bytes = 0
            if part == VALIDATION:  # the first token is no target
                n_bytes = int(sizes[ids[counts.n_tokens[part] == 0 :]].sum())
            writer.add(part, ids, n_characters, n_bytes)
            report()
        say(PARTS[part], total, total)


def _begun(writer: TokenWriter) -> Tokenizer | None:
    """The tokenizer of a token file that was begun before."""
    try:
        tokenizer = tokenizer_from_json(writer.journal.tokenizer)
    except UserError:
        return None
    tokenizer.note = writer.journal.note
    return tokenizer


def tokenizer_choice(value: Any) -> tuple[type[Tokenizer], TokenizerConfig]:
    """The tokenizer class and its settings for what ``data.tokenizer`` may be.

    That is a name, a mapping with ``name`` and settings, an instance of a tokenizer's Config, or
    a :class:`bptool.config.choice.Choice`.

    Raises:
        ConfigError: no such tokenizer, or a setting is wrong.
    """
    if isinstance(value, Choice):
        return tokenizers.get(value.name), value.config
    if isinstance(value, TokenizerConfig):
        for name in tokenizers.names():
            if type(value) is tokenizers.get(name).Config:
                return tokenizers.get(name), value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ConfigError(
            f"data.tokenizer is {value!r}; give a name ({', '.join(tokenizers.names())})"
        )
    kind: type[Tokenizer] = tokenizers.get(value["name"])
    try:
        return kind, kind.Config(**{k: v for k, v in value.items() if k != "name"})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["data.tokenizer", *map(str, first["loc"])])
        raise ConfigError(f"{place}: {first['msg']} (found {first['input']!r})") from None


def _say_nothing(what: str, done: int, total: int) -> None:
    pass


def _tokenizer_choice(
    config: DataConfig, tokenizer: Tokenizer | None
) -> tuple[type[Tokenizer], TokenizerConfig]:
    if tokenizer is not None:
        return type(tokenizer), TokenizerConfig(special_tokens=None)
    kind, settings = tokenizer_choice(config.tokenizer)
    if settings.special_tokens is None:
        special = [END_OF_TEXT] if config.split.by == "document" else []
        settings = settings.model_copy(update={"special_tokens": special})
    return kind, settings


def _key(text_sha256: str, config: DataConfig, apart: bool, tokenizer: Any) -> str:
    """Hash of everything a token file follows from."""
    if isinstance(tokenizer, TokenizerConfig):
        import importlib.metadata

        kind, _ = tokenizer_choice(tokenizer)
        library = importlib.metadata.version("tokenizers") if kind.name == "bpe" else ""
        tokenizer = [kind.name, library, tokenizer.model_dump()]
    split = config.split.model_dump()
    if split["by"] == "position":
        kept = ("by", "validation_fraction", *(("separator",) if apart else ()))
        split = {key: split[key] for key in kept}
    made_from = [__version__, text_sha256, split, tokenizer, *(["documents"] if apart else [])]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def open_if_whole(path: Path, key: str) -> TokenFile | None:
    """A token file, marked as used now; None where there is none that can be used."""
    try:
        file = open_token_file(path, key)
    except DataError:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return file


def _train(
    kind: type[Tokenizer],
    settings: TokenizerConfig,
    found: Survey,
    split: Split,
    progress: Progress,
) -> Tokenizer:
    if kind.learns_from == "characters":
        progress("tokenizer", 0, 1)
        tokenizer = kind.train([found.characters, _between(settings, found, split)], settings)
        progress("tokenizer", 1, 1)
        return tokenizer
    total = split.shares[TRAIN] * found.n_bytes // found.n_characters
    pieces = _Pieces(kind, split)
    learning: Future[Tokenizer] = Future()

    def learn() -> None:
        try:
            learning.set_result(kind.train(pieces, settings))
        except BaseException as error:
            learning.set_exception(error)

    # Signals are handled in this thread alone, and not while a library holds it. A library that
    # merges cannot be stopped, so the process does not wait for its thread to end.
    thread = threading.Thread(target=learn, name="learning", daemon=True)
    thread.start()
    try:
        while not wait([learning], SECONDS_A_LOOK).done:
            done = pieces.n_characters * found.n_bytes // found.n_characters
            progress("tokenizer", min(done, total), total)
    finally:
        pieces.stopped = True
        thread.join(SECONDS_TO_STOP)
    progress("tokenizer", total, total)
    return learning.result()


def _between(settings: TokenizerConfig, found: Survey, split: Split) -> str:
    """What stands between documents, where a vocabulary of characters has to hold it."""
    several = found.n_texts > 1 if found.apart else found.n_documents > 1
    has_mark = END_OF_TEXT in (settings.special_tokens or [])
    return split.separator if several and not has_mark else ""


class _Pieces:
    """The documents of the training part, cut where ``kind`` may.

    Attributes:
        n_characters: that were taken, of those who go through all of them last.
        stopped: set, to have it raise Halt instead of the next piece.
    """

    def __init__(self, kind: type[Tokenizer], split: Split) -> None:
        self._kind, self._split = kind, split
        self.n_characters, self.stopped = 0, False

    def __iter__(self) -> Iterator[str]:
        fragments: Fragments = self._split.train()
        self.n_characters = 0
        for document in grouped(fragments):
            for piece in self._kind.pieces(document):
                if self.stopped:
                    raise Halt
                yield piece
                self.n_characters += len(piece)


def _check_variety(found: Survey, config: DataConfig) -> None:
    if len(found.characters) < 2:
        raise DataError(
            f"{', '.join(config.text)}: the text is one character over and over, so there is "
            "nothing to predict; give a text with at least two different characters"
        )


def check_known(tokenizer: Tokenizer, texts: Texts, found: Survey) -> None:
    """Raise a DataError with every character that ``tokenizer`` does not know, and where it is."""
    try:
        tokenizer.check(found.characters)
        return
    except UnknownCharacters as error:
        pattern = re.compile(f"[{re.escape(error.characters)}]")
    first = ""
    seen: dict[str, _Seen] = {}
    for source in texts:
        place = Place()
        for piece in source.slices():
            at = 0
            for match in pattern.finditer(piece):
                place, at = place.after(piece[at : match.start()]), match.start()
                if not first:
                    described = describe_character(match[0], 0, place)
                    first = f"{source.place}: the tokenizer has no token for {described}"
                of_it = seen.setdefault(match[0], _Seen())
                of_it.n += 1
                if len(of_it.places) < MOST_PLACES:
                    line = "" if source.is_document else f":{place.lines + 1}"
                    of_it.places.setdefault(f"{source.place}{line}")
            place = place.after(piece[at:])
    by_count = sorted(seen.items(), key=lambda item: -item[1].n)
    lines = [f"{first}; remove what it does not know, or use another tokenizer"]
    for character, of_it in by_count[:MOST_CHARACTERS]:
        times = "once" if of_it.n == 1 else f"{of_it.n:,} times"
        more = ", ..." if len(of_it.places) == MOST_PLACES else ""
        lines.append(f"  {shown_character(character)} {times}: {', '.join(of_it.places)}{more}")
    if len(by_count) > MOST_CHARACTERS:
        lines.append(f"  and {len(by_count) - MOST_CHARACTERS:,} other characters")
    raise DataError("\n".join(lines))


@dataclass
class _Seen:
    """How often a character was seen, and where first."""

    n: int = 0
    places: dict[str, None] = field(default_factory=dict)


def _check_length(file: TokenFile, context: int, config: DataConfig) -> None:
    for name, n in (("training", len(file.train)), ("validation", len(file.validation))):
        if n < context + 1:
            raise DataError(
                f"{', '.join(config.text)}: the {name} part has {n} tokens, but a context of "
                f"{context} needs at least {context + 1}; give more text, a smaller context, or "
                "another data.split.validation_fraction"
            )


def _validation_bytes(file: TokenFile, tokenizer: Tokenizer) -> int:
    """As the header has it, or, in files of before it did, from the ids."""
    known = file.header.get("validation_bytes")
    if type(known) is int:
        return known
    step = 1 << 22
    ids = file.validation[1:]
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for at in range(0, len(ids), step):
        counts += np.bincount(ids[at : at + step], minlength=tokenizer.vocab_size)
    return int(counts @ tokenizer.token_bytes())
