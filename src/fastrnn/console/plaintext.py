"""Text for streams whose encoding lacks some of its characters: a build's log, a Latin-1 locale."""

import codecs
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SUBSTITUTES = {
    "—": "-",
    "±": "~",
    "×": "x",
    "µ": "u",
    "…": "...",
}  # as wide in a table, but for the last, which is in none


def substitute(error: UnicodeError) -> tuple[str, int]:
    """Give what stands for the characters that cannot be encoded, as a handler for `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    plain = [SUBSTITUTES.get(c) or c.encode("ascii", "backslashreplace").decode() for c in characters]
    return "".join(plain), error.end


@contextmanager
def any_encoding() -> Iterator[None]:
    """Within the block stdout and stderr take every character, whatever their encodings."""
    codecs.register_error("fastrnn.console.plaintext", substitute)
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = [stream.errors for stream in streams]
    try:
        for stream in streams:
            stream.reconfigure(errors="fastrnn.console.plaintext")
        yield
    finally:
        for stream, errors in zip(streams, before):
            stream.reconfigure(errors=errors)
