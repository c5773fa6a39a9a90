"""The compiled kernels that there are here."""

import fastrnn


def compiled_variants():
    """The compiled backends, the native one once per level: what must agree with the reference, and keep its bits."""
    for name in fastrnn.available_backends():
        if name == "native":
            from fastrnn.backends import native

            yield from (f"native:{level}" for level in native.levels())
        elif name != "numpy":
            yield name
