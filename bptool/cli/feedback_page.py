"""Judging on a page in the browser: a small server on this machine, for this user only.

It listens on the loopback address; every path begins with a secret that is drawn anew each time,
and requests whose Host is another name are refused, so that no other page of a browser reaches it.
The page needs nothing from anywhere else. Connections have threads, since a browser opens some that
it does not use; what touches the session is done one after the other.

A connection carries one request, which has to be there within :data:`REQUEST_SECONDS` however
slowly it comes. Of more connections than :data:`MOST_CONNECTIONS` the one that has kept its request
back for the longest is closed, so that nobody who opens many keeps the reviewer out.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptool.cli.failures import say
from bptool.errors import BptoolError, UserError
from bptool.feedback.prompts import transcript
from bptool.feedback.store import CHOICES

if TYPE_CHECKING:
    from bptool.cli.console import Console
    from bptool.feedback.session import Session

PAGE = Path(__file__).with_name("feedback_page.html")
MOST_BYTES = 1 << 20
"""Of what a page may send."""
MOST_CONNECTIONS = 32
REQUEST_SECONDS = 10.0
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)


class Server(ThreadingHTTPServer):
    """Serves one session.

    Attributes:
        url: where the page is.
        lock: held while the session is asked or told something.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, session: Session, port: int = 0) -> None:
        self.session = session
        self.secret = secrets.token_urlsafe(16)
        self.lock = threading.Lock()
        self._places = threading.Semaphore(MOST_CONNECTIONS)
        self._reading: dict[socket.socket, float] = {}  # the oldest first; since when
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            raise UserError(
                f"port {port} cannot be had: {error.strerror or error}; name another with --port"
            ) from None
        self.url = f"http://127.0.0.1:{self.server_port}/{self.secret}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread, as soon as there is a place for it."""
        while not self._places.acquire(timeout=0.05):
            self.close_waiting(at_least_one=True)
        self.close_waiting()
        self._reading[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except BaseException:  # there is no thread to be had
            self.has_read(request)
            self._places.release()
            raise

    def close_waiting(self, at_least_one: bool = False) -> None:
        """End the connections whose request takes too long, and the oldest if one has to go."""
        late = time.monotonic() - REQUEST_SECONDS
        waiting = list(self._reading.items())
        ended = [one for one, since in waiting if since < late]
        for one in ended or [one for one, _ in waiting[:1] if at_least_one]:
            self.has_read(one)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # its thread sees the end and closes it

    def has_read(self, request: socket.socket) -> None:
        """Note that a request is there; from now on its connection is left alone."""
        self._reading.pop(request, None)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one request, and free its place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.has_read(request)
            self._places.release()

    def service_actions(self) -> None:
        """Called between requests, and twice a second."""
        self.close_waiting()

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection; a moment's rest where the process has no file left for it."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.05)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that ended early: nobody at this terminal did anything."""
        error = sys.exception()
        if not isinstance(error, OSError | ValueError):
            say(f"the page: {type(error).__name__}: {error}", kind="unexpected error")

    def state(self) -> dict[str, Any]:
        """What the page shows next."""
        pair, session = self.session.next(), self.session
        shown = None
        if pair is not None:
            shown = {
                "number": pair.number,
                "prompt": transcript(pair.prompt),
                "left": pair.left,
                "right": pair.right,
            }
        return {
            "pair": shown,
            "done": session.total - len(session.left_over),
            "total": session.total,
        }

    def judge(self, value: Any) -> dict[str, Any]:
        """Record what the page sent of the pair that it showed."""
        pair = self.session.next()
        if not isinstance(value, dict) or value.get("choice") not in CHOICES:
            raise UserError("that is no judgement")
        if pair is None or value.get("number") != pair.number:
            raise UserError("that pair is judged already; load the page again")
        if value["choice"] != "edit":
            self.session.judge(pair, value["choice"])
            return self.state()
        side, text = value.get("side"), value.get("text")
        if side not in ("left", "right") or not isinstance(text, str) or not text.strip():
            raise UserError("write the better answer first")
        if text.strip() == (pair.left if side == "left" else pair.right):
            raise UserError("the answer was not changed")
        self.session.edit(pair, side, text.strip())
        return self.state()

    def undo(self) -> dict[str, Any]:
        """Take back the last judgement."""
        if self.session.undo() is None:
            raise UserError("there is nothing to undo")
        return self.state()


class Handler(BaseHTTPRequestHandler):
    """The requests of the page."""

    server: Server
    server_version = "bptool"
    timeout = REQUEST_SECONDS
    sys_version = ""

    def do_GET(self) -> None:
        """The page, and the pair it shows first."""
        self.server.has_read(self.connection)
        path = self._path()
        if path == "":
            self._send(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif path == "pair":
            self._act(self.server.state)
        elif path is not None:
            self._send(404, b"not here", "text/plain")

    def do_POST(self) -> None:
        """A judgement, or its undoing."""
        path = self._path()
        if path is None:
            return
        try:
            length = int(self.headers.get("Content-Length", ""))
            if not 0 <= length <= MOST_BYTES:
                self._discard(length)
                raise ValueError(length)
            value = json.loads(self.rfile.read(length).decode("utf-8"))
            self.server.has_read(self.connection)
        except (ValueError, RecursionError):
            self._json(400, {"error": "that is not JSON, or too long"})
            return
        if path == "judge":
            self._act(lambda: self.server.judge(value))
        elif path == "undo":
            self._act(self.server.undo)
        else:
            self._send(404, b"not here", "text/plain")

    def _discard(self, length: int) -> None:
        """Read what is too long, so that the answer reaches who sent it; not without end."""
        left = min(length, 16 * MOST_BYTES)
        while left > 0 and (part := self.rfile.read(min(left, 1 << 16))):
            left -= len(part)

    def _path(self) -> str | None:
        """What comes after the secret; None, and refused, without it or from elsewhere."""
        host = self.headers.get("Host", "")
        own = f"127.0.0.1:{self.server.server_port}", f"localhost:{self.server.server_port}"
        prefix = f"/{self.server.secret}/"
        given = self.path[: len(prefix)].encode("utf-8", "replace")
        if host not in own or not hmac.compare_digest(given, prefix.encode("ascii")):
            self._send(403, b"refused", "text/plain")
            return None
        return self.path[len(prefix) :]

    def _act(self, action: Callable[[], dict[str, Any]]) -> None:
        try:
            with self.server.lock:
                found = action()
        except BptoolError as error:
            self._json(409, {"error": str(error)})
        else:
            self._json(200, found)

    def _json(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode("utf-8")
        self._send(status, data, "application/json; charset=utf-8")

    def _send(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Nothing: the terminal shows what matters."""


def serve(session: Session, console: Console, port: int) -> None:
    """Serve the page until Ctrl-C; what is being saved then is saved."""
    server = Server(session, port)
    console.print(f"Judge at {server.url}", highlight=False, soft_wrap=True)
    console.print("Ctrl-C ends it; every judgement is saved at once.", style="dim")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        console.print()
    finally:
        server.lock.acquire()  # for good: after this nothing is judged any more
        server.server_close()
