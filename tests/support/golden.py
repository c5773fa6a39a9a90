"""The fixed cases whose bits tests/support/golden.json keeps, per instruction-set level of the native backend.

    python tests/support/golden.py        writes the hashes of this machine's levels; those of other machines stay

after a change that is meant to change bits; the commit says why. The data come from integers alone, so that no
version of NumPy or of the initialisation changes them.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from cases import KINDS, Case, make_layer, run

import fastrnn
from fastrnn.spec import CELLS

FILE = Path(__file__).with_name("golden.json")
OPTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "both directions, lengths": {"bidirectional": True},
    "two layers, batch first": {"num_layers": 2, "batch_first": True},
}
# (T, B, I, H): one row alone, a cut vector, several tiles of rows, more than one block of 256 terms.
SIZES = {
    "plain": (40, 1, 19, 70),
    "no bias": (9, 7, 3, 5),
    "both directions, lengths": (21, 23, 10, 37),
    "two layers, batch first": (12, 30, 33, 16),
}
NAMES = tuple(f"{kind} {dtype} {options}" for kind in KINDS for dtype in ("float32", "float64") for options in OPTIONS)


class Numbers:
    """Multiples of 2^-23 in -1..1 from a 64-bit linear congruential generator, the same everywhere."""

    def __init__(self):
        self.state = 1

    def __call__(self, shape, dtype, scale=1.0):
        values = []
        for _ in range(int(np.prod(shape))):
            self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
            values.append((self.state >> 40) - 2**23)
        return (np.array(values, np.float64) * (scale / 2**23)).astype(dtype).reshape(shape)


def golden_case(name):
    """The layer, inputs and gradients of one of NAMES."""
    kind, dtype, option = name.split(" ", 2)
    T, B, I, H = SIZES[option]
    numbers = Numbers()
    layer = make_layer(kind, I, H, dtype=dtype, rng=0, **OPTIONS[option])
    for array in layer.params.values():
        array[...] = numbers(array.shape, dtype, 0.25)
    directions = 1 + layer.bidirectional
    x, dy = numbers((T, B, I), dtype, 2), numbers((T, B, directions * H), dtype)
    shape = layer.num_layers * directions, B, H
    state, dstate = (tuple(numbers(shape, dtype) for _ in range(len(CELLS[kind].states))) for _ in range(2))
    lengths = None
    if "lengths" in option:
        lengths = 1 + np.arange(B) * 7 % T
        past = np.arange(T)[:, None] >= lengths
        x[past], dy[past] = np.nan, np.nan
    if layer.batch_first:
        x, dy = (np.ascontiguousarray(array.swapaxes(0, 1)) for array in (x, dy))
    return Case(layer, x, state, lengths, dy, dstate)


def hashes(name):
    """SHA-256 of what forward gives and of what backward gives, at the level in force."""
    digests = {"forward": hashlib.sha256(), "backward": hashlib.sha256()}
    with fastrnn.use_backend("native"):
        results = run(golden_case(name))
    for part, array in results.items():
        assert np.isfinite(array).all(), f"{part} of {name}"
        digest = digests["forward" if part == "y" or part.startswith("state") else "backward"]
        digest.update(np.ascontiguousarray(array).tobytes())
    return {part: digest.hexdigest() for part, digest in digests.items()}


def recorded():
    """What golden.json says: level -> name -> hashes."""
    return json.loads(FILE.read_text())


def main():
    from fastrnn.backends import native

    known = recorded() if FILE.exists() else {}
    for level in native.levels():
        native.set_level(level)
        known[level] = {name: hashes(name) for name in NAMES}
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
