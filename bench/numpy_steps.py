"""One step of a cell called from NumPy code against the same step in NumPy, as `fastrnn bench` shows it, alone.

    python bench/numpy_steps.py [--level x86-64-v3] [--cell rnn,gru] [--seconds 0.1]

The native backend, one thread, float32. NumPy's BLAS is held to one thread where it is OpenBLAS.
"""

import argparse

import numpy as np
from rich.console import Console

import fastrnn
from fastrnn.backends import native
from fastrnn.benchmark.step_tables import step_tables
from fastrnn.benchmark.steps import SHAPES, StepSettings, run_steps
from fastrnn.benchmark.workloads import CELLS
from fastrnn.cli import names, positive_number, progress_bar

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--level", choices=native.levels(), help="an instruction-set level")
parser.add_argument("--cell", type=names(CELLS), default=CELLS, help="of rnn, lstm, gru; default: all")
parser.add_argument("--seconds", type=positive_number, default=0.1, help="for each figure")
options = parser.parse_args()
if options.level:
    native.set_level(options.level)
with fastrnn.use_backend("native"):
    print(fastrnn.show_config())
with progress_bar() as show:
    found = run_steps(StepSettings(options.cell, SHAPES, np.float32, "native", options.seconds), show)
console = Console(highlight=False, markup=False)
for part in step_tables(found):
    console.print(part)
