"""Token files of whole texts, undivided, in the tokens of a tokenizer that is there already.

For measuring a model on another text, and for the text that fine-tuning mixes in. They are made
and kept as those of a run's text are, so that the ids are mapped and not held.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bptool import __version__
from bptool.config.data_section import DataConfig, SplitConfig
from bptool.data.cache import cache_folder
from bptool.data.corpus import check_known, open_if_whole, texts_of_config
from bptool.data.encoding import Batch, encode_documents
from bptool.data.sources import Source, Texts
from bptool.data.split import Fragments, documents_of, texts_of
from bptool.data.survey import Stamps, survey
from bptool.data.token_writer import TRAIN, TokenWriter
from bptool.data.tokenfile import forget_unused, open_token_file
from bptool.data.tokenizers import Tokenizer
from bptool.errors import DataError

Tokens = NDArray[Any]


def encode_all(config: DataConfig, tokenizer: Tokenizer, cache: Path | None = None) -> Tokens:
    """Ids of the whole text of ``config``, with ends of text where ``prepare`` has them.

    Mapped from a token file (uint16 or uint32); read-only.

    Args:
        config: the ``data`` section. tokenizer: what makes the ids.
        cache: folder for token files; by default the user's cache folder.

    Raises:
        DataError: a text cannot be read, or holds a character the tokenizer does not know.
    """
    texts, split = texts_of_config(config), config.split

    def batches(apart: bool, skip: int) -> Iterator[Batch]:
        by_document = split.by == "document"
        separator = split.separator if by_document or apart else ""
        fragments = documents_of(texts, separator) if by_document else texts_of(texts)
        return encode_documents(fragments, separator, by_document, tokenizer, skip)

    return _kept(texts, split, [split.by, split.separator], tokenizer, batches, cache)


def encode_each(texts: Texts, tokenizer: Tokenizer, cache: Path | None = None) -> Tokens:
    """Ids of each text, one after the other, with nothing between them; else as `encode_all`."""

    def batches(apart: bool, skip: int) -> Iterator[Batch]:
        found = (
            batch
            for source in texts
            for batch in encode_documents(_alone(source), "", False, tokenizer)
        )
        return islice(found, skip, None)

    return _kept(texts, SplitConfig(), ["each"], tokenizer, batches, cache)


def _alone(source: Source) -> Fragments:
    return ((0, piece) for piece in source.slices())


def _kept(
    texts: Texts,
    split: SplitConfig,
    how: list[str],
    tokenizer: Tokenizer,
    batches: Callable[[bool, int], Iterator[Batch]],
    cache: Path | None,
) -> Tokens:
    """What ``batches`` makes of ``texts``, or the token file that it made before.

    Args:
        how: what, beside texts and tokenizer, the ids follow from.
        batches: told whether a text is a document of its own, and how many batches to pass over.
    """
    folder = cache_folder("tokens", cache)
    stamps = Stamps.of(texts)
    found = survey(texts, split, folder)
    made_from = [__version__, "whole", found.sha256, found.apart, how, tokenizer.to_json()]
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    path = folder / f"{key[:32]}.tokens"
    file = open_if_whole(path, key)
    if file is None:
        forget_unused(folder)
        check_known(tokenizer, texts, found)
        with TokenWriter(path, key) as writer:
            writer.begin(tokenizer.to_json(), tokenizer.vocab_size)
            for ids, n_characters in batches(found.apart, writer.journal.n_batches[TRAIN]):
                writer.add(TRAIN, ids, n_characters)
            if Stamps.of(texts) != stamps:
                names = ", ".join(map(str, texts.paths))
                raise DataError(f"{names}: changed while it was read; start again")
            writer.finish()
        file = open_token_file(path, key)
    return file.train
