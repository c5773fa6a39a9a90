"""Text for the character model: a corpus of token ids, and batches of consecutive pieces."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

ENOUGH = 4_000_000  # characters of the default text: more than the fastest cell reads in its few seconds
LEAST = 10_000  # characters a text must have
VOCABULARY = 127  # characters told apart at most; the others share one token
UNKNOWN = "\ufffd"


class Corpus(NamedTuple):
    """A text as token ids, the last twentieth held out of training."""

    name: str
    characters: str  # token id -> character
    training: np.ndarray  # (N,) integers
    held_out: np.ndarray  # (M,)


def standard_library() -> str:
    """The modules at the top of the Python standard library, in order of name, up to about ENOUGH characters."""
    pieces: list[str] = []
    length = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        pieces.append(path.read_text("utf-8", errors="replace"))
        length += len(pieces[-1])
        if length >= ENOUGH:
            break
    return "".join(pieces)


def load_corpus(path: str | None = None) -> Corpus:
    """The corpus of a UTF-8 text, by default of the standard library; OSError, or ValueError if it is too short."""
    if path is None:
        return encode("sources of the Python standard library", standard_library())
    return encode(Path(path).name, Path(path).read_text("utf-8", errors="replace"))


def encode(name: str, text: str) -> Corpus:
    if len(text) < LEAST:
        raise ValueError(f"{name}: expected at least {LEAST:,} characters of text, got {len(text):,}")
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    training = codes[: len(codes) - len(codes) // 20]
    found, counts = np.unique(training, return_counts=True)
    kept = np.sort(found[np.argsort(-counts, kind="stable")][:VOCABULARY])
    nearest = np.minimum(np.searchsorted(kept, codes), len(kept) - 1)
    tokens = np.where(kept[nearest] == codes, nearest, len(kept))
    return Corpus(name, "".join(map(chr, kept)) + UNKNOWN, tokens[: len(training)], tokens[len(training) :])


class Batch(NamedTuple):
    inputs: np.ndarray  # (T, B)
    targets: np.ndarray  # (T, B), the inputs one character later
    starts: bool  # no batch came before it: the state is zero


def batches(tokens: np.ndarray, T: int, B: int) -> Iterator[Batch]:
    """One pass over B parallel streams in pieces of T: each batch goes on where the one before it stopped."""
    length = (len(tokens) - 1) // B
    streams = tokens[: B * length].reshape(B, length).T  # (length, B)
    following = tokens[1 : B * length + 1].reshape(B, length).T
    for t in range(0, length - T + 1, T):
        yield Batch(np.ascontiguousarray(streams[t : t + T]), np.ascontiguousarray(following[t : t + T]), t == 0)
