"""Reader of the protobuf wire format: enough to take arrays out of MediaPipe's and TensorFlow's files without their libraries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Value = int | memoryview  # a varint, or the bytes of anything else


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at byte `at`, and where the next thing begins. Raises IndexError when the data ends within it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data: bytes | memoryview) -> Iterator[tuple[int, Value]]:
    """(field number, value) of each field of a message, nothing copied; numbers of 4 or 8 bytes come as bytes.

    Raises ValueError or IndexError when the data is no message.
    """
    data, at = memoryview(data), 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, at = varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError("not a protobuf message")
        yield key >> 3, data[at : at + size]
        at += size


def message(value: Value) -> memoryview:
    """The bytes of a field that is a message, a string or packed numbers. Raises ValueError when it is a number."""
    if isinstance(value, int):
        raise ValueError("a number where a message was expected")
    return value


def floats(value: Value) -> NDArray[np.float32]:
    """Packed floats, or one."""
    return np.frombuffer(message(value), "<f4")


def integers(value: Value) -> list[int]:
    """Packed integers, or one."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = varint(value, at)
        found.append(number)
    return found
