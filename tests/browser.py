"""A browser for tests: Chromium without a window, told what to do through its debugging pipe.

Commands are JSON objects that end in a zero byte, as the DevTools protocol has them; the browser
reads them from descriptor 3 and answers on 4. Nothing has to be installed but the browser.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
AS_3_AND_4 = """
import os, sys
copies = [os.dup(int(descriptor)) for descriptor in sys.argv[1:3]]
high = [os.dup2(copy, 100 + i) for i, copy in enumerate(copies)]
for i, descriptor in enumerate(high):
    os.dup2(descriptor, 3 + i)
os.execv(sys.argv[3], sys.argv[3:])
"""
KEY_CODES = {"ArrowLeft": 37, "ArrowRight": 39, "Escape": 27}


def find() -> str | None:
    """The browser of this machine, if there is one that can be driven so."""
    if os.name == "nt":
        return None
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page in a browser; a context manager."""

    def __init__(self, profile: Path, seconds: float = 60.0) -> None:
        self._profile, self._seconds = profile, seconds
        self._number, self._session, self._data = 0, "", b""

    def __enter__(self) -> Browser:
        program = find()
        assert program is not None
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        arguments = [
            *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-dev-shm-usage", "--remote-debugging-pipe", "--hide-scrollbars"),
            f"--user-data-dir={self._profile}",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-c", AS_3_AND_4, str(read), str(write), *arguments],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        found = self.tell("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def tell(self, method: str, **values: Any) -> dict[str, Any]:
        """Send a command, and return what it answers."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": values}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._write, json.dumps(command).encode() + b"\0")
        while True:
            message = self._message(method)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return dict(message["result"])

    def _message(self, waiting_for: str) -> dict[str, Any]:
        deadline = time.monotonic() + self._seconds
        while b"\0" not in self._data:
            if not select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"no answer to {waiting_for}")
            data = os.read(self._read, 1 << 16)
            assert data, "the browser ended"
            self._data += data
        line, _, self._data = self._data.partition(b"\0")
        return dict(json.loads(line))

    def open(self, url: str) -> None:
        self.tell("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is on the page."""
        found = self.tell("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until an expression is true on the page."""
        deadline = time.monotonic() + self._seconds
        while not self.value(expression):
            if time.monotonic() > deadline:
                text = self.value("document.body.innerText")
                raise TimeoutError(f"{expression} did not come true on the page:\n{text}")
            time.sleep(0.02)

    def press(self, key: str, repeated: bool = False) -> None:
        """One key, of which a letter also writes itself."""
        event = {"key": key, "windowsVirtualKeyCode": KEY_CODES.get(key, ord(key[0].upper()))}
        text = {"text": key} if len(key) == 1 else {}
        self.tell("Input.dispatchKeyEvent", type="keyDown", autoRepeat=repeated, **event, **text)
        self.tell("Input.dispatchKeyEvent", type="keyUp", **event)

    def write(self, text: str) -> None:
        """Text where the cursor is."""
        self.tell("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """The left button of the mouse, in the middle of an element."""
        box = self.value(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        at = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
        self.tell("Input.dispatchMouseEvent", type="mousePressed", **at)
        self.tell("Input.dispatchMouseEvent", type="mouseReleased", **at)

    def size(self, width: int, height: int) -> None:
        """Of the window, in pixels."""
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def screenshot(self, path: Path) -> None:
        """A picture of the page, as PNG."""
        path.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot")["data"]))
