"""How the product loops would run on cores that are not here, as llvm-mca predicts it.

    python bench/loops.py                     # GCC's and Clang's code, every level, every core
    python bench/loops.py --level v3 --core znver3 --all
    python bench/loops.py build/CMakeFiles/kernels_v3_f32_products.dir/csrc/level/tiles.c.o

Builds the kernels, finds the product loops in the objects (disassembly.py) and prints, for each tile and core, the
worst loop: its cycles per multiply-add, these over the core's bound, and what the bound is. The bound of a tile, in
cycles per k, is the greatest of

    F  its multiply-adds at the core's rate for them
    C  the latency of one: every sum is a chain
    L  a load of each of its rows and columns at the core's rate
    I  the instructions that these are, at the core's rate of dispatch

each taken from the same model, by running a body of nothing else. Fails if a loop exceeds --limit times its bound, or
spills. Needs clang gcc-aarch64-linux-gnu libc6-dev-arm64-cross llvm-19 cmake ninja-build. The newest llvm-mca there is
counts, since older ones lack cores: that of Debian 12's llvm, 14, has none for Zen 4 and ARM; 22 is among its updates.
"""

import argparse
import functools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import disassembly

ITERATIONS = 250


@dataclass(frozen=True)
class Core:
    """`model` is how the resources of the core's own model begin: LLVM lets other cores' stand for those it lacks."""

    name: str
    levels: tuple[str, ...]
    model: str
    note: str = ""  # what the model has wrong, and what is taken instead
    dispatch: int = 0  # operations a cycle
    decode: int = 0  # instructions a cycle, where an instruction may be several operations
    loads: dict[str, int] = field(default_factory=dict)  # vectors a cycle, by level
    one_zmm_load: bool = False  # a zmm is loaded, or broadcast from memory, by one operation, that of a ymm
    bare_loads: bool = False  # what a multiply-add reads from memory is loaded by an instruction of its own


CORES = (
    Core("skylake", ("v2", "v3"), "SKL"),
    Core(
        *("alderlake", ("v2", "v3"), "ADLP"),
        "LLVM adds two cycles to a sum whose multiply-add has an operand in memory; here it is loaded by itself",
        bare_loads=True,
    ),
    Core(
        *("znver2", ("v2", "v3"), "Zn2"),
        "LLVM loads three vectors a cycle and dispatches four operations; here two and five",
        dispatch=5,
        loads={"v2": 2, "v3": 2},
    ),
    Core("znver3", ("v2", "v3"), "Zn3"),
    Core(
        *("znver4", ("v2", "v3", "v4"), "Zn4"),
        "LLVM loads two zmm a cycle and broadcasts them in an FMA pipe; measured, and here, one, in none",
        loads={"v4": 1},
        one_zmm_load=True,
    ),
    Core(
        *("skylake-avx512", ("v4",), "SKX"),
        "LLVM gives a load or broadcast of a zmm an operation in an FMA port too; here none",
        one_zmm_load=True,
    ),
    Core(
        *("neoverse-n1", ("neon",), "N1"),
        "LLVM dispatches three operations a cycle, two of them a load; here eight, of four instructions",
        dispatch=8,
        decode=4,
    ),
    Core("neoverse-v1", ("neon",), "V1"),
    Core("apple-m1", ("neon",), "", "LLVM has no model of it and takes that of Cyclone, of 2013: not judged"),
)
STORE_FORWARDING = 5  # cycles at the least until a core loads what it has stored

CROSS = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_EXE_LINKER_FLAGS=-static"]
# Each with the options that build the kernels for x86-64 and for ARM.
COMPILERS = {
    "gcc": (["-DCMAKE_C_COMPILER=gcc"], [*CROSS, "-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc"]),
    "clang": (
        ["-DCMAKE_C_COMPILER=clang"],
        [*CROSS, "-DCMAKE_C_COMPILER=clang", "-DCMAKE_C_COMPILER_TARGET=aarch64-linux-gnu"],
    ),
}
LEVELS = ("v2", "v3", "v4", "neon")


@dataclass
class Figure:
    """A loop on a core: cycles per k, those of the bound, and which."""

    cycles: float
    bound: float
    binds: str

    @property
    def ratio(self):
        return self.cycles / self.bound


