/* Vectors of one instruction-set level and one dtype. This file is compiled once per pair: FR_DOUBLE says which
 * dtype, the compiler's target flags say which level. Everything above it is written in `vec` alone. */
#ifndef FR_VEC_H
#define FR_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "run/fpmode.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* A vector as wide as the level's registers, and how many sums a tile keeps in them beside what it multiplies: 24 of 32
 * registers, 12 of 16; 8 where a product needs a register of its own and overwrites what it multiplies. */
#if defined(__AVX512F__)
#define VEC_BYTES 64
#define TILE_SUMS 24
#elif defined(__AVX2__)
#define VEC_BYTES 32
#define TILE_SUMS 12
#elif defined(__aarch64__)
#define VEC_BYTES 16
#define TILE_SUMS 24
#else
#define VEC_BYTES 16
#define TILE_SUMS 8
#endif

/* Whether instructions overwrite an operand: then the temporaries of other work push a product's sums to memory. */
#if defined(__x86_64__) && !defined(__AVX__)
#define VEC_OVERWRITES 1
#else
#define VEC_OVERWRITES 0
#endif

#ifdef FR_DOUBLE
typedef double real;
typedef int64_t bits;
#define PICK(f32, f64) f64
#else
typedef float real;
typedef int32_t bits;
#define PICK(f32, f64) f32
#endif

typedef real vec __attribute__((vector_size(VEC_BYTES)));
typedef bits ivec __attribute__((vector_size(VEC_BYTES)));
typedef real vec_unaligned __attribute__((vector_size(VEC_BYTES), aligned(sizeof(real)), may_alias));

enum { LANES = VEC_BYTES / sizeof(real) };

#define INLINE static inline __attribute__((always_inline))

/* Unrolls the loop that follows, of at most n turns, wholly: only then are arrays of vectors registers. */
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define UNROLL(n) PRAGMA(clang loop unroll(full))
#else
#define UNROLL(n) PRAGMA(GCC unroll n)
#endif

INLINE vec vload(const real *p) { return *(const vec_unaligned *)p; }
INLINE void vstore(real *p, vec v) { *(vec_unaligned *)p = v; }
/* Subtracting zero keeps every value, -0 included, so compilers turn this into the bare broadcast. */
INLINE vec vset1(real x) { return x - (vec){0}; }

/* vfma(a, b, c) = a * b + c with one rounding; x86-64-v2 has no such instruction and rounds twice.
 * vmin and vmax return b where either argument is NaN. */
#if defined(__AVX512F__)
#define X86(op) PICK(_mm512_##op##_ps, _mm512_##op##_pd)
INLINE vec vfma(vec a, vec b, vec c) { return X86(fmadd)(a, b, c); }
#elif defined(__AVX2__)
#define X86(op) PICK(_mm256_##op##_ps, _mm256_##op##_pd)
INLINE vec vfma(vec a, vec b, vec c) { return X86(fmadd)(a, b, c); }
#elif defined(__x86_64__)
#define X86(op) PICK(_mm_##op##_ps, _mm_##op##_pd)
INLINE vec vfma(vec a, vec b, vec c) { return a * b + c; }
#define VFMA_ROUNDS_ONCE 0
#endif
#ifndef VFMA_ROUNDS_ONCE
#define VFMA_ROUNDS_ONCE 1
#endif

