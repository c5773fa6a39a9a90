"""threadpoolctl limits and shows the number of threads, whichever of the two packages is imported first."""

import json
import subprocess
import sys

import pytest
from interpreters import output, python

import fastrnn
from fastrnn.core import config, cpus

threadpoolctl = pytest.importorskip("threadpoolctl")
if "native" not in fastrnn.available_backends():
    pytest.skip("the native backend is not built", allow_module_level=True)

ORDERS = {
    "fastrnn first": "import fastrnn, threadpoolctl\n",
    "threadpoolctl first": "import threadpoolctl, fastrnn\n",
    "asked for before": "import importlib.util as u, fastrnn; u.find_spec('threadpoolctl'); import threadpoolctl\n",
}
DEFAULT = cpus.usable_cpus()


def shown():
    """What `threadpool_info` says of fastrnn."""
    (info,) = [info for info in threadpoolctl.threadpool_info() if info["internal_api"] == "fastrnn"]
    return info


@pytest.fixture(params=[None, 1, DEFAULT, 3], ids=str)
def before(request, monkeypatch):
    """The number that was set before: None is the default."""
    monkeypatch.setattr(config, "_threads", request.param)
    return request.param


def test_what_is_shown():
    info = shown()
    assert info["user_api"] == "fastrnn" and info["version"] == fastrnn.__version__
    assert info["num_threads"] == fastrnn.get_num_threads()
    assert info["instruction_set"] == fastrnn.show_config()["instruction_set"]
    assert "/fastrnn/backends/_native." in info["filepath"]


def test_a_limit_holds_within_its_block_and_leaves_what_was_there(before):
    usual = before or DEFAULT
    with threadpoolctl.threadpool_limits(limits=1):
        assert fastrnn.get_num_threads() == shown()["num_threads"] == 1
        with threadpoolctl.threadpool_limits(5, user_api="fastrnn"):
            assert fastrnn.get_num_threads() == shown()["num_threads"] == 5
        assert fastrnn.get_num_threads() == 1
    assert fastrnn.get_num_threads() == shown()["num_threads"] == usual
    assert (config._threads or DEFAULT) == usual and (before is not None or config._threads is None)


def test_limits_of_others_and_by_name(before):
    for api in ("blas", "openmp"):
        with threadpoolctl.threadpool_limits(1, user_api=api):
            assert fastrnn.get_num_threads() == (before or DEFAULT)
    with threadpoolctl.threadpool_limits({"fastrnn": 6}):
        assert fastrnn.get_num_threads() == 6

    @threadpoolctl.threadpool_limits.wrap(limits=7, user_api="fastrnn")
    def wrapped():
        return fastrnn.get_num_threads()

    assert wrapped() == 7
    limiter = threadpoolctl.threadpool_limits(4)
    assert fastrnn.get_num_threads() == 4
    limiter.restore_original_limits()
    assert fastrnn.get_num_threads() == (before or DEFAULT)


@pytest.mark.parametrize("order", ORDERS)
def test_in_any_order(order):
    """Before any call, too, when nothing else has needed the native backend yet."""
    code = ORDERS[order] + (
        "import sys\nfrom fastrnn.core import threadpools\n"
        "with threadpoolctl.threadpool_limits(1): print(fastrnn.get_num_threads())\n"
        "print(fastrnn.get_num_threads(), [type(f) is threadpools.Finder for f in sys.meta_path].count(True))\n"
        "print(sum(info['user_api'] == 'fastrnn' for info in threadpoolctl.threadpool_info()))\n"
        "print(type(threadpoolctl.__loader__).__module__, threadpoolctl.__spec__.loader is threadpoolctl.__loader__)\n"
    )
    loader = f"{type(threadpoolctl.__spec__.loader).__module__} True"
    assert output(code, FASTRNN_NUM_THREADS="3").splitlines() == ["1", "3 0", "1", loader]


def test_its_own_command_shows_fastrnn():
    command = [sys.executable, "-m", "threadpoolctl", "-i", "fastrnn"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [info["user_api"] for info in json.loads(done.stdout)].count("fastrnn") == 1


def test_importing_fastrnn_does_not_import_it():
    assert output("import sys, fastrnn; fastrnn.get_backend(); print('threadpoolctl' in sys.modules)") == "False"


def test_where_it_cannot_be_imported(tmp_path):
    """Not installed, an older one that knows no registration, or one whose import fails: as without fastrnn."""
    hidden = "import sys, fastrnn\nsys.path[:] = [{}]\n"
    hidden += "try:\n    import threadpoolctl\nexcept Exception as error:\n    print(error)"
    assert output(hidden.format("")) == "No module named 'threadpoolctl'"
    (tmp_path / "threadpoolctl.py").write_text("__version__ = '2.2'")
    assert output(hidden.format(repr(str(tmp_path)))) == ""
    (tmp_path / "threadpoolctl.py").write_text("raise RuntimeError('broken')")
    assert output(hidden.format(repr(str(tmp_path)))) == "broken"


def test_without_the_native_backend():
    code = (
        "import sys; sys.modules['fastrnn.backends._native'] = None\nimport warnings; warnings.simplefilter('error')\n"
    )
    for order in ORDERS.values():
        done = python(
            code + order + "print([i for i in threadpoolctl.threadpool_info() if i['user_api'] == 'fastrnn'])"
        )
        assert done.stdout.strip() == "[]", done.stderr
