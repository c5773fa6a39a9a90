"""Writes csrc/cells.def, what the kernels know of each cell, from the table in src/fastrnn/spec.py.

    python csrc/write_cells.py

The file is committed, since the kernels are built without Python where they are tested alone; a test fails when it is
stale.
"""

import runpy
from pathlib import Path

HERE = Path(__file__).parent
COLUMNS = 4  # of a tile

HEAD = """\
/* Written by write_cells.py from src/fastrnn/spec.py: the cells, and the shapes of their tiles.
 *
 *   CELL(NAME, name, facts)             the facts initialise an fr_cell_facts (cells/facts.h)
 *   EQUATION(NAME, name)                a cell with an equation of its own
 *   NORMED(NAME, NORMAL, normal)        a cell that normalises, and the one whose equation it has
 *   SECOND(NAME, name)                  a cell of two phases
 *   SAVED(values)                       the places of a cell's saved values, as enumerators
 *   LIMITS(numbers)                     the most that a cell has, as enumerators
 *   SHAPE(name, columns, x, first_h, h) x feeds the first `x` columns of a tile, h feeds `h` of them from first_h on
 *   CELL_EQUATIONS                      defined: the headers of the equations are included instead
 */
"""
LISTS = ("CELL", "EQUATION", "NORMED", "SECOND", "SAVED", "LIMITS", "SHAPE")


def check(cell, none):
    """That the kernels can compute such a cell; ValueError with what they cannot."""
    if len(cell.phases) > 2 or any(set(phase.x) != {none} for phase in cell.phases[1:]):
        raise ValueError(f"{cell.name}: expected one phase, or a second that x does not feed, got {cell.phases}")
    for letter in ("x", "h"):
        of_phases = [getattr(phase, letter) for phase in cell.phases]
        if sorted("".join(of_phases).replace(none, "")) != sorted(cell.gates):
            raise ValueError(f"{cell.name}: expected each gate of {cell.gates!r} once in {letter}={of_phases}")
        for columns in of_phases:
            fed = columns.replace(none, "")
            if fed not in columns or (letter == "x" and not columns.startswith(fed)):
                where = "neighbours, from the first column on" if letter == "x" else "neighbours"
                raise ValueError(
                    f"{cell.name}: expected the columns that {letter} feeds to be {where}, got {columns!r}"
                )
    if len(cell.phases[0].x) > COLUMNS:
        raise ValueError(f"{cell.name}: expected at most {COLUMNS} columns, got {len(cell.phases[0].x)}")
    if ("c" in cell.states) != ("c" in cell.saved):
        raise ValueError(f"{cell.name}: expected c among the saved values if it is a state, got {cell.saved}")
    if cell.normal and len(cell.gates) == 1:
        raise ValueError(f"{cell.name}: expected several gates of a cell that normalises, got {cell.gates!r}")


def fed(columns, none):
    """The places of the columns that have a gate."""
    return [k for k, gate in enumerate(columns) if gate != none]


def cell_line(cell, none):
    """CELL(…) of a cell, whose equation it has, SECOND(…) if it has two phases, and SAVED(…) if that saves anything."""
    phase = cell.phases[0]
    parts = []
    for name, columns in (("x", phase.x), ("h", phase.h), *(("left", second.h) for second in cell.phases[1:])):
        places = fed(columns, none)
        gates = ", ".join(str(cell.gates.index(columns[k])) for k in places)
        parts.append(f".{name} = {{{places[0]}, {len(places)}, {{{gates}}}}}")
    numbers = {
        "gates": len(cell.gates),
        "states": len(cell.states),
        "saved": len(cell.saved),
        "saved_c": cell.saved.index("c") if "c" in cell.saved else -1,
        "carries": int(cell.carries),
        "vectors": len(cell.vectors + cell.peepholes),
        "columns": len(phase.x),
        "normed": int(bool(cell.normal)),
    }
    facts = [f".{name} = {value}" for name, value in numbers.items()]
    upper = cell.name.upper()
    first, rest = ", ".join(facts[:5]), ", ".join(facts[5:] + parts)
    lines = [f"CELL({upper}, {cell.name}, {first},\n     {rest})"]
    lines.append(
        f"NORMED({upper}, {cell.normal.upper()}, {cell.normal})" if cell.normal else f"EQUATION({upper}, {cell.name})"
    )
    if len(cell.phases) > 1:
        lines.append(f"SECOND({upper}, {cell.name})")
    if cell.saved and not cell.normal:
        lines.append(f"SAVED({', '.join(f'{upper}_{name.upper()}' for name in cell.saved)})")
    return "\n".join(lines)


def limits_line(cells):
    """LIMITS(…)."""
    saved, vectors = (max(map(len, of)) for of in zip(*((cell.saved, cell.vectors + cell.peepholes) for cell in cells)))
    return f"LIMITS(MAX_SAVED = {saved}, MAX_VECTORS = {vectors})"


def shapes_of(phase, none):
    """The shapes of the first phase's tiles; of a cell of one column per unit, for each number of blocks of a panel."""
    if len(phase.x) > 1:
        return [(len(phase.x), fed(phase.x, none), fed(phase.h, none))]
    return [(blocks, list(range(blocks)), list(range(blocks))) for blocks in range(1, COLUMNS + 1)]


def shape_line(columns, x, h):
    """SHAPE(…), whose name counts the fed columns from 1."""
    name = "_".join(letter + "".join(str(k + 1) for k in places) for letter, places in (("x", x), ("h", h)))
    return f"SHAPE({name}, {columns}, {len(x)}, {h[0]}, {len(h)})"


def text(spec):
    """The file's text."""
    cells, none = spec["CELLS"].values(), spec["NONE"]
    for cell in cells:
        check(cell, none)
    shapes = {shape_line(*shape): None for cell in cells for shape in shapes_of(cell.phases[0], none)}
    includes = "\n".join(f'#include "cells/{cell.name}.h"' for cell in cells if not cell.normal)
    defaults = "\n".join(f"#ifndef {name}\n#define {name}(...)\n#endif" for name in LISTS)
    entries = "\n".join([*(cell_line(cell, none) for cell in cells), limits_line(cells), *shapes])
    undefined = "\n".join(f"#undef {name}" for name in LISTS)
    return f"{HEAD}#ifdef CELL_EQUATIONS\n{includes}\n#else\n{defaults}\n\n{entries}\n\n{undefined}\n#endif\n"


if __name__ == "__main__":
    (HERE / "cells.def").write_text(text(runpy.run_path(str(HERE.parent / "src" / "fastrnn" / "spec.py"))))