#if defined(__x86_64__)
INLINE vec vmin(vec a, vec b) { return X86(min)(a, b); }
INLINE vec vmax(vec a, vec b) { return X86(max)(a, b); }
#elif defined(__aarch64__)
INLINE vec vfma(vec a, vec b, vec c) { return PICK(vfmaq_f32, vfmaq_f64)(c, a, b); }
INLINE vec vselect(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
INLINE vec vmin(vec a, vec b) { return vselect(a < b, a, b); }
INLINE vec vmax(vec a, vec b) { return vselect(a > b, a, b); }
#endif

/* All bits in the first n lanes, none in the others. */
INLINE ivec vfirst(int n) {
    ivec lane;
    UNROLL(16)
    for (int i = 0; i < LANES; i++)
        lane[i] = i;
    return lane < n;
}

/* The first n of LANES lanes; the others load as zero and are not stored. Nothing past p[n - 1] is touched. No function
 * is called, or all that is in registers would have to wait in memory meanwhile. */
#if defined(__AVX512F__)
#define LANE_MASK(n) ((PICK(__mmask16, __mmask8))((1u << (n)) - 1))
INLINE vec load_part(const real *p, int n) { return (vec)X86(maskz_loadu)(LANE_MASK(n), p); }
INLINE void store_part(real *p, vec v, int n) { X86(mask_storeu)(p, LANE_MASK(n), v); }
#elif defined(__AVX2__)
INLINE vec load_part(const real *p, int n) { return (vec)X86(maskload)(p, (__m256i)vfirst(n)); }
INLINE void store_part(real *p, vec v, int n) { X86(maskstore)(p, (__m256i)vfirst(n), v); }
#else
INLINE vec load_part(const real *p, int n) {
    vec v = {0};
    UNROLL(4)
    for (int i = 0; i < LANES - 1; i++)
        if (i < n)
            v[i] = p[i];
    return v;
}
INLINE void store_part(real *p, vec v, int n) {
    UNROLL(4)
    for (int i = 0; i < LANES - 1; i++)
        if (i < n)
            p[i] = v[i];
}
#endif
/* With a mask, which is made once for all loads of a block, a load costs no more. */
#if defined(__AVX2__)
INLINE vec vload_n(const real *p, int n) {
    return __builtin_constant_p(n) && n == LANES ? vload(p) : load_part(p, n);
}
#else
INLINE vec vload_n(const real *p, int n) { return n == LANES ? vload(p) : load_part(p, n); }
#endif
INLINE void vstore_n(real *p, vec v, int n) {
    if (n == LANES)
        vstore(p, v);
    else
        store_part(p, v, n);
}

/* Keeps v in a register from here on: left to itself GCC reads it from memory at every use, or early and too many. */
#if defined(__x86_64__)
#define VEC_KEEP(v) __asm__ volatile("" : "+v"(v))
#else
#define VEC_KEEP(v) __asm__ volatile("" : "+w"(v))
#endif

/* A number that multiplies vectors: on x86 in every lane of one, on ARM a lane that the instruction names. */
#if defined(__aarch64__)
typedef real spread;
INLINE spread vspread(real x) { return x; }
INLINE vec vfma_spread(spread a, vec b, vec c) { return PICK(vfmaq_n_f32, vfmaq_n_f64)(c, b, a); }
#else
typedef vec spread;
INLINE spread vspread(real x) { return vset1(x); }
INLINE vec vfma_spread(spread a, vec b, vec c) { return vfma(a, b, c); }
#endif

/* Neighbouring lanes, an even and an odd one: each pair's even lane twice, its odd lane twice, the two swapped. */
#if defined(__x86_64__)
#if defined(__AVX512F__)
INLINE vec veven(vec v) { return PICK(_mm512_moveldup_ps(v), _mm512_movedup_pd(v)); }
INLINE vec vodd(vec v) { return PICK(_mm512_movehdup_ps(v), _mm512_permute_pd(v, 0xff)); }
INLINE vec vswap(vec v) { return PICK(_mm512_permute_ps(v, 0xb1), _mm512_permute_pd(v, 0x55)); }
#elif defined(__AVX2__)
INLINE vec veven(vec v) { return PICK(_mm256_moveldup_ps(v), _mm256_movedup_pd(v)); }
INLINE vec vodd(vec v) { return PICK(_mm256_movehdup_ps(v), _mm256_permute_pd(v, 0xf)); }
INLINE vec vswap(vec v) { return PICK(_mm256_permute_ps(v, 0xb1), _mm256_permute_pd(v, 0x5)); }
#else
INLINE vec veven(vec v) { return PICK(_mm_moveldup_ps(v), _mm_movedup_pd(v)); }
INLINE vec vodd(vec v) { return PICK(_mm_movehdup_ps(v), _mm_unpackhi_pd(v, v)); }
INLINE vec vswap(vec v) { return PICK(_mm_shuffle_ps(v, v, 0xb1), _mm_shuffle_pd(v, v, 1)); }
#endif
/* Past the caches, to an aligned place; others see it after vstream_end. */
INLINE void vstream(real *p, vec v) { X86(stream)(p, v); }
INLINE void vstream_end(void) { _mm_sfence(); }
#elif defined(__aarch64__)
INLINE vec veven(vec v) { return PICK(vtrn1q_f32, vtrn1q_f64)(v, v); }
INLINE vec vodd(vec v) { return PICK(vtrn2q_f32, vtrn2q_f64)(v, v); }
INLINE vec vswap(vec v) { return PICK(vrev64q_f32(v), vextq_f64(v, v, 1)); }
INLINE void vstream(real *p, vec v) { vstore(p, v); }
INLINE void vstream_end(void) {}
#endif

/* Asks for p[0 .. n-1], soon to be read, to come into the first-level cache. */
INLINE void prefetch(const real *p, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += 64 / (ptrdiff_t)sizeof(real))
        __builtin_prefetch(p + i, 0, 3);
}

