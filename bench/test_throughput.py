"""The workloads of `fastrnn bench` for pytest-benchmark.

For those who track regressions:

    pytest bench --benchmark-autosave --sizes default --backends native
    pytest bench --benchmark-compare --benchmark-compare-fail median:10%
"""

from fastrnn.benchmark.peers import Ours
from fastrnn.benchmark.workloads import problem


def test_throughput(benchmark, workload, backend):
    cell, size, mode = workload
    call = Ours(backend).prepare(problem(workload))
    benchmark.group = f"{mode} {cell} {size}"
    with call.context():
        call.run()  # compiles and packs
        benchmark(call.run)
    if benchmark.enabled:
        benchmark.extra_info |= {"backend": backend, "gflops": workload.flops / benchmark.stats.stats.median / 1e9}
