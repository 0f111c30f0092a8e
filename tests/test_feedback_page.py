"""The page of ``bptool feedback --serve`` in a real browser: keys, mouse, and what may go wrong."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, find

from bptool.cli.feedback_page import Server
from bptool.feedback.session import Session
from bptool.feedback.store import Store
from bptool.inference.answers import Answer
from bptool.inference.sampling import Sampling

HOSTILE = "<img src=x onerror=\"document.title='run'\"> & "
PROMPTS = [f"{HOSTILE} question {i}" for i in range(7)]

needs_browser = pytest.mark.skipif(
    find() is None, reason="needs Chromium or Chrome on the path, on a system with POSIX pipes"
)


class Drawn:
    """Stands in for a model: its answers say which they are, and hold marks of HTML."""

    def encode(self, prompt: Any) -> None:
        """Every prompt can be answered."""

    def answers(self, prompts: Any, n: int, *more: Any) -> list[list[Answer]]:
        return [
            [Answer(f"{HOSTILE}answer {s} to {p[-1]}", (), True) for s in range(n)] for p in prompts
        ]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Serves a session on the file ``prefs.jsonl``, as often as asked."""
    servers: list[tuple[Server, threading.Thread]] = []

    def start() -> Server:
        sampling = Sampling(1.0, None, None, 3)
        store = Store(tmp_path / "prefs.jsonl")
        server = Server(Session(Drawn(), PROMPTS, store, "ann", sampling, 6, {}))  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def shown(browser: Browser) -> dict[str, str]:
    """What the page says, part by part."""
    parts = {"place": "#place", "prompt": "#prompt", "said": "#said"}
    parts |= {side: f"#{side} span" for side in ("left", "right")}
    texts = "Object.entries(PARTS).map(([k, q]) => [k, document.querySelector(q).textContent])"
    texts = texts.replace("PARTS", json.dumps(parts))
    return dict(browser.value(f"Object.fromEntries({texts})"))


def until(browser: Browser, place: str, said: str = "") -> dict[str, str]:
    """Waits until the page shows a place and a message."""
    browser.wait(
        f"document.querySelector('#place')?.textContent === {place!r} && "
        f"document.querySelector('#said').textContent.startsWith({said!r})"
    )
    return shown(browser)


@pytest.mark.long
@needs_browser
def test_keys_and_mouse_judge_what_is_shown(served: Any, tmp_path: Path) -> None:
    server = served()
    seen = []
    with Browser(tmp_path / "profile") as browser:
        browser.open(server.url)
        seen.append(until(browser, "1 of 7"))
        assert seen[0]["prompt"] == PROMPTS[0]
        assert sorted([seen[0]["left"], seen[0]["right"]]) == [
            f"{HOSTILE}answer {s} to 0" for s in (0, 1)
        ]
        browser.press("ArrowLeft")
        seen.append(until(browser, "2 of 7", "saved: left"))
        browser.press("t", repeated=True)  # a key that is held down judges nothing more
        browser.press("2")
        until(browser, "3 of 7", "saved: right")
        browser.press("u")
        assert until(browser, "2 of 7", "undone")["left"] == seen[1]["left"]
        browser.click("#right span")
        until(browser, "3 of 7", "saved: right")
        browser.click("#tie")
        until(browser, "4 of 7", "saved: tie")
        browser.press("s")
        seen.append(until(browser, "5 of 7", "saved: skip"))
        browser.press("e")
        browser.wait("document.activeElement.id === 'text'")
        assert browser.value("document.activeElement.value") == seen[2]["left"]
        browser.click("#editor nav button")
        until(browser, "5 of 7", "the answer was not changed")
        browser.value("document.querySelector('#text').select()")
        browser.write("A better one: 1 é")
        browser.value("document.querySelector('#side').focus()")
        browser.press("r")  # chooses in the list, and judges nothing
        browser.press("Escape")
        browser.wait("document.querySelector('#editor').hidden")
        browser.value("document.querySelector('#side').value = 'right'")
        browser.press("e")
        browser.wait("document.activeElement.id === 'text'")
        browser.value("document.querySelector('#text').select()")
        browser.write("A better one: 1 é")
        browser.click("#editor nav button")
        until(browser, "6 of 7", "saved: edit")
        browser.press("t")
        until(browser, "7 of 7", "saved: tie")
        browser.press("1")
        assert "All prompts are judged" in until(browser, "7 of 7", "saved: left")["prompt"]
        browser.press("1")  # nothing is left to judge
        assert browser.value("document.title") == "bptool feedback"  # no answer ran as a script
    judged = Store(tmp_path / "prefs.jsonl").judgements
    kept = [j.choice for j in judged]
    assert kept == ["left", "right", "tie", "skip", "edit", "tie", "left"]
    assert (judged[0].chosen, judged[0].rejected) == (seen[0]["left"], seen[0]["right"])
    assert (judged[1].chosen, judged[1].rejected) == (seen[1]["right"], seen[1]["left"])
    assert (judged[4].chosen, judged[4].rejected) == ("A better one: 1 é", seen[2]["right"])