# Objects


def build(compiler, arm, levels, directory):
    """The kernels' objects for one machine family, built as the package's are."""
    source = Path(__file__).parents[1]
    options = ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DFASTRNN_PORTABLE_TEST=ON", *COMPILERS[compiler][arm]]
    parts = [f"{dtype}_{part}" for dtype in ("f32", "f64") for part in ("products", "around")]
    targets = [f"kernels_{level}_{part}" for level in levels if (level == "neon") == arm for part in parts]
    configure = ["cmake", "-S", source, "-B", directory, *options]
    for command in (configure, ["cmake", "--build", directory, "--target", *targets]):
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            sys.exit(f"{compiler}: {' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return sorted(Path(directory).rglob("*.o"))


@functools.cache
def product_loops(path):
    """The object's, by either objdump: GNU's knows one machine unless built for all."""
    for objdump in ("objdump", "aarch64-linux-gnu-objdump"):
        if shutil.which(objdump):
            try:
                return disassembly.product_loops(disassembly.disassemble(path, objdump))
            except subprocess.CalledProcessError:
                continue
    sys.exit(f"{path}: no objdump here can read it")


# llvm-mca


@functools.cache
def mca_program():
    newest = (f"llvm-mca-{version}" for version in range(40, 13, -1))
    return next(filter(shutil.which, (*newest, "llvm-mca")), None) or sys.exit("llvm-mca is not here: apt install llvm")


def simulate(core, bodies):
    """(cycles per iteration, dispatch width) of each body, a list of instructions; None if LLVM has no such core."""
    arm = core.levels == ("neon",)
    regions = ("\n".join((f"# LLVM-MCA-BEGIN {n}", *body, "# LLVM-MCA-END\n")) for n, body in enumerate(bodies))
    command = [
        *(mca_program(), f"-mtriple={'aarch64' if arm else 'x86_64'}", f"-mcpu={core.name}", "-json"),
        *(f"-iterations={ITERATIONS}", "-resource-pressure=false", "-instruction-info=false"),
        *([f"-dispatch={core.dispatch}"] if core.dispatch else []),
    ]
    result = subprocess.run(command, input="".join(regions), capture_output=True, text=True)
    if "not a recognized processor" in result.stderr:
        return None
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stderr}")
    report = json.loads(result.stdout)
    if not any(resource.startswith(core.model) for resource in report["TargetInfo"]["Resources"]):
        return None
    summaries = {int(region["Name"]): region["SummaryView"] for region in report["CodeRegions"]}
    return [(s["TotalCycles"] / ITERATIONS, s["DispatchWidth"]) for _, s in sorted(summaries.items())]


def for_mca(core, loop):
    """The loop's body as llvm-mca reads it. A compare and its jump are one operation on every core here of x86-64."""
    *body, jump = loop.body
    if body[-1].name in ("cmp", "test"):
        del body[-1]
    used = {int(n) for i in loop.body for n in re.findall(r"mm(\d+)", i.text)}
    free = next((n for n in range(16) if n not in used), None)
    lines = []
    for instruction in body:
        text = re.sub(r" <.*$", "", instruction.text).replace("\t", " ")
        if core.one_zmm_load:
            text = re.sub(r"^(?:vbroadcasts[sd]|vmov[au]p[sd]) +(.*\),)%zmm(\d+)$", r"vmovups \1%ymm\2", text)
        folded = re.match(r"^(vfmadd\w+) +(.*\)),(.*(%[xyz]mm)\d+)$", text)
        if core.bare_loads and folded and free is not None:
            lines.append(f"vmovups {folded[2]}, {folded[4]}{free}")
            text = f"{folded[1]} {folded[4]}{free}, {folded[3]}"
        lines.append(text)
    return [*lines, f"{jump.name} {', '.join((*jump.operands[:-1], '.Lloop'))}"]


