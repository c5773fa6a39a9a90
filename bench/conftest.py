"""Options of the suites: which sizes, on which backends."""

import fastrnn
from fastrnn.benchmark.workloads import MODES, parse_sizes, workloads


def pytest_addoption(parser):
    parser.addoption("--sizes", default="quick", type=parse_sizes, help='"T,B,I,H;…", or quick, default, all')
    parser.addoption("--backends", default=",".join(fastrnn.available_backends()), help="names, comma-separated")


def pytest_generate_tests(metafunc):
    backends = metafunc.config.getoption("backends").split(",")
    grid = workloads(metafunc.config.getoption("sizes"), modes=MODES)
    cases = [(workload, backend) for workload in grid for backend in backends]
    metafunc.parametrize("workload, backend", cases, ids=[f"{workload}-{backend}" for workload, backend in cases])
