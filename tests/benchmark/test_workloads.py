"""What the benchmark measures: the lists of sizes, how they are asked for, and the problems made of them."""

import numpy as np
import pytest

import fastrnn
from fastrnn.benchmark import workloads
from fastrnn.benchmark.kinds import KINDS
from fastrnn.benchmark.workloads import Size, Workload
from fastrnn.spec import CELLS, PLAIN, Options


def test_every_cell_layer_and_option_can_be_measured():
    cells = [kind.cell for kind in KINDS.values()]
    assert set(CELLS) <= {cell.name for cell in cells}
    public = (getattr(fastrnn, name) for name in fastrnn.__all__)
    layers = {each for each in public if isinstance(each, type) and issubclass(each, fastrnn.Layer)}
    assert layers - {fastrnn.Layer} == {kind.layer for kind in KINDS.values()}
    with_options = [cell.options for cell in cells if cell.options]
    for option, plain in Options(PLAIN)._asdict().items():
        assert any(getattr(options, option) != plain for options in with_options), option


@pytest.mark.parametrize(
    "cell, flops",
    [("rnn", 540), ("lstm", 2160), ("gru", 1620), ("leaky_relu", 540), ("lstm_peephole", 2160), ("lstm_coupled", 1620)],
)
def test_flops_of_two_products_by_hand(cell, flops):
    # 6 row-steps, each gate of 5 units a dot product over 4 inputs and 5 states: 6·5·9 multiply-adds, 2 flops each.
    size = Size(T=2, B=3, I=4, H=5)
    assert Workload(cell, size, "forward").flops == flops
    assert Workload(cell, size, "training").flops == 3 * flops
    assert Workload(cell, size, "forward").steps == 6


@pytest.mark.parametrize("cell, flops", [("mingru", 480), ("minlstm", 720), ("indrnn", 240)])
def test_flops_of_scans_are_those_of_the_inputs_product(cell, flops):
    # 6 row-steps, each gate of 5 units a dot product over 4 inputs.
    workload = Workload(cell, Size(T=2, B=3, I=4, H=5), "forward")
    assert workload.flops == flops and workload._replace(mode="training").flops == 3 * flops
    assert workload.step_flops == workload.recurrent_bytes(np.float32) == 0


def test_lists_of_sizes():
    lengths = {"default": 16, "quick": 4, "grid": 13, "users": 10, "batches": 32, "deepbench": 39}
    assert {name: len(set(sizes)) for name, sizes in workloads.LISTS.items() if name != "all"} == lengths
    every = workloads.LISTS["all"]
    assert set(every) == {size for sizes in workloads.LISTS.values() for size in sizes}
    assert len(every) == len(set(every)) == 13 + 10 + 32 + 39 - 1  # (25, 128, 1024, 1024) is in two of them


def test_sizes_in_the_lists():
    assert len({size.name for size in workloads.USERS} - {None}) == 10
    assert Size(365, 64, 5, 64).name == "hydrology" and Size(100, 1, 64, 64).name is None
    assert Size(20, 24, 512, 512) in workloads.BATCHES and Size(10, 2, 1024, 1024) in workloads.BATCHES
    largest = {H: max(size.B for size in workloads.DEEPBENCH if size.H == H) for H in (1760, 2048, 2560)}
    assert largest == {1760: 128, 2048: 64, 2560: 32}
    assert {size.T for size in workloads.DEEPBENCH} == {10, 20, 25}


def test_sizes_and_lists_are_read_together():
    assert workloads.parse_sizes("1,2,3,4;5,6,7,8") == (Size(1, 2, 3, 4), Size(5, 6, 7, 8))
    assert [workloads.parse_sizes(name) for name in workloads.LISTS] == list(workloads.LISTS.values())
    mixed = workloads.parse_sizes("9,9,9,9; users ;100,1,64,64;60,32,1,25;9,9,9,9")
    assert mixed == (Size(9, 9, 9, 9), *workloads.USERS, Size(100, 1, 64, 64))


@pytest.mark.parametrize(
    "wrong", ["", "1,2,3", "1,2,3,4,5", "1,2,3,x", "1,2,3,0", "1,-2,3,4", "1,2,3,4;", "1.5,2,3,4", "users;none"]
)
def test_wrong_sizes(wrong):
    got = wrong.rpartition(";")[2]
    with pytest.raises(ValueError, match=f"expected four positive integers T,B,I,H or one of .*, all, got '{got}'"):
        workloads.parse_sizes(wrong)


def test_grid_keeps_cells_of_a_size_and_mode_together():
    sizes = (Size(1, 1, 1, 1), Size(2, 2, 2, 2))
    found = [(w.size.T, w.mode, w.cell) for w in workloads.workloads(sizes)]
    wanted = [(T, mode, cell) for T in (1, 2) for mode in ("forward", "training") for cell in ("rnn", "lstm", "gru")]
    assert found == wanted


def test_problem_is_reproducible_and_head_takes_its_first_steps():
    workload = Workload("gru", Size(6, 2, 3, 4), "training")
    first, second = (workloads.problem(workload, np.float64) for _ in range(2))
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.layer.params["weight_hh_l0"], second.layer.params["weight_hh_l0"])
    assert first.x.dtype == first.dy.dtype == np.float64
    part = first.head(2)
    assert part.workload.size == Size(2, 2, 3, 4)
    alike = workloads.problem(part.workload, np.float64)
    for name in ("x", "dy"):
        np.testing.assert_array_equal(getattr(part, name), getattr(first, name)[:2])
        np.testing.assert_array_equal(getattr(part, name), getattr(alike, name))
    np.testing.assert_array_equal(alike.layer.params["weight_ih_l0"], part.layer.params["weight_ih_l0"])
