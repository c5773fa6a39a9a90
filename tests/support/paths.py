"""Where things are, for tests that read them or run them as programs."""

from pathlib import Path

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]  # of the repository
