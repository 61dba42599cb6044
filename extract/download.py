"""A pooch downloader that goes on where a broken download stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60


class ResumingDownloader:
    """Downloads over HTTP(S) into ``partial``, asking a server only for what is not there yet.

    ``on_bytes`` is told how many were received so far. Called by pooch,
    which checks the hash of the whole file afterwards.
    """

    def __init__(self, partial: Path, *, on_bytes: Callable[[int], None] | None = None) -> None:
        self._partial = partial
        self._on_bytes = on_bytes

    def __call__(self, url: str, output_file: Any, pooch: Any) -> None:
        """Write ``url`` to ``output_file``. Raises `requests.RequestException` if the server does not deliver."""
        have = self._partial.stat().st_size if self._partial.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as response:
            # 416: nothing is left to send, the partial file is the whole.
            if response.status_code != requests.codes.requested_range_not_satisfiable:
                response.raise_for_status()
                goes_on = response.status_code == requests.codes.partial_content
                self._receive(response, "ab" if goes_on else "wb")
        shutil.copyfile(self._partial, output_file)
        self._partial.unlink()

    def _receive(self, response: requests.Response, mode: str) -> None:
        received = 0
        with self._partial.open(mode) as file:
            for block in response.iter_content(_BLOCK_BYTES):
                received += file.write(block)
                if self._on_bytes is not None:
                    self._on_bytes(received)
