"""Where things are, for tests that read them or run them as programs."""

import os
import re
from pathlib import Path

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]  # of the repository


def python_blocks(page):
    """The Python code of a page, block by block."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def environment(*folders):
    """The environment of a program that imports what is in this folder, and in others."""
    before = filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, (SUPPORT, *folders)), *before])}
