"""`fastrnn verify` on sigmoid and tanh: the errors and their bound, for each backend that gives them alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from fastrnn import cli, ulps, verify


def backend(**errors):
    """A backend of activations that are off by so many ULP at 0.7, and elsewhere rounded correctly."""

    def activate(name, v, result):
        result[...] = ulps.exact(name, v)
        place = np.argmin(np.abs(v - 0.7))
        for _ in range(errors.get(name, 0)):
            result[place] = np.nextafter(result[place], v.dtype.type(2))

    return SimpleNamespace(name="ours", activate=activate)


@pytest.mark.parametrize("dtype", verify.DTYPES)
def test_errors_are_measured_in_units_in_the_last_place(dtype):
    found = {finding.check: finding for finding in verify.check_activations(backend(tanh=2), "", dtype)}
    assert found["sigmoid"].ok and found["sigmoid"].error <= 0.5001
    assert 1.5 <= found["tanh"].error <= 2.5
    (fault,) = [f for f in verify.check_activations(backend(tanh=3), "", dtype) if not f.ok]
    assert fault.check == "tanh" and 2.5 <= fault.error <= 3.5 and fault.allowed == 2


def test_what_is_not_computed_is_a_fault():
    silent = SimpleNamespace(name="ours", activate=lambda name, v, result: None)
    assert [finding.error for finding in verify.check_activations(silent, "", "float32")] == [np.inf] * 2


@pytest.fixture
def failing_lines(capsys, monkeypatch):
    """What the command prints, of activations alone, about a tanh that is off."""

    def lines():
        monkeypatch.setattr(verify, "CASES", ())
        monkeypatch.setattr(verify, "INVARIANT", ())
        monkeypatch.setattr(verify.backends, "load", lambda name: backend(tanh=5))
        assert cli.main(["verify", "--backend", "numpy"]) == 1
        printed = capsys.readouterr().out.splitlines()
        assert max(map(len, printed)) <= 80
        return printed

    return lines


def test_the_command_prints_errors_and_bounds_in_80_columns(failing_lines):
    lines = failing_lines()
    assert lines[-1] == "checks failed: 2"
    start = next(i for i, line in enumerate(lines) if line.split() == ["backend", "level", "dtype", "sigmoid", "tanh"])
    assert lines[start + 1].startswith("ours     -          float32     0.50 of 2")
    assert lines[start + 2].startswith("    FAILED tanh: tanh(")


def test_where_long_double_is_a_double_float64_activations_are_not_judged(failing_lines, monkeypatch):
    """As on ARM macOS."""
    monkeypatch.setitem(ulps.WIDER, "float64", np.float64)
    lines = failing_lines()
    assert lines[-1] == "checks failed: 1"
    assert any(line.startswith("Not of float64") for line in lines)


def test_every_compiled_backend_is_within_the_bound(kernels):
    """Numba's, which no sweep visits, and each level of the native one."""
    from fastrnn import backends

    module = backends.load(kernels.partition(":")[0])
    for dtype in filter(ulps.can_judge, verify.DTYPES):
        assert all(finding.ok for finding in verify.check_activations(module, "", dtype))
