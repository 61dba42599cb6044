"""What an attack would touch: a file that knows whether it was opened, a server that knows whether it was asked."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

SECRET = b"root:x:0:0:the canary's content, which nobody is to read:/root:/bin/bash\n" * 8

# From <sys/inotify.h>: read, changed, opened.
_WATCHED = 0x1 | 0x2 | 0x20


class Canary:
    """A file that tells whether any process opened, read or changed it since the last question."""

    def __init__(self, path: Path, content: bytes = SECRET) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.path = path
        self._content = content
        library = ctypes.CDLL(None, use_errno=True)
        self._events = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._events < 0 or library.inotify_add_watch(self._events, os.fsencode(path), _WATCHED) < 0:
            raise OSError(ctypes.get_errno(), "a file cannot be watched here")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._events)

    @property
    def was_touched(self) -> bool:
        try:
            return bool(os.read(self._events, 1 << 16))
        except BlockingIOError:
            return False

    @property
    def is_intact(self) -> bool:
        """Whether it still holds what it held. Asking touches it."""
        return self.path.read_bytes() == self._content


class Trap:
    """A port of this machine that nobody is to connect to."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self.port: int = server.getsockname()[1]

    @property
    def was_asked(self) -> bool:
        """Whether somebody connected since the last question. Nobody is ever answered."""
        try:
            self._server.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@contextmanager
def listening() -> Iterator[Trap]:
    """Give a trap on the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield Trap(server)
