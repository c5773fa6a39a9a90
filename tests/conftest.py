"""What all tests share: every test of values runs on every backend, and on every instruction-set level, there is."""

import pytest
from variants import compiled_variants

import fastrnn


@pytest.fixture(params=fastrnn.available_backends())
def backend(request):
    """The name of the backend in force during the test."""
    with fastrnn.use_backend(request.param):
        yield request.param


@pytest.fixture(params=compiled_variants(), scope="module")
def kernels(request):
    """A compiled backend, at one of its levels, in force during the test."""
    name, _, level = request.param.partition(":")
    with fastrnn.use_backend(name):
        if not level:
            yield request.param
            return
        from fastrnn.backends import native

        before = native.level()
        native.set_level(level)
        yield request.param
        native.set_level(before)
