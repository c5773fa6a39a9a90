"""Code run in an interpreter of its own, without what this one's environment says of fastrnn and OpenMP."""

import os
import subprocess
import sys


def python(code, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FASTRNN_", "OMP_"))}
    return subprocess.run(
        [sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True, timeout=300
    )


def output(code, **environment):
    done = python(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
