"""Product loops as compiled: none loads more than its tile's rows and columns per k, and sums stay in registers.

Instructions are counted in the native module itself (bench/disassembly.py), at every level that it has been compiled
for, whatever this machine can run. What a count can find is shown first on loops written by hand.
"""

import functools
import platform
import re
import shutil
import sys

import pytest
from disassembly import disassemble, product_loops

import fastrnn


def listing(body, jump="jne"):
    """A function as objdump prints it, with a loop over these lines."""
    lines = [line.strip() for line in body.strip().splitlines()] + [f"{jump} 100 <f+0x10>"]
    start = ["0000000000000080 <f>:", "  80:\txor    %eax,%eax", "  84:\tret"]
    return "\n".join(start + [f"  {0x100 + 4 * i:x}:\t{line}" for i, line in enumerate(lines)])


def only(body, jump="jne"):
    """The one product loop there."""
    (loop,) = product_loops(listing(body, jump))
    return loop


# 3 x 4 sums in ymm0..11; broadcasts in 12..14, each weight in 15.
BROADCASTS = [f"vbroadcastss ({base},%rax,4),%ymm{12 + r}" for r, base in enumerate(("%rcx", "%rdi", "%rsi"))]
HELD = [
    line
    for c in range(4)
    for line in [f"vmovaps {hex(32 * c)}(%rdx),%ymm15"]
    + [f"vfmadd231ps %ymm{12 + r},%ymm15,%ymm{4 * r + c}" for r in range(3)]
]
FOLDED = [f"vfmadd231ps {hex(32 * c)}(%rdx),%ymm{12 + r},%ymm{4 * r + c}" for r in range(3) for c in range(4)]
ADVANCE = ["sub    $0xffffffffffffff80,%rdx", "add    $0x1,%rax", "cmp    %rax,%r8"]


def test_a_tile_that_holds_each_weight():
    loop = only("\n".join(BROADCASTS + HELD + ADVANCE))
    assert (loop.level, loop.dtype, loop.tile, loop.sums, loop.unroll) == ("v3", "f32", (3, 4), 12, 1)
    assert (loop.loads_per_k, loop.stores, loop.moves) == (7, 0, 0)
    assert loop.fault() is None


def test_a_weight_read_once_a_row_is_found():
    loop = only("\n".join(BROADCASTS + FOLDED + ADVANCE))
    assert loop.tile == (3, 4)
    assert loop.fault() == "loads 15 operands per k"


def test_a_sum_of_what_the_loop_has_multiplied_is_no_product_of_matrices():
    sums = "vmulps (%rdx),%ymm1,%ymm0\nvfmadd231ps (%rcx),%ymm0,%ymm2"
    assert not list(product_loops(listing(sums + "\n" + "\n".join(ADVANCE))))
    read = sums.replace("vmulps (%rdx),%ymm1,%ymm0", "vmovups (%rdx),%ymm0")
    assert list(product_loops(listing(read + "\n" + "\n".join(ADVANCE))))


def test_a_sum_of_squares_is_no_product_of_matrices():
    away = "vmovups (%rdx),%ymm0\nvsubps %ymm1,%ymm0,%ymm0\nvfmadd231ps"
    assert not list(product_loops(listing(f"{away} %ymm0,%ymm0,%ymm2\n" + "\n".join(ADVANCE))))
    assert list(product_loops(listing(f"{away} %ymm3,%ymm0,%ymm2\n" + "\n".join(ADVANCE))))


def test_operands_are_known_by_their_addresses_wherever_the_pointer_is():
    """The pointer advances in the middle: (%rdx) before and -0x80(%rdx) after it are the same weight."""
    later = [re.sub(r" 0x(\w+)\(", lambda m: f" {int(m[1], 16) - 128:#x}(", line) for line in FOLDED[4:]]
    loop = only("\n".join(BROADCASTS + FOLDED[:4] + ADVANCE[:1] + later + ADVANCE[1:]))
    assert (loop.tile, loop.column_operands) == ((3, 4), 4)


def test_unrolling_counts_per_k():
    two = [line.replace("(%rdx)", "(%r9)").replace(",%rax,4)", ",%r10,4)") for line in BROADCASTS + HELD]
    loop = only("\n".join(BROADCASTS + HELD + two + ADVANCE))
    assert (loop.unroll, loop.tile, loop.loads, loop.loads_per_k) == (2, (3, 4), 14, 7)
    assert loop.fault() is None


def test_a_sum_kept_in_memory_is_found():
    """As where registers do not suffice: it is loaded, added to and stored."""
    held = [line for line in HELD if not line.endswith("%ymm14,%ymm15,%ymm11")]
    spilled = ["vfmadd213ps 0x40(%rsp),%ymm14,%ymm15", "vmovaps %ymm15,0x40(%rsp)"]
    loop = only("\n".join(BROADCASTS + held + spilled + ADVANCE))
    assert (loop.sums, loop.sums_in_memory, loop.tile) == (12, 1, (3, 4))
    assert "spills: 1 stores, 1 loads from the stack" in loop.fault()


def test_sums_all_in_memory_are_a_product_loop_too():
    """As where a compiler has left the loop over columns rolled."""
    loop = only(
        """vmovaps (%rdx,%rcx,1),%ymm1
        vfmadd213ps 0x60(%rsp,%rcx,1),%ymm0,%ymm1
        vmovaps %ymm1,0x60(%rsp,%rcx,1)
        add    $0x20,%rcx
        cmp    $0x80,%rcx"""
    )
    assert loop.sums_in_memory == loop.sums == 1
    assert "spills" in loop.fault()


