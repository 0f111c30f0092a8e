"""Downloads against a server on the loopback interface: whole and right, or nothing."""

from __future__ import annotations

import errno
import functools
import hashlib
import http.server
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bptool.data.download import DATASETS, Dataset, get, is_here, path_of
from bptool.data.sources import read_sources
from bptool.errors import DataError

GOOD = b"ann\nbob\n" * 30_000
WRONG = b"eve\nbob\n" + GOOD[8:]


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/broken-off":
            self.send_response(200)
            self.send_header("Content-Length", str(len(GOOD)))
            self.end_headers()
            self.wfile.write(GOOD[:100_000])
            return
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/good")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "good").write_bytes(GOOD)
    (folder / "wrong").write_bytes(WRONG)
    (folder / "short").write_bytes(GOOD[:-1])
    (folder / "long").write_bytes(GOOD * 20)
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data set ``names`` becomes ours, the cache a temporary folder, proxies are off."""
    ours = Dataset("names", "test", "", len(GOOD), hashlib.sha256(GOOD).hexdigest())
    monkeypatch.setitem(DATASETS, "names", ours)
    monkeypatch.setenv("BPTOOL_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "datasets"


def left_behind(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("page", ["good", "moved"])
def test_download(page: str, server: str, folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    path = get("names", url=f"{server}/{page}", progress=lambda *call: calls.append(call))
    assert path == folder / "names.txt" == path_of("names")
    assert path.read_bytes() == GOOD
    assert read_sources(["dataset:names"])[0].text == GOOD.decode()
    assert calls == sorted(calls)
    assert len(calls) > 2
    assert calls[-1] == (len(GOOD), len(GOOD))
    assert left_behind(folder) == ["names.txt"]
    # A second time nothing is fetched, so the missing URL of our data set does no harm.
    assert get("names") == path


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("wrong", "not the text known as names .*SHA-256"),
        ("short", f"{len(GOOD) - 1} bytes instead of {len(GOOD)}"),
        ("long", f"more than {len(GOOD)} bytes"),
        ("nowhere", "the server answers 404"),
        ("broken-off", "the connection broke off|bytes instead of"),
    ],
)
def test_a_bad_download_leaves_nothing(page: str, expected: str, server: str, folder: Path) -> None:
    with pytest.raises(DataError, match=expected) as caught:
        get("names", url=f"{server}/{page}")
    assert str(caught.value).startswith(f"{server}/{page}: ")
    assert "\n" not in str(caught.value)
    assert left_behind(folder) == []


def test_a_bad_download_leaves_the_good_one(server: str, folder: Path) -> None:
    path = get("names", url=f"{server}/good")
    with pytest.raises(DataError):
        get("names", url=f"{server}/wrong")
    assert path.read_bytes() == GOOD
    assert left_behind(folder) == ["names.txt"]


def test_no_server(folder: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/x"
    with pytest.raises(DataError, match="no connection; try again, or give a copy") as caught:
        get("names", url=url)
    assert "\n" not in str(caught.value)
    assert left_behind(folder) == []


@pytest.mark.parametrize("url", ["names.txt", "ftp://127.0.0.1/x", "file:///etc/hosts", "http://"])
def test_what_is_no_web_address(url: str, folder: Path) -> None:
    with pytest.raises(DataError, match="not a URL that can be fetched"):
        get("names", url=url)
    assert left_behind(folder) == []


def test_a_copy_at_hand(tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(GOOD)
    assert get("names", from_file=copy).read_bytes() == GOOD
    copy.write_bytes(WRONG)
    with pytest.raises(DataError, match="not the text known as names"):
        get("names", from_file=copy)
    for gone in (tmp_path / "gone", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            get("names", from_file=gone)
    assert left_behind(folder) == ["names.txt"]


class FullDisk(io.BytesIO):
    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk(tmp_path: Path, folder: Path, server: str, monkeypatch: Any) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(GOOD)
    monkeypatch.setattr("bptool.files.os.fdopen", lambda descriptor, mode: FullDisk())
    sources: list[dict[str, Any]] = [{"from_file": copy}, {"url": f"{server}/good"}]
    for source in sources:
        with pytest.raises(DataError, match=r"names\.txt: cannot be written \(No space left"):
            get("names", **source)
    assert left_behind(folder) == []


def test_a_damaged_copy_is_fetched_again(server: str, folder: Path) -> None:
    path = get("names", url=f"{server}/good")
    assert is_here("names")
    path.write_bytes(WRONG)
    assert not is_here("names")
    with pytest.raises(DataError, match=r"wrong checksum.*bptool data get names"):
        path_of("names")
    assert get("names", url=f"{server}/good").read_bytes() == GOOD


def test_not_fetched_yet() -> None:
    assert not is_here("names")
    with pytest.raises(DataError, match="run `bptool data get names`"):
        read_sources(["dataset:names"])


def test_an_unknown_name() -> None:
    for ask in (get, path_of, is_here):
        with pytest.raises(DataError, match="did you mean 'tinyshakespeare'"):
            ask("tinyshakespear")


def test_the_catalogue_is_plausible() -> None:
    for name, dataset in DATASETS.items():
        assert name == dataset.name
        assert len(bytes.fromhex(dataset.sha256)) == 32
        assert dataset.n_bytes > 1000
