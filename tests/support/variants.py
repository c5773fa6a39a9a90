"""The compiled kernels that there are here."""

from contextlib import contextmanager, nullcontext

import fastrnn


def native_levels():
    """The native backend's levels on this machine; none where it is not built."""
    if "native" not in fastrnn.available_backends():
        return []
    from fastrnn.backends import native

    return native.levels()


@contextmanager
def at_level(level):
    """This level of the native backend in force, and after it the one before."""
    from fastrnn.backends import native

    before = native.level()
    native.set_level(level)
    try:
        yield
    finally:
        native.set_level(before)


@contextmanager
def in_force(variant):
    """A backend, or "native:level", in force, and after it what was before."""
    name, _, level = variant.partition(":")
    with fastrnn.use_backend(name), at_level(level) if level else nullcontext():
        yield variant


def compiled_variants():
    """The compiled backends, the native one once per level: what must agree with the reference, and keep its bits."""
    for name in fastrnn.available_backends():
        if name == "native":
            yield from (f"native:{level}" for level in native_levels())
        elif name != "numpy":
            yield name
