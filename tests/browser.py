"""Headless Chromium, driven by its DevTools protocol over two pipes: JSON messages, each ended by a zero byte."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import skip_or_fail

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The namespaces of its sandbox are often refused in containers and to root; its pages here are our own.
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--window-size=1100,900", "--remote-debugging-pipe"),
)
_TIMEOUT_SECONDS = 60.0


class Browser:
    """One page of a running Chromium. ``events`` are all that it told of since it was last cleared."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._buffer, self._last_id = write, read, b"", 0
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and give its result."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": parameters}
        if session := getattr(self, "_session", None):
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], _TIMEOUT_SECONDS)
            assert ready, f"Chromium said nothing for {_TIMEOUT_SECONDS} s"
            block = os.read(self._read, 1 << 16)
            assert block, "Chromium went away"
            self._buffer += block
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def open(self, address: str) -> None:
        """Load a page, and wait until its load event was handled."""
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.wait_for(f"document.readyState === 'complete' && location.href.split('#')[0] === {json.dumps(address)}")

    def value(self, expression: str) -> Any:
        """Give the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Give the value of a JavaScript expression as soon as it is true."""
        end = time.monotonic() + _TIMEOUT_SECONDS
        while not (value := self.value(expression)):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)
        return value

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        """Press and release a key: its name and its Windows key code."""
        text = {"Enter": "\r", " ": " "}.get(key, key if len(key) == 1 else "")
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text)

    def complaints(self) -> list[dict[str, Any]]:
        """Give everything that went to the console: messages, exceptions, and the browser's own notes."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self.events if event.get("method") in kinds]

    def requests(self) -> list[str]:
        """Give every address that the page asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]


def find_chromium() -> str:
    """Give the browser's program, or skip."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        skip_or_fail("chromium", f"none of {', '.join(_NAMES)} is installed: apt-get install chromium")
    assert found is not None
    return found


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start Chromium with an empty profile, and end it."""
    program = find_chromium()
    to_read, write = os.pipe()
    read, from_write = os.pipe()
    # Chromium reads its descriptor 3 and writes to 4.
    shell = f'exec "$@" 3<&{to_read} 4>&{from_write}'
    command = ["bash", "-c", shell, "bash", program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        command,
        pass_fds=(to_read, from_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    try:
        yield Browser(write, read)
    finally:
        process.terminate()
        process.wait(timeout=_TIMEOUT_SECONDS)
        os.close(write)
        os.close(read)
