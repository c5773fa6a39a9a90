"""What all tests share: every test of values runs on every backend, and on every instruction-set level, there is."""

import pytest
from variants import at_level, compiled_variants, in_force, native_levels

import fastrnn


@pytest.fixture(params=fastrnn.available_backends())
def backend(request):
    """The name of the backend in force during the test."""
    with fastrnn.use_backend(request.param):
        yield request.param


@pytest.fixture(params=compiled_variants(), scope="module")
def kernels(request):
    """A compiled backend, at one of its levels, in force during the test."""
    with in_force(request.param) as variant:
        yield variant


@pytest.fixture(params=["numpy", *compiled_variants()], scope="module")
def everywhere(request):
    """The reference, or a compiled backend, at one of its levels, in force during the test."""
    with in_force(request.param) as variant:
        yield variant


@pytest.fixture
def threads():
    """Sets the number of threads, which is what it was after the test."""
    before = fastrnn.get_num_threads()
    yield fastrnn.set_num_threads
    fastrnn.set_num_threads(before)


@pytest.fixture(params=native_levels())
def level(request):
    """A level of the native backend, in force during the test."""
    with at_level(request.param):
        yield request.param
