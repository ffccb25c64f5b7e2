"""Which external data files an ONNX graph refers to, read without the ``onnx`` package.

A graph may point its weights at any path (``external_data`` with a ``location``), and older ONNX Runtimes
follow it out of the model's folder. A bundle is trusted only if every location is one of its listed, hashed
files, so the protobuf is walked here: a message is a sequence of (field number, wire type, value), and only
the fields that can contain a ``TensorProto`` are descended into. Field numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agesdk.errors import BundleError

MAX_NESTING = 64

_LOCATION = b"location"

_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse_tensor", 23: "sparse_tensor",
    },
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}  # fmt: skip


def external_locations(path: Path) -> set[str]:
    """The ``location`` strings of all external tensors in the graph file, subgraphs and functions included.

    Raises
    ------
    BundleError
        The file is not a protobuf message.
    """
    found: set[str] = set()
    data = path.read_bytes()
    try:
        if _LOCATION in data:  # the key of every external tensor; most graphs have none
            _walk(memoryview(data), "model", found, 0)
        else:
            for _ in _fields(memoryview(data)):
                pass
    except (IndexError, ValueError) as error:
        raise BundleError(f"{path} is not an ONNX graph", str(error)) from None
    return found


def _walk(message: memoryview, kind: str, found: set[str], depth: int) -> None:
    if depth > MAX_NESTING:
        raise ValueError("subgraphs are nested too deeply")
    if kind == "entry":
        values = {number: bytes(value) for number, value in _fields(message) if value is not None}
        if values.get(1) == _LOCATION:
            found.add(values.get(2, b"").decode("utf-8"))
        return
    children = _MESSAGES[kind]
    for number, value in _fields(message):
        if number in children and value is not None:
            _walk(value, children[number], found, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Yield (field number, content); the content is None for anything but a length-delimited field."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        if not 8 <= key < 2**32:  # other readers would cut a longer one to 32 bits and see another field
            raise ValueError(f"{key} is no field's key")
        number, wire = key >> 3, key & 7
        if wire == 2:
            size, position = _varint(message, position)
            if size > end - position:
                raise ValueError("a field is longer than the file")
            yield number, message[position : position + size]
            position += size
        elif wire == 0:
            _, position = _varint(message, position)
            yield number, None
        elif wire in (1, 5):
            position += 8 if wire == 1 else 4
            yield number, None
        else:
            raise ValueError(f"unknown wire type {wire}")
    if position != end:
        raise ValueError("the last field is cut off")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has more than ten bytes")
