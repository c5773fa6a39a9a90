"""safetensors: a length of 8 bytes, a JSON header of that length, and the arrays' bytes, none twice.

The format: https://github.com/huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..core import checks
from .arrays import Entry, add, refused
from .narrow import held_in, widened
from .source import arrange, part, read_shape

Array = np.ndarray
LONGEST = 100_000_000  # bytes of a header, as the format says
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "C64": "complex64", "C128": "complex128",
    "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E4M3FNUZ": "float8_e4m3fnuz",
}  # fmt: skip


def is_safetensors(data: Array) -> bool:
    """Whether a file begins with the length of a header that begins as JSON."""
    return len(data) > 8 and data[8] == ord("{") and header_size(data) <= LONGEST


def header_size(data: Array) -> int:
    return int(data[:8].view("<u8")[0])


def read(data: Array) -> dict[str, Entry]:
    """The arrays of a file; raises ValueError where header and bytes disagree."""
    size = header_size(data)
    header = parse(part(data, 8, size, "the header").tobytes())
    body = data[8 + size :]
    entries: dict[str, Entry] = {}
    spans = []
    for name, described in header.items():
        if name == "__metadata__":
            continue
        entry, span = read_entry(body, name, described)
        add(entries, name, entry)
        spans.append(span)
    check_spans(spans, len(body))
    return entries


def parse(text: bytes) -> dict[str, Any]:
    """The header's JSON object, whose names are each there once."""
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header has a name twice")
    return found


def read_entry(body: Array, name: str, described: Any) -> tuple[Entry, tuple[int, int]]:
    """An array, and where its bytes begin and end."""
    what = repr(name)
    if not isinstance(described, dict) or not {"dtype", "shape", "data_offsets"} <= described.keys():
        raise ValueError(f"its header does not describe {what}")
    offsets = described["data_offsets"]
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)):
        raise ValueError(f"the place of {what} is no pair of integers")
    begin, end = offsets
    found = part(body, begin, end - begin, what)
    shape = read_shape(described["shape"], what)
    kind = described["dtype"]
    known = DTYPES.get(kind) if isinstance(kind, str) else None
    dtype = held_in(known) if known else None
    if known is None or dtype is None:
        reason = f"it is of the dtype {str(kind)[:40]!r}, of {', '.join(DTYPES)}"
        return refused(str(kind)[:40], shape, reason), (begin, end)
    array = arrange(found, dtype, shape, what)
    return Entry(known, shape, lambda: widened(array, known)), (begin, end)


def check_spans(spans: list[tuple[int, int]], size: int) -> None:
    """Raise ValueError unless the arrays follow each other without a gap to the end of the file."""
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            raise ValueError(f"its arrays do not follow each other at byte {checks.digits(min(begin, reached))}")
        reached = end
    if reached != size:
        raise ValueError(f"its arrays take {reached} bytes of {size}")
