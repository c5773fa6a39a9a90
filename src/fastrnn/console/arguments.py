"""Arguments of the command line: argparse names the option, these say what was expected and what came."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from ..core.config import MOST_THREADS, is_thread_count

PICTURES = (".png", ".pdf", ".svg")


class UsageError(Exception):
    """A request that cannot be met; the message is for the user."""


def names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """The parser of a comma-separated choice."""

    def parse(text: str) -> tuple[str, ...]:
        given = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
        for word in given:
            if word not in known:
                raise argparse.ArgumentTypeError(f"expected names among {', '.join(known)}, got {word!r}")
        return given

    return parse


def thread_count(text: str) -> int:
    if not is_thread_count(text):
        raise argparse.ArgumentTypeError(f"expected a positive integer up to {MOST_THREADS}, got {text!r}")
    return int(text)


def positive_number(text: str) -> float:
    if not (value := number(text)) > 0:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def seconds_or_none(text: str) -> float:
    if not (value := number(text)) >= 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


def number(text: str) -> float:
    """A finite number; NaN for anything else."""
    try:
        value = float(text)
    except ValueError:
        return float("nan")
    return value if abs(value) < float("inf") else float("nan")


def writable(text: str) -> Path:
    """A file that can be written: found out before minutes of measuring, not after."""
    path = Path(text)
    existed = path.exists()
    try:
        path.open("ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        reason = f"expected a file that can be written, got {text!r}: {error.strerror}"
        raise argparse.ArgumentTypeError(reason) from None
    return path


def folder(text: str) -> Path:
    """A folder, or where one can be made."""
    path = Path(text)
    try:
        mistaken = path.exists() and not path.is_dir()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"expected a folder, got {text!r}: {error.strerror}") from None
    if mistaken:
        raise argparse.ArgumentTypeError(f"expected a folder, got the file {text!r}")
    return path


def picture(text: str) -> Path:
    path = writable(text)
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"expected a name that ends in {', '.join(PICTURES)}, got {text!r}")
    return path


def positive_integer(text: str) -> int:
    if not (value := natural_number(text)):
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return value


def natural_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"expected an integer of at most nine digits, got {text!r}")
    return int(text)


def readable(text: str) -> Path:
    """A file that can be read: found out before minutes of training."""
    path = Path(text)
    try:
        path.open("rb").close()
    except OSError as error:
        reason = f"expected a file that can be read, got {text!r}: {error.strerror}"
        raise argparse.ArgumentTypeError(reason) from None
    return path
