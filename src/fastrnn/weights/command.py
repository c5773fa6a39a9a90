"""The command `fastrnn inspect`: the recurrent layers in a file of weights."""

from __future__ import annotations

import argparse
import json
import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..console.arguments import UsageError, writable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..formats import Arrays
    from .found import FoundLayer

HEADER = ("name", "kind", "input", "hidden", "layers", "ways", "as in", "numbers", "notes")
NUMBERS = ("input", "hidden", "layers", "ways", "numbers")
WIDE = 10_000  # columns, for a table that is not folded


def add_parser(commands: Any) -> None:
    """Add `inspect` to the commands."""
    parser = commands.add_parser(
        "inspect",
        help="say which recurrent layers are in a file of weights",
        description="Find the RNN, LSTM and GRU layers in another program's file of weights: safetensors, .npz, files "
        "of torch.save and torch.jit.save, ONNX, Keras. Nothing in the file is run. What its arrays cannot tell is "
        "said below the table. ways: 2 of a bidirectional layer; as in: whose names they are; numbers: of all its "
        "arrays. Exit code 2 for a file that is none of these.",
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="the file of weights")
    add("--tensors", action="store_true", help="list every array, too")
    add("--json", type=writable, metavar="FILE", help="write what was found as JSON")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Read the file, print the table and write the JSON that is asked for."""
    from ..formats import read
    from .find import find_layers

    try:
        arrays = read(options.file)
        found = find_layers(arrays)
    except OSError as error:
        raise UsageError(f"argument FILE: cannot open {options.file!r}: {error.strerror or error}") from error
    except (ValueError, ImportError) as error:
        raise UsageError(f"argument FILE: {' '.join(str(error).split())}") from error
    notes = list(dict.fromkeys(sentence for layer in found for sentence in sentences(layer)))
    print(f"{printable(options.file)}: {arrays.format}, {counted(len(arrays), 'array')}")
    if found:
        print_table(HEADER, [row(layer, arrays, notes) for layer in found], NUMBERS)
    for k, sentence in enumerate(notes):
        print(f"[{k + 1}] {printable(sentence)}")
    taken = {name for layer in found for name in layer.names}
    others = [name for name in arrays if name not in taken]
    size = counted(sum(math.prod(arrays.shapes[name]) for name in others), "number")
    print(f"{'' if found else 'no recurrent layer; '}{counted(len(others), 'other array')} of {size}", end="")
    print(f", {counted(len(arrays.left_out), 'value')} beside arrays" if arrays.left_out else "")
    if options.tensors:
        rows = [(printable(name), arrays.dtypes[name], str(arrays.shapes[name])) for name in arrays]
        print_table(("array", "dtype", "shape"), rows)
    return write_json(found, arrays, options) if options.json is not None else 0


def counted(number: int, what: str) -> str:
    """A number of things, as "1 array" or "2,000 arrays"."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def printable(text: str) -> str:
    """Text without what would move a terminal's cursor: a file's names may have anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def sentences(layer: FoundLayer) -> list[str]:
    """What there is to say of a layer beside its sizes."""
    options = [f"The file says {', '.join(f'{name}={value!r}' for name, value in layer.options.items())}."]
    refused = [f"No layer can be made of it: {layer.refused}."] if layer.refused else []
    return [*refused, *(options if layer.options else []), *layer.ambiguous]


def parameters(layer: FoundLayer, arrays: Arrays) -> int:
    return sum(math.prod(arrays.shapes[name]) for name in layer.names)


def row(layer: FoundLayer, arrays: Arrays, notes: Sequence[str]) -> tuple[str, ...]:
    """The cells of a layer's line."""
    hidden = f"{layer.hidden_size}" + (f" to {layer.proj_size}" if layer.proj_size else "")
    sizes = [str(layer.input_size), hidden, str(layer.num_layers), str(1 + layer.bidirectional)]
    if not layer.hidden_size:
        sizes = ["—"] * 4
    numbers = " ".join(f"[{notes.index(sentence) + 1}]" for sentence in sentences(layer))
    count = f"{parameters(layer, arrays):,}"
    return printable(layer.name) or "—", layer.kind, *sizes, layer.convention, count, numbers


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """A table by rich where it is installed, else the same columns as plain text."""
    if find_spec("rich") is None:
        widths = [max(map(len, column)) for column in zip(header, *rows)]
        for line in (header, *rows):
            cells = (cell.rjust(w) if name in right else cell.ljust(w) for name, cell, w in zip(header, line, widths))
            print("  ".join(cells).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="cyan", pad_edge=False)
    for name in header:
        folds = name in ("name", "array")
        table.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=not folds)
    for line in rows:
        table.add_row(*map(Text, line))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # whoever reads it searches for names, which must be whole
        console = Console(highlight=False, markup=False, width=WIDE)
    console.print(table)


def write_json(found: Sequence[FoundLayer], arrays: Arrays, options: argparse.Namespace) -> int:
    """Write what was found; raises UsageError where the file cannot be written."""
    document = {
        "fastrnn": __version__,
        "file": options.file,
        "format": arrays.format,
        "layers": [to_record(layer, arrays) for layer in found],
        "arrays": {name: {"dtype": arrays.dtypes[name], "shape": list(arrays.shapes[name])} for name in arrays},
        "left_out": list(arrays.left_out),
    }
    try:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"argument --json: cannot write {str(options.json)!r}: {error.strerror}") from error
    print(f"wrote {options.json}")
    return 0


def to_record(layer: FoundLayer, arrays: Arrays) -> dict[str, Any]:
    """What JSON has of a layer."""
    plain = (
        "kind", "name", "input_size", "hidden_size", "num_layers", "bidirectional", "bias", "proj_size", "convention",
        "refused",
    )  # fmt: skip
    lists = ("ambiguous", "undecided", "names")
    record = {key: getattr(layer, key) for key in plain} | {key: list(getattr(layer, key)) for key in lists}
    return record | {"options": dict(layer.options), "parameters": parameters(layer, arrays)}
