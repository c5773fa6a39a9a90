"""Products of matrices in flat arrays: every element a chain of fused multiply-adds in the order of its terms."""

from numba.extending import register_jitable

from .compiling import inlined, jit, unsigned
from .intrinsics import fma, load, store

ROWS = 64  # rows of a tile
PITCH = 96  # columns from one row of a tile to the next: a constant, so that LLVM sees that rows do not overlap
COLUMNS = 64  # columns of a tile, where the panels of packed weights do not say otherwise
DEPTH = 128  # terms of a product before the next rows take their turn, so that their weights stay in L1


@inlined
def copy(to, to_at, source, source_at, count):
    for j in range(count):
        to[unsigned(to_at + j)] = source[unsigned(source_at + j)]


@inlined
def add(to, to_at, source, source_at, count):
    for j in range(count):
        to[unsigned(to_at + j)] += source[unsigned(source_at + j)]


@inlined
def chain(total, a, w):
    return fma(a[3], w[3], fma(a[2], w[2], fma(a[1], w[1], fma(a[0], w[0], total))))


@jit
def multiply(tile, at, rows, width, a, a_at, a_row, a_term, w, w_at, w_row, terms):
    """tile[at + r·PITCH + j] += Σ_k a[a_at + r·a_row + k·a_term] · w[w_at + k·w_row + j], a chain of fmas over k.

    Four terms of four rows at a time share the loads of w and of the tile; the chain of an element stays the same.
    """
    for start in range(0, terms, DEPTH):
        end = min(start + DEPTH, terms)
        r = 0
        while r < rows:
            together = 4 if r + 4 <= rows else 1
            row, a_r, k = at + r * PITCH, a_at + r * a_row, start
            while k + 4 <= end:
                a_k, w_k = a_r + k * a_term, w_at + k * w_row
                a0 = load(a, a_k, a_term, 4)
                if together == 4:
                    a1, a2 = load(a, a_k + a_row, a_term, 4), load(a, a_k + 2 * a_row, a_term, 4)
                    a3 = load(a, a_k + 3 * a_row, a_term, 4)
                    for j in range(width):
                        w4, t = load(w, w_k + j, w_row, 4), load(tile, row + j, PITCH, 4)
                        t = chain(t[0], a0, w4), chain(t[1], a1, w4), chain(t[2], a2, w4), chain(t[3], a3, w4)
                        store(tile, row + j, PITCH, t)
                else:
                    for j in range(width):
                        tile[unsigned(row + j)] = chain(tile[unsigned(row + j)], a0, load(w, w_k + j, w_row, 4))
                k += 4
            while k < end:
                for s in range(together):
                    value, w_k, to = a[unsigned(a_r + s * a_row + k * a_term)], w_at + k * w_row, row + s * PITCH
                    for j in range(width):
                        tile[unsigned(to + j)] = fma(value, w[unsigned(w_k + j)], tile[unsigned(to + j)])
                k += 1
            r += together


@register_jitable
def add_product(out, rows, columns, tile, a, a_row, a_term, w, terms):
    """out (rows, columns) += a·w, each element of the product a chain from zero; w is (terms, columns)."""
    for r in range(0, rows, ROWS):
        for j in range(0, columns, COLUMNS):
            height, width = min(ROWS, rows - r), min(COLUMNS, columns - j)
            tile[:] = 0
            multiply(tile, 0, height, width, a, r * a_row, a_row, a_term, w, j, columns, terms)
            for s in range(height):
                add(out, (r + s) * columns + j, tile, s * PITCH, width)


@register_jitable
def add_sum(out, tile, a, terms):
    """out += Σ_k a[k], the sum from zero; a is (terms, out.size)."""
    for j in range(0, out.size, tile.size):
        width = min(tile.size, out.size - j)
        tile[:] = 0
        for k in range(terms):
            add(tile, 0, a, k * out.size + j, width)
        add(out, j, tile, 0, width)
