"""The native module built, and loaded by interpreters of its own, for tests of a build."""

import subprocess
import sys

# What such an interpreter does before it looks for a package elsewhere: an editable installation would come first.
NOT_EDITABLE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in (type(finder).__module__ + str(finder))]
"""


def configure(tree, build, environment=None, *options):
    words = ["-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}", *options]
    command = ["cmake", "-S", str(tree), "-B", str(build), *words]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def build_module(tree, build, environment=None):
    """The file of the module, of all levels: most of a minute."""
    configure(tree, build, environment)
    command = ["cmake", "--build", str(build), "--target", "_native", "--parallel", "2"]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    (module,) = build.glob("_native*.so")
    return module