@pytest.mark.long
@needs_browser
def test_the_page_says_when_it_is_not_saved_and_a_new_one_goes_on(
    served: Any, tmp_path: Path
) -> None:
    first = served()
    with Browser(tmp_path / "profile") as browser:
        browser.open(first.url)
        until(browser, "1 of 7")
        browser.press("1")
        until(browser, "2 of 7", "saved: left")
        first.shutdown()
        first.server_close()
        browser.press("1")
        until(browser, "2 of 7", "not saved: bptool does not answer")
        browser.open(served().url)
        until(browser, "2 of 7")
    assert [j.choice for j in Store(tmp_path / "prefs.jsonl").judgements] == ["left"]


@pytest.mark.long
@needs_browser
def test_a_narrow_window_shows_the_answers_below_each_other(served: Any, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as browser:
        browser.open(served().url)
        until(browser, "1 of 7")
        box = "document.querySelector('#{}').getBoundingClientRect()"
        for width, beside in ((1000, True), (320, False)):
            browser.size(width, 700)
            left, right = box.format("left"), box.format("right")
            assert browser.value(f"{left}.y === {right}.y") is beside
            assert browser.value("document.documentElement.scrollWidth") <= width


def test_half_a_character_is_refused_and_nothing_is_lost(served: Any, tmp_path: Path) -> None:
    server = served()
    number = server.state()["pair"]["number"]

    def post(text: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
        body = json.dumps({"number": number, "choice": "edit", "side": "left", "text": text})
        connection.request("POST", f"/{server.secret}/judge", body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8")

    status, said = post("better \ud800")
    assert status == 409
    assert "half of a surrogate pair" in said
    assert not (tmp_path / "prefs.jsonl").exists() or not (tmp_path / "prefs.jsonl").read_bytes()
    assert post("better")[0] == 200
    assert [j.chosen for j in Store(tmp_path / "prefs.jsonl").judgements] == ["better"]


def test_a_connection_that_says_nothing_holds_nobody_up(served: Any) -> None:
    import http.client

    server = served()
    with socket.create_connection(("127.0.0.1", server.server_port)):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request("GET", f"/{server.secret}/pair")
        assert json.loads(connection.getresponse().read())["total"] == 7
        connection.close()


def get(server: Server, path: str = "pair", seconds: float = 30) -> int:
    """The status of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=seconds)
    try:
        connection.request("GET", f"/{server.secret}/{path}")
        return connection.getresponse().status
    finally:
        connection.close()


def test_those_who_send_nothing_keep_nobody_out(served: Any) -> None:
    server = served()
    idle = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(100)]
    try:
        for one in idle[::2]:
            one.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert get(server) == 200
        assert threading.active_count() < 60
    finally:
        for one in idle:
            one.close()


def test_many_requests_at_once_are_all_answered(served: Any) -> None:
    server, statuses = served(), []
    threads = [threading.Thread(target=lambda: statuses.append(get(server))) for _ in range(80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 80


def test_a_request_that_comes_a_byte_at_a_time_is_ended(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bptool.cli.feedback_page.REQUEST_SECONDS", 0.3)
    server = served()
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as slow:
        with contextlib.suppress(OSError):
            while not select.select([slow], [], [], 0.05)[0]:  # until it is closed
                slow.sendall(b"G")
            assert slow.recv(1) == b""
    assert get(server) == 200


def test_a_connection_that_is_reset_prints_nothing(
    served: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    server = served()
    host = f"127.0.0.1:{server.server_port}"
    begun = f"POST /{server.secret}/judge HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\n"
    for said in (b"", b"GET /", begun.encode(), f"GET /{server.secret}/ HTTP/1.1\r\n".encode()):
        with socket.create_connection(("127.0.0.1", server.server_port)) as one:
            one.sendall(said)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(20):
        assert get(server) == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("length", [str(1 << 21), "-1", "9" * 30, "x", "\u0661"])
def test_a_body_that_is_too_long_is_not_taken(served: Any, length: str) -> None:
    server = served()
    head = f"POST /{server.secret}/judge HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as one:
        one.sendall(f"{head}Content-Length: {length}\r\n\r\n{{}}".encode())
        one.shutdown(socket.SHUT_WR)
        assert b" 400 " in one.recv(64)