def test_a_sum_stored_and_loaded_again_within_an_iteration_is_one():
    once = """vmovaps 0x40(%rsp),%ymm1
        vfmadd231ps (%rdx),%ymm0,%ymm1
        vmovaps %ymm1,0x40(%rsp)
        add    $0x20,%rdx"""
    loop = only(f"{once}\n{once}\ncmp    %rdx,%rax")
    assert (loop.sums, loop.sums_in_memory, loop.unroll, loop.column_operands) == (1, 1, 2, 2)


@pytest.mark.parametrize(
    "extra",
    ["vmovaps %ymm3,0x20(%rsp)", "mov    0x8(%rsp),%r9", "cmp    0x18(%rsp),%rax", "addq   $0x1,0x10(%rsp)"],
)
def test_what_else_is_kept_in_memory_is_found(extra):
    assert "spills" in only("\n".join(BROADCASTS + HELD + [extra] + ADVANCE)).fault()


def test_multiplications_and_additions_apart():
    """Without fused instructions, 1 x 2: the row is copied, since a product overwrites an operand."""
    loop = only(
        """movss  (%rcx,%rax,4),%xmm2
        shufps $0x0,%xmm2,%xmm2
        movaps %xmm2,%xmm3
        mulps  (%rdx),%xmm3
        mulps  0x10(%rdx),%xmm2
        addps  %xmm3,%xmm0
        addps  %xmm2,%xmm1
        add    $0x20,%rdx
        cmp    %rax,%r8"""
    )
    assert (loop.level, loop.dtype, loop.tile, loop.moves, loop.loads) == ("v2", "f32", (1, 2), 1, 3)
    assert loop.fault() is None


def test_broadcasts_within_the_instruction():
    loop = only(
        """vmovapd (%rdx),%zmm4
        vfmadd231pd (%rcx,%rax,8){1to8},%zmm4,%zmm0
        vfmadd231pd (%rdi,%rax,8){1to8},%zmm4,%zmm1
        inc    %rax"""
    )
    assert (loop.level, loop.dtype, loop.tile, loop.loads) == ("v4", "f64", (2, 1), 3)


NEON_BY_LANE = [
    "ldr\tq28, [x9], #16",
    "ldr\tq29, [x10], #16",
    *(
        line
        for k in range(4)
        for line in (
            f"ldp\tq30, q31, [x1, #{32 * k}]",
            f"fmla\tv0.4s, v30.4s, v28.s[{k}]",
            f"fmla\tv1.4s, v31.4s, v28.s[{k}]",
            f"fmla\tv2.4s, v30.4s, v29.s[{k}]",
            f"fmla\tv3.4s, v31.4s, v29.s[{k}]",
        )
    ),
    "add\tx1, x1, #0x80",
    "subs\tx2, x2, #0x4",
]


def test_neon_by_lane_reads_rows_of_four_at_once():
    loop = only("\n".join(NEON_BY_LANE), "b.ne")
    assert (loop.level, loop.dtype, loop.tile, loop.unroll, loop.loads_per_k) == ("neon", "f32", (2, 2), 4, 2.5)
    assert loop.fault() is None


def test_neon_sums_stored_at_every_k_are_found():
    loop = only(
        """ldp\tq16, q7, [x0], #32
        ld1r\t{v4.4s}, [x3], #4
        fmla\tv3.4s, v4.4s, v16.4s
        fmla\tv0.4s, v4.4s, v7.4s
        stp\tq3, q0, [sp, #192]
        cmp\tx3, x9""",
        "b.ne",
    )
    assert (loop.tile, loop.loads) == ((1, 2), 3)
    assert loop.fault() == "spills: 2 stores, 0 loads from the stack"


def test_other_loops_are_left_alone():
    polynomial = """vmovups (%rcx,%rax,4),%ymm0
        vmovaps %ymm5,%ymm1
        vfmadd213ps %ymm6,%ymm0,%ymm1
        vfmadd213ps %ymm7,%ymm0,%ymm1
        vmovups %ymm1,(%rdx,%rax,4)
        add    $0x8,%rax"""
    peak = "vfmadd231ps %ymm14,%ymm15,%ymm0\nvfmadd231ps %ymm14,%ymm15,%ymm1\ndec    %rax"
    update = """vmulps (%rcx,%rax,1),%ymm5,%ymm0
        vaddps %ymm1,%ymm0,%ymm0
        vmovups %ymm0,(%rcx,%rax,1)
        vsqrtps %ymm0,%ymm0
        add    $0x20,%rax"""
    for body in (polynomial, peak, update, "addps  (%rcx),%xmm0\nadd    $0x10,%rcx"):
        assert product_loops(listing(body)) == []


LEVELS = {"x86_64": ("v2", "v3", "v4"), "aarch64": ("neon",)}.get(platform.machine(), ())


@functools.cache
def native_loops():
    from fastrnn.backends import _native

    return product_loops(disassemble(_native.__file__))


@pytest.mark.skipif("native" not in fastrnn.available_backends(), reason="the native backend is not built")
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("objdump"), reason="no GNU objdump")
@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_kernels_load_each_operand_once_and_spill_nothing(level, dtype):
    loops = [loop for loop in native_loops() if (loop.level, loop.dtype) == (level, dtype)]
    # Every cell's steps, hoisted products and gradients are among them: a search that finds less has missed some.
    assert len(loops) >= 60 and max(loop.sums for loop in loops) >= 8
    faults = [f"{loop}: {loop.fault()}" for loop in loops if loop.fault()]
    assert not faults, f"{len(faults)} of {len(loops)}:\n" + "\n".join(faults)
