"""Options of the suites: which sizes, on which backends."""

import fastrnn
from fastrnn.benchmark.workloads import LISTS, MODES, parse_sizes, workloads


def pytest_addoption(parser):
    lists = f'"T,B,I,H;…", where a name of a list may stand for sizes: {", ".join(LISTS)}'
    parser.addoption("--sizes", default="quick", type=parse_sizes, help=lists)
    parser.addoption("--backends", default=",".join(fastrnn.available_backends()), help="names, comma-separated")


def pytest_generate_tests(metafunc):
    backends = metafunc.config.getoption("backends").split(",")
    grid = workloads(metafunc.config.getoption("sizes"), modes=MODES)
    cases = [(workload, backend) for workload in grid for backend in backends]
    metafunc.parametrize("workload, backend", cases, ids=[f"{workload}-{backend}" for workload, backend in cases])