def probes(level, dtype, by_lane):
    """Bodies of nothing but independent multiply-adds, a chain of them, and loads; how many the first and last have.
    The first has more in flight than any core's latency times its pipes."""
    kind = {"f32": "ps", "f64": "pd"}[dtype]
    if level == "neon":
        lanes, lane = {"f32": ("4s", "s"), "f64": ("2d", "d")}[dtype]
        factor = f"v31.{lane}[0]" if by_lane else f"v31.{lanes}"
        fmas = [f"fmla v{i}.{lanes}, v30.{lanes}, {factor}" for i in range(24)]
        return fmas, fmas[:1], [f"ldr q{i}, [x0, #{16 * i}]" for i in range(12)], 24, 12
    if level == "v2":
        fmas = [f"{op}{kind} %xmm15, %xmm{i}" for i, op in enumerate(["add", "mul"] * 7)]
        return fmas, [f"add{kind} %xmm15, %xmm0"], [f"movups {16 * i}(%rax), %xmm{i}" for i in range(12)], 7, 12
    name, count = ("zmm", 24) if level == "v4" else ("ymm", 12)
    fmas = [f"vfmadd231{kind} %{name}14, %{name}15, %{name}{i + 4 * (i > 11)}" for i in range(count)]
    return fmas, fmas[:1], [f"vmovups {64 * i}(%rax), %{name}{i}" for i in range(12)], count, 12


def instructions_needed(loop):
    """The least per k. Where a product overwrites an operand, each needs one of its own, loaded or copied, and rows
    of float32 two instructions to broadcast; else a row alone takes its columns as operands in memory."""
    rows, columns = loop.tile
    if loop.level == "v2":
        return 2 * loop.sums + max(loop.sums, rows + columns) + (rows if loop.dtype == "f32" else 0)
    if loop.level == "neon" or rows > 1:
        return loop.sums + min(rows + columns, loop.loads_per_k)
    return loop.sums + 1


def judge(core, loops):
    """A Figure for each loop, or None if the core has no model here."""
    kinds = sorted({(loop.level, loop.dtype, uses_lanes(loop)) for loop in loops})
    bodies = [body for kind in kinds for body in probes(*kind)[:3]] + [for_mca(core, loop) for loop in loops]
    results = simulate(core, bodies)
    if not results:
        return None
    rates = {}
    for i, kind in enumerate(kinds):
        *_, fmas, loads = probes(*kind)
        throughput, latency, reading = (cycles for cycles, _ in results[3 * i : 3 * i + 3])
        ports = core.loads.get(kind[0])
        rates[kind] = throughput / fmas, latency, 1 / ports if ports else reading / loads
    figures = []
    for loop, (cycles, width) in zip(loops, results[3 * len(kinds) :]):
        fma, latency, load = rates[loop.level, loop.dtype, uses_lanes(loop)]
        needed = min(sum(loop.tile), loop.loads_per_k)
        bounds = {
            "F": loop.sums * fma,
            "C": latency,
            "L": needed * load,
            "I": instructions_needed(loop) / (core.decode or width),
        }
        binds = max(bounds, key=lambda name: round(bounds[name], 2))
        per_k = max(cycles / loop.unroll, loop.loads_per_k * load if core.loads else 0)
        if core.decode:
            per_k = max(per_k, len(loop.body) / core.decode / loop.unroll)
        if loop.sums_in_memory:  # which llvm-mca does not follow
            per_k = max(per_k, latency + STORE_FORWARDING)
        figures.append(Figure(per_k, bounds[binds], binds))
    return figures


def uses_lanes(loop):
    return any(i.name == "fmla" and i.operands[-1].endswith("]") for i in loop.body)


# The report


def rows_of(compiler, loops, figures, each):
    """One row per tile, of the worst of its loops on each core, or one per loop."""
    groups = defaultdict(list)
    for n, loop in enumerate(loops):
        groups[LEVELS.index(loop.level), loop.dtype, -loop.sums, loop.tile, n if each else 0].append(n)
    for (level, dtype, _, tile, _), members in sorted(groups.items()):
        worst = max(members, key=lambda n: max((f[n].ratio for f in figures.values() if f), default=0))
        loop = loops[worst]
        yield {
            "compiler": compiler,
            "level": LEVELS[level],
            "dtype": dtype,
            "tile": f"{tile[0]} x {tile[1]}",
            "loops": len(members),
            "worst": f"{loop.function}+{loop.body[0].address:#x}",
            "loads": max(loops[n].loads_per_k for n in members),
            "moves": max(loops[n].moves / loops[n].unroll for n in members),
            "spills": sum(loops[n].spills for n in members),
            "cores": {
                name: {**asdict(max((f[n] for n in members), key=lambda x: x.ratio)), "sums": loop.sums} if f else None
                for name, f in figures.items()
            },
        }


