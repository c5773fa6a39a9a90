"""What all tests share: every test of values runs on every backend, and on every instruction-set level, there is."""

import pytest
from variants import at_level, compiled_variants, native_levels

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
        with at_level(level):
            yield request.param


@pytest.fixture(params=native_levels())
def level(request):
    """A level of the native backend, in force during the test."""
    with at_level(request.param):
        yield request.param
