"""Pickles of dicts, lists, texts and numbers, read without running what another pickle could run."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterator
from typing import Any

PLAIN_OPCODES = frozenset(
    (
        *("PROTO", "FRAME", "MARK", "STOP"),
        *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
        *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    )
)
"""What makes dicts, lists, texts and numbers. No tuples: hashing one nested a million deep ends the process."""

_MEMO_OPCODES = ("PUT", "BINPUT", "LONG_BINPUT")


def pickle_opcodes(data: bytes) -> Iterator[tuple[str, Any]]:
    """Give the name and the argument of every opcode up to the end of a pickle, and obey none.

    Raises
    ------
    ValueError
        if it is broken, or would make a memo larger than itself.
    """
    for opcode, argument, _ in pickletools.genops(data):
        # The memo is an array as long as its largest index, which a few bytes can make 64 GB.
        if opcode.name in _MEMO_OPCODES and isinstance(argument, int) and not 0 <= argument <= len(data):
            msg = f"it keeps a value at place {argument} of its memo"
            raise ValueError(msg)
        yield opcode.name, argument


class _PlainUnpickler(pickle.Unpickler):
    """Loads no class, should an opcode that does come this far."""

    def find_class(self, module: str, name: str) -> Any:
        msg = f"it names {module}.{name}"
        raise pickle.UnpicklingError(msg)


def load_plain_pickle(data: bytes) -> Any:
    """Load a pickle of dicts, lists, texts (UTF-8) and numbers. Every opcode is looked at before the first is obeyed.

    Lists may contain each other or themselves, and one may stand in many places at no cost in bytes: count before you
    copy.

    Raises
    ------
    ValueError
        if it holds anything else, or is none.
    """
    try:
        for opcode, _ in pickle_opcodes(data):
            if opcode not in PLAIN_OPCODES:
                msg = f"it holds the opcode {opcode}"
                raise ValueError(msg)
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except (pickle.UnpicklingError, TypeError, LookupError, AttributeError, EOFError) as error:
        raise ValueError(str(error)) from error
