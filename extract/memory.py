"""What is asked of the C library's allocator, for networks on CPUs. Loads nothing heavy."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from types import MappingProxyType

KEEPING: Mapping[str, str] = MappingProxyType(
    {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1), "MALLOC_ARENA_MAX": "1"}
)
"""Variables that do in a process from its start what `keep_freed_memory` does."""


def keep_freed_memory() -> None:
    """Have glibc keep what is freed instead of giving it back to the system at every layer.

    Activations are tens of megabytes: by default each one is mapped, zeroed page by page, and unmapped again, and so
    is what is larger than an arena in every thread but the first. The process keeps at most what it once had. It is
    to be called before there are threads: an arena that a thread took before stays, and when that one ends another
    thread takes it over. Where the environment has one of `KEEPING`, somebody has chosen, and where the C library is
    another one, nothing happens.
    """
    if any(name in os.environ for name in KEEPING):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    m_trim_threshold, m_mmap_threshold, m_arena_max = -1, -3, -8
    # Older releases refuse more than 32 MiB.
    if not mallopt(m_mmap_threshold, int(KEEPING["MALLOC_MMAP_THRESHOLD_"])):
        mallopt(m_mmap_threshold, 1 << 25)
    mallopt(m_trim_threshold, int(KEEPING["MALLOC_TRIM_THRESHOLD_"]))
    mallopt(m_arena_max, int(KEEPING["MALLOC_ARENA_MAX"]))