def row_fault(row, limit):
    """What is wrong with a row, or None: on which cores it is above the limit, how many loops spill."""
    judged = {core.name for core in CORES if core.model}
    ratios = {name: f["cycles"] / f["bound"] for name, f in row["cores"].items() if f and name in judged}
    faults = [f"{name} {ratio:.2f}" for name, ratio in ratios.items() if ratio > limit]
    faults += [f"{row['spills']} of {row['loops']} spill"] if row["spills"] else []
    return f"{row['compiler']} {row['level']} {row['dtype']} {row['tile']}: {', '.join(faults)}" if faults else None


def cell(figure):
    if not figure:
        return "no model"
    return f"{figure['cycles'] / figure['sums']:.3f} {figure['cycles'] / figure['bound']:.2f} {figure['binds']}"


def print_table(level, rows, cores):
    head = ["tile", "loops", "loads", "moves", "spills", *(core.name for core in cores), "worst"]
    lines = [
        [r["tile"], str(r["loops"]), f"{r['loads']:g}", f"{r['moves']:g}", str(r["spills"])]
        + [cell(r["cores"][core.name]) for core in cores]
        + [r["worst"]]
        for r in rows
    ]
    title = f"{level}, {rows[0]['dtype']}, {rows[0]['compiler']}: cycles per multiply-add, over the bound, which"
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, column)) for column in zip(head, *lines)]
        print(title)
        for line in [head, *lines]:
            print("  ".join(map(str.ljust, line, widths)))
        return
    table = Table(*head, title=title, title_justify="left")
    for line in lines:
        table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def measure(compiler, objects, arguments):
    """The rows of a compiler's objects, printed."""
    loops = [loop for path in objects for loop in product_loops(path) if loop.level in arguments.level]
    rows = []
    for level in LEVELS:
        cores = [core for core in CORES if level in core.levels and core.name in arguments.core]
        for dtype in ("f32", "f64"):
            here = [loop for loop in loops if (loop.level, loop.dtype) == (level, dtype)]
            if not here or not cores:
                continue
            figures = {core.name: judge(core, here) for core in cores}
            found = list(rows_of(compiler, here, figures, arguments.all))
            if not arguments.json:
                print_table(level, found, cores)
            rows += found
    return rows


def some_of(choices):
    """Reads names, comma-separated, all of them among the choices."""

    def read(text):
        names = text.split(",")
        for name in names:
            if name not in choices:
                raise argparse.ArgumentTypeError(f"expected some of {', '.join(choices)}, got {name!r}")
        return names

    return read


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("objects", nargs="*", help="objects or modules to look at, instead of building")
    for name, choices in (("compiler", COMPILERS), ("level", LEVELS), ("core", [core.name for core in CORES])):
        parser.add_argument(f"--{name}", type=some_of(choices), default=list(choices), help=", ".join(choices))
    parser.add_argument("--limit", type=float, default=1.10, help="of the bound (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="a row for every loop, not for every tile")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args()

    rows = []
    if arguments.objects:
        rows = measure("given", arguments.objects, arguments)
    else:
        for compiler in arguments.compiler:
            with tempfile.TemporaryDirectory() as directory:
                for arm in sorted({level == "neon" for level in arguments.level}):
                    objects = build(compiler, arm, arguments.level, f"{directory}/{arm}")
                    rows += measure(compiler, objects, arguments)
    if not rows:
        sys.exit("no product loop found")
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        version = subprocess.run([mca_program(), "--version"], capture_output=True, text=True).stdout
        print(re.search(r"LLVM version \S+", version)[0], *(f"{c.name}: {c.note}" for c in CORES if c.note), sep="\n")
    faults = [fault for row in rows if (fault := row_fault(row, arguments.limit))]
    if faults:
        sys.exit("\n".join([f"above {arguments.limit:g} of the bound, or spilling:", *faults]))


if __name__ == "__main__":
    main()
