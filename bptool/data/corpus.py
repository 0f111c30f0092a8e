"""From the ``data`` section to two arrays of token ids."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bptool import __version__
from bptool.config.choice import Choice
from bptool.config.data_section import DataConfig
from bptool.data.cache import cache_folder
from bptool.data.sources import Reading, Source, read_sources
from bptool.data.split import Split, documents_of, split_texts
from bptool.data.text import sha256_of_texts
from bptool.data.tokenfile import TokenFile, forget_unused, open_token_file, write_token_file
from bptool.data.tokenizers import (
    END_OF_TEXT,
    Tokenizer,
    TokenizerConfig,
    tokenizer_from_json,
)
from bptool.errors import ConfigError, DataError
from bptool.registry import tokenizers

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
_PROGRESS_CHARACTERS = 1 << 18


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
    """

    train: NDArray[Any]
    validation: NDArray[Any]
    tokenizer: Tokenizer
    text_sha256: str
    n_characters: int
    validation_bytes: int
    token_file: Path | None
    reused: bool

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
        progress: told how far it is.
        cache: folder for token files; by default the user's cache folder.
        tokenizer: use this one (a run's own, for another text) instead of training one.

    Raises:
        DataError: a text cannot be read, is too short for ``context``, or has one kind of token.
        ConfigError: the tokenizer's settings are wrong.
    """
    if config.records is not None:
        raise ConfigError("this works on a text, and the configuration trains on records")
    say = progress or _say_nothing
    sources = sources_of(config)
    texts = [source.text for source in sources]
    text_sha256 = sha256_of_texts(texts)
    kind, settings = _tokenizer_choice(config, tokenizer)
    apart = any(source.is_document for source in sources)
    key = _key(text_sha256, config, apart, tokenizer.to_json() if tokenizer else settings)
    path = cache_folder("tokens", cache) / f"{key[:32]}.tokens"
    file = _open_if_whole(path, key)
    reused = file is not None
    if file is None:
        forget_unused(path.parent)
        _check_variety(texts, config)
        if tokenizer is not None:
            _check_known(tokenizer, sources)
        split = split_texts(sources, config.split)
        if tokenizer is None:
            tokenizer = _train(kind, settings, texts, split, say)
        ends = config.split.by == "document"
        write_token_file(
            path,
            key,
            tokenizer.vocab_size,
            tokenizer.to_json(),
            encode_documents(split.train, split.separator, ends, tokenizer, say, "training text"),
            encode_documents(
                split.validation, split.separator, ends, tokenizer, say, "validation text"
            ),
        )
        file = open_token_file(path, key)
    made_by = tokenizer or tokenizer_from_json(file.header["tokenizer"])
    _check_length(file, context, config)
    return Corpus(
        train=file.train,
        validation=file.validation,
        tokenizer=made_by,
        text_sha256=text_sha256,
        n_characters=sum(map(len, texts)),
        validation_bytes=_n_bytes(file.validation[1:], made_by),
        token_file=path,
        reused=reused,
    )


def sources_of(config: DataConfig) -> list[Source]:
    """The texts of ``config``, read as it says."""
    return read_sources(config.text, Reading(config.encoding, config.errors, config.field))


def describe(config: DataConfig, cache: Path | None = None) -> dict[str, int | float]:
    """Counts that show what the text of ``config`` becomes, by what they count."""
    texts = [source.text for source in sources_of(config)]
    corpus = prepare(config, context=1, cache=cache)
    n_tokens = corpus.n_train + corpus.n_validation
    n_special = len(corpus.tokenizer.special_tokens)
    return {
        "texts": len(texts),
        "bytes (UTF-8)": sum(len(text.encode("utf-8")) for text in texts),
        "characters": corpus.n_characters,
        "distinct characters": len(set[str]().union(*texts)),
        "vocabulary (tokens)": corpus.tokenizer.vocab_size,
        "of these special": n_special,
        "tokens": n_tokens,
        "characters per token": corpus.n_characters / n_tokens,
        "training tokens": corpus.n_train,
        "validation tokens": corpus.n_validation,
    }


def encode_all(config: DataConfig, tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Ids of the whole text of ``config``, undivided, with ends of text where ``prepare`` has them.

    For measuring a model on a text that it was not trained on.

    Raises:
        DataError: a text cannot be read, or holds a character the tokenizer does not know.
    """
    sources = sources_of(config)
    _check_known(tokenizer, sources)
    by_document = config.split.by == "document"
    apart = by_document or any(source.is_document for source in sources)
    separator = config.split.separator if apart else ""
    documents = [source.text for source in sources]
    if by_document:
        documents = documents_of(sources, separator)
    slices = encode_documents(documents, separator, by_document, tokenizer, _say_nothing, "text")
    return np.concatenate([np.empty(0, np.int32), *slices])


def encode_documents(
    documents: list[str],
    separator: str,
    ends: bool,
    tokenizer: Tokenizer,
    progress: Progress,
    what: str,
) -> Iterator[NDArray[np.int32]]:
    """Ids of documents one after the other, in slices.

    Where the tokenizer reserves the end of text, it stands between two documents in place of the
    separator, and with ``ends`` before the first and after the last one too. Otherwise the
    documents are joined by the separator.
    """
    end_id = tokenizer.special_tokens.get(END_OF_TEXT)
    end = None if end_id is None else np.array([end_id], np.int32)
    if end is None:
        documents = [separator.join(documents)]
    total = sum(map(len, documents))
    before = shown = 0
    for i, document in enumerate(documents):
        if end is not None and (i or ends):
            yield end
        for done, ids in tokenizer.encode_slices(document):
            yield ids
            if before + done == total or before + done >= shown + _PROGRESS_CHARACTERS:
                shown = before + done
                progress(what, shown, total)
        before += len(document)
    if end is not None and ends:
        yield end


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


def _open_if_whole(path: Path, key: str) -> TokenFile | None:
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
    texts: list[str],
    split: Split,
    progress: Progress,
) -> Tokenizer:
    learn: Iterable[str] = texts if kind.learns_from == "all" else split.train
    progress("tokenizer", 0, 1)
    tokenizer = kind.train(learn, settings)
    progress("tokenizer", 1, 1)
    return tokenizer


def _check_variety(texts: list[str], config: DataConfig) -> None:
    if len(set[str]().union(*texts)) < 2:
        raise DataError(
            f"{', '.join(config.text)}: the text is one character over and over, so there is "
            "nothing to predict; give a text with at least two different characters"
        )


def _check_known(tokenizer: Tokenizer, sources: list[Source]) -> None:
    for source in sources:
        try:
            tokenizer.check(source.text)
        except DataError as error:
            raise DataError(f"{source.place}: {error}") from None


def _check_length(file: TokenFile, context: int, config: DataConfig) -> None:
    for name, n in (("training", len(file.train)), ("validation", len(file.validation))):
        if n < context + 1:
            raise DataError(
                f"{', '.join(config.text)}: the {name} part has {n} tokens, but a context of "
                f"{context} needs at least {context + 1}; give more text, a smaller context, or "
                "another data.split.validation_fraction"
            )


def _n_bytes(ids: NDArray[Any], tokenizer: Tokenizer) -> int:
    step = 1 << 22
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for at in range(0, len(ids), step):
        counts += np.bincount(ids[at : at + step], minlength=tokenizer.vocab_size)
    return int(counts @ tokenizer.token_bytes())