/* Transposition goes by quarters of 16 bytes, which instructions keep apart: QUARTER elements of LANES rows at a
 * time. */
enum { QUARTER = 16 / sizeof(real) };
typedef real quarter __attribute__((vector_size(16), aligned(sizeof(real)), may_alias));

/* The first halves of each quarter of a and b, element by element in turn, and the second halves; then by pairs. */
#if defined(__x86_64__)
INLINE vec vzip_low(vec a, vec b) { return X86(unpacklo)(a, b); }
INLINE vec vzip_high(vec a, vec b) { return X86(unpackhi)(a, b); }
#if defined(__AVX512F__)
#define X86_PAIRS(op, a, b) (vec)_mm512_##op##_pd((__m512d)(a), (__m512d)(b))
#elif defined(__AVX2__)
#define X86_PAIRS(op, a, b) (vec)_mm256_##op##_pd((__m256d)(a), (__m256d)(b))
#else
#define X86_PAIRS(op, a, b) (vec)_mm_##op##_pd((__m128d)(a), (__m128d)(b))
#endif
INLINE vec vpairs_low(vec a, vec b) { return X86_PAIRS(unpacklo, a, b); }
INLINE vec vpairs_high(vec a, vec b) { return X86_PAIRS(unpackhi, a, b); }
#else
INLINE vec vzip_low(vec a, vec b) { return PICK(vzip1q_f32, vzip1q_f64)(a, b); }
INLINE vec vzip_high(vec a, vec b) { return PICK(vzip2q_f32, vzip2q_f64)(a, b); }
INLINE vec vpairs_low(vec a, vec b) { return (vec)vzip1q_f64((float64x2_t)a, (float64x2_t)b); }
INLINE vec vpairs_high(vec a, vec b) { return (vec)vzip2q_f64((float64x2_t)a, (float64x2_t)b); }
#endif

/* A quarter of each of the rows i, i + QUARTER, i + 2 QUARTER, ... from element k on. */
INLINE vec vload_quarters(const real *const *rows, int i, ptrdiff_t k) {
#if VEC_BYTES == 16
    return vload(rows[i] + k);
#else
    const quarter *q[VEC_BYTES / 16];
    UNROLL(4)
    for (int j = 0; j < VEC_BYTES / 16; j++)
        q[j] = (const quarter *)(rows[i + j * QUARTER] + k);
#if VEC_BYTES == 32
    __m256 v = _mm256_insertf128_ps(_mm256_castps128_ps256((__m128)*q[0]), (__m128)*q[1], 1);
#else
    __m512 v = _mm512_castps128_ps512((__m128)*q[0]);
    v = _mm512_insertf32x4(v, (__m128)*q[1], 1);
    v = _mm512_insertf32x4(v, (__m128)*q[2], 2);
    v = _mm512_insertf32x4(v, (__m128)*q[3], 3);
#endif
    return (vec)v;
#endif
}

/* out[i][lane] = rows[lane][k + i] for i < QUARTER, every lane's row. */
INLINE void vload_transposed(vec *out, const real *const *rows, ptrdiff_t k) {
#ifdef FR_DOUBLE
    const vec a = vload_quarters(rows, 0, k), b = vload_quarters(rows, 1, k);
    out[0] = vzip_low(a, b);
    out[1] = vzip_high(a, b);
#else
    const vec a = vload_quarters(rows, 0, k), b = vload_quarters(rows, 1, k);
    const vec c = vload_quarters(rows, 2, k), d = vload_quarters(rows, 3, k);
    const vec ab = vzip_low(a, b), cd = vzip_low(c, d), ab2 = vzip_high(a, b), cd2 = vzip_high(c, d);
    out[0] = vpairs_low(ab, cd);
    out[1] = vpairs_high(ab, cd);
    out[2] = vpairs_low(ab2, cd2);
    out[3] = vpairs_high(ab2, cd2);
#endif
}

#endif
