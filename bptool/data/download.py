"""Public texts by name, fetched once into the user's cache folder and checked by their SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bptool import files
from bptool.data.cache import cache_folder
from bptool.errors import DataError, did_you_mean

ByteProgress = Callable[[int, int], None]
"""Called with the bytes done and the bytes there are."""

_CHUNK_BYTES = 1 << 16
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Dataset:
    """A text that can be fetched by name."""

    name: str
    description: str
    url: str
    n_bytes: int
    sha256: str


DATASETS = {
    d.name: d
    for d in (
        Dataset(
            "names",
            "32,032 first names, one a line (US Social Security; the file of makemore)",
            "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",
            228_145,
            "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
        ),
        Dataset(
            "tinyshakespeare",
            "Shakespeare, 1.1 million characters (public domain; the file of char-rnn and nanoGPT)",
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
            "input.txt",
            1_115_394,
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    )
}


def find(name: str) -> Dataset:
    """The data set called ``name``; a DataError with the nearest name if there is none."""
    if name not in DATASETS:
        raise DataError(f"unknown data set '{name}'{did_you_mean(name, DATASETS)}")
    return DATASETS[name]


def is_here(name: str, cache: Path | None = None) -> bool:
    """Whether the data set was fetched and is whole."""
    dataset = find(name)
    return _is_whole(dataset, _place(dataset, cache))


def path_of(name: str, cache: Path | None = None) -> Path:
    """Where the data set lies.

    Raises:
        DataError: it was not fetched yet, or the file is damaged.
    """
    dataset = find(name)
    path = _place(dataset, cache)
    if not path.exists():
        raise DataError(f"dataset:{name} is not here yet; run `bptool data get {name}`")
    if not _is_whole(dataset, path):
        raise DataError(f"{path}: not {name} (wrong checksum); run `bptool data get {name}`")
    return path


def get(
    name: str,
    from_file: Path | None = None,
    url: str | None = None,
    progress: ByteProgress | None = None,
    cache: Path | None = None,
) -> Path:
    """Fetch a data set unless it is here, and return where it lies.

    Args:
        name: one of ``DATASETS``.
        from_file: a copy at hand, used instead of the network.
        url: another place to fetch it from.
        progress: told how far it is.
        cache: folder to keep it in; by default the user's cache folder.

    Raises:
        DataError: unknown name, no connection, wrong checksum, full disk. Nothing is left behind.
    """
    dataset = find(name)
    path = _place(dataset, cache)
    if from_file is None and url is None and path.exists() and _is_whole(dataset, path):
        return path
    source = str(from_file or url or dataset.url)
    try:
        with files.replacing(path) as file:
            checked = _CheckedWriter(file, dataset, source, progress)
            if from_file is not None:
                _copy(Path(from_file), checked)
            else:
                _download(source, checked)
            checked.finish()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); free some space, or set "
            "BPTOOL_CACHE_DIR to a folder elsewhere"
        ) from None
    return path


class _CheckedWriter:
    """A file that knows how long it may become and what its hash must be."""

    def __init__(
        self, file: BinaryIO, dataset: Dataset, source: str, progress: ByteProgress | None
    ) -> None:
        self._file, self._dataset, self._source = file, dataset, source
        self._progress = progress or (lambda done, total: None)
        self._digest = hashlib.sha256()
        self._done = 0
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        self._done += len(data)
        if self._done > self._dataset.n_bytes:
            raise self._wrong(f"more than {self._dataset.n_bytes} bytes")
        self._digest.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            self.failure = error
            raise
        self._progress(self._done, self._dataset.n_bytes)
        return len(data)

    def flush(self) -> None:
        """Nothing to do: the file is flushed once, at its end."""

    def finish(self) -> None:
        if self._done != self._dataset.n_bytes:
            raise self._wrong(f"{self._done} bytes instead of {self._dataset.n_bytes}")
        if (found := self._digest.hexdigest()) != self._dataset.sha256:
            raise self._wrong(f"SHA-256 {found[:12]}... instead of {self._dataset.sha256[:12]}...")

    def _wrong(self, what: str) -> DataError:
        return DataError(
            f"{self._source}: not the text known as {self._dataset.name} ({what}); "
            f"fetch it from another place by `bptool data get {self._dataset.name} --url URL`, or "
            f"give a copy by `bptool data get {self._dataset.name} --from FILE`"
        )


def _copy(source: Path, writer: _CheckedWriter) -> None:
    try:
        with open(source, "rb") as file:
            while data := file.read(_CHUNK_BYTES):
                writer.write(data)
    except OSError as error:
        if writer.failure is not None:
            raise
        raise DataError(f"{source}: cannot be read ({error.strerror or error})") from None


def _download(url: str, writer: _CheckedWriter) -> None:
    import pooch

    responses: list[Any] = []

    def keep(response: Any, *_: Any, **__: Any) -> None:
        responses.append(response)

    fetch: Any = pooch.HTTPDownloader(
        chunk_size=_CHUNK_BYTES, timeout=_TIMEOUT_SECONDS, hooks={"response": keep}
    )
    try:
        fetch(url, writer, None)
    except (OSError, ValueError) as error:
        # All that requests raises is an OSError; an unusable URL is a ValueError besides.
        if writer.failure is not None:
            raise writer.failure from None
        raise DataError(
            f"{url}: {_reason(error)}; try again, or give a copy at hand by "
            "`bptool data get NAME --from FILE`"
        ) from None
    finally:
        # A download given up half-way would leave its connection open.
        for response in responses:
            response.close()


def _reason(error: Exception) -> str:
    """A few words for an exception of requests, whose own text spells out its inner classes."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code} {response.reason}"
    kinds = {
        "Timeout": "no answer in time",
        "ProxyError": "the proxy does not let it through",
        "SSLError": "the server's certificate is not trusted",
        "ChunkedEncodingError": "the connection broke off",
        "ConnectionError": "no connection",
        "ValueError": "not a URL that can be fetched (http:// or https://)",
    }
    for base in type(error).__mro__:
        if base.__name__ in kinds:
            return kinds[base.__name__]
    return str(error)


def _place(dataset: Dataset, cache: Path | None) -> Path:
    return cache_folder("datasets", cache) / f"{dataset.name}.txt"


def _is_whole(dataset: Dataset, path: Path) -> bool:
    try:
        if path.stat().st_size != dataset.n_bytes:
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == dataset.sha256
    except OSError:
        return False
