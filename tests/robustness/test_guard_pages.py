"""No call reads or writes outside its arrays, nor writes what it only reads: there the process would end."""

import subprocess
import sys

import pytest
from guarded import SIZES
from paths import SUPPORT
from variants import compiled_variants

from fastrnn.spec import CELLS

PROGRAM = SUPPORT / "guarded.py"


@pytest.mark.parametrize("variant", list(compiled_variants()))
def test_guard_pages(variant):
    done = subprocess.run([sys.executable, PROGRAM, variant], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-2000:]}"
    assert int(done.stdout) == len(CELLS) * 2 * len(SIZES) * 2 * 2 + 2 * len(CELLS) * 2


TOUCH = """
import numpy as np, ctypes
from guarded import Guarded
array = Guarded(at_end={end}).copy(np.zeros(5, np.float32), writable={writable})
address = array.ctypes.data + {offset}
print("placed", flush=True)
ctypes.c_float.from_address(address){touch}
"""


@pytest.mark.parametrize(
    ("end", "offset", "writable", "touch"),
    [(True, 20, True, ".value"), (False, -4, True, ".value"), (True, 0, False, ".value = 1")],
)
def test_the_guards_hold(end, offset, writable, touch):
    """One element past the end, one before the beginning, a write to what is read-only."""
    program = TOUCH.format(end=end, offset=offset, writable=writable, touch=touch)
    done = subprocess.run([sys.executable, "-c", program], cwd=PROGRAM.parent, capture_output=True, text=True)
    assert done.stdout == "placed\n" and done.returncode < 0
