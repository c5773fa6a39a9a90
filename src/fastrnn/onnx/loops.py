"""Recurrences written as Loop or Scan, as tf2onnx does: the step in the body, recognised and checked by its numbers.

Each tensor of the body is followed back as M₁ᵀa₁ + M₂ᵀa₂ + … + b, where an atom a is x, h, c, an activation of such a
sum or a product of several. The new state's form then says the cell: c = f c + i g and h = o tanh(c) of an LSTM,
h = n - z n + z h of a GRU, h = f(…) of an RNN.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ..weights.build import LAYERS

Array = np.ndarray
ACTIVATIONS = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu"}


class Unrecognised(ValueError):
    """What no cell of fastrnn's computes."""


class Atom(NamedTuple):
    """x, h or c ("source", its name), an activation of a sum, or a product of atoms and sums."""

    kind: str
    what: Any
    width: int


class Sum:
    """Σ Mᵀa + b: atoms by identity, each with its matrix (atom's width, width)."""

    def __init__(self, terms: list[tuple[Atom, Array]], bias: Array) -> None:
        found: dict[int, tuple[Atom, Array]] = {}
        for atom, matrix in terms:
            found[id(atom)] = (atom, found[id(atom)][1] + matrix if id(atom) in found else matrix)
        self.terms, self.bias = found, bias

    @property
    def width(self) -> int:
        return len(self.bias)

    def scalars(self) -> list[tuple[Atom, float]] | None:
        """The atoms with their factors, where the matrices are multiples of the identity and the bias is one number."""
        found = []
        for atom, M in self.terms.values():
            if M.shape[0] != M.shape[1] or not np.allclose(M, M[0, 0] * np.eye(len(M)), atol=1e-7):
                return None
            found.append((atom, float(M[0, 0])))
        return found if (self.bias == self.bias[:1]).all() else None


def one(atom: Atom) -> Sum:
    return Sum([(atom, np.eye(atom.width))], np.zeros(atom.width))


class Body:
    """The tensors of a body as sums."""

    def __init__(self, scope: Any, sources: set[str]) -> None:
        self.scope, self.sources = scope, sources
        self.known: dict[str, Any] = {}
        self.atoms: dict[Any, Atom] = {}

    def atom(self, kind: str, what: Any, width: int, key: Any = None) -> Atom:
        return self.atoms.setdefault((kind, what if key is None else key, width), Atom(kind, what, width))

    def value(self, name: str, width: int | None = None) -> Any:
        """A tensor as an array of constants or a Sum; `width` is that of a source which does not tell its own."""
        constant = self.scope.constant(name)
        if constant is not None:
            return constant
        if name in self.sources:
            if width is None:
                raise Unrecognised(f"{name!r} goes into no product")
            return one(self.atom("source", name, width))
        if name not in self.known:
            node = self.scope.producers.get(name)
            if node is None:
                raise Unrecognised(f"{name!r} is neither constant nor part of the step")
            for output, found in zip(node.output, self.apply(node, width)):
                self.known[output] = found
        return self.known[name]

    def apply(self, node: Any, width: int | None) -> list[Any]:
        op, given = node.op_type, list(node.input)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if op in ("Identity", "Dropout"):
            return [self.value(given[0], width)]
        if op in ("MatMul", "Gemm"):
            W = self.scope.constant(given[1])
            if W is None or W.ndim != 2 or attributes.get("transA"):
                raise Unrecognised(f"{op} {node.name!r} is no product by constant weights")
            W = (W.T if attributes.get("transB") else W) * attributes.get("alpha", 1.0)
            a = self.value(given[0], len(W))
            found = Sum([(atom, M @ W) for atom, M in a.terms.values()], a.bias @ W)
            if len(given) > 2:
                found = self.add(found, self.value(given[2]) * attributes.get("beta", 1.0), 1.0)
            return [found]
        if op == "Split":
            whole = self.value(given[0])
            sizes = self.scope.constant(given[1]) if len(given) > 1 else attributes.get("split")
            n = len(node.output)
            ends = np.cumsum([whole.width // n] * n if sizes is None else sizes)
            return [self.part(whole, int(end - size), int(end)) for end, size in zip(ends, np.diff(ends, prepend=0))]
        if op == "Slice":
            whole = self.value(given[0])
            starts, ends = self.scope.constant(given[1]), self.scope.constant(given[2])
            return [self.part(whole, int(starts[-1]), int(min(ends[-1], whole.width)))]
        if op in ACTIVATIONS:
            return [self.activation((ACTIVATIONS[op],), self.value(given[0]))]
        if op == "Clip":
            low, high = (float(self.scope.constant(name)) for name in given[1:3])
            found = self.activation(("hard_sigmoid", 1 / (high - low), -low / (high - low)), self.value(given[0]))
            return [self.add(self.scaled(found, high - low), np.full(found.width, low), 1.0)]
        if op in ("Add", "Sub", "Mul"):
            a, b = self.pair(given)
            return [self.product(a, b) if op == "Mul" else self.add(a, b, -1.0 if op == "Sub" else 1.0)]
        raise Unrecognised(f"{op} {node.name!r} is no part of a cell")

    def pair(self, names: list[str]) -> tuple[Any, Any]:
        """Both operands; a source has the other's width."""
        late = [name in self.sources for name in names]
        if all(late):
            raise Unrecognised(f"{names[0]!r} and {names[1]!r} meet outside a product")
        first = self.value(names[late.index(False)])
        width = first.width if isinstance(first, Sum) else first.shape[-1] if first.ndim else None
        other = self.value(names[1 - late.index(False)], width)
        return (first, other) if not late[0] else (other, first)

    def add(self, a: Any, b: Any, sign: float) -> Any:
        """a + sign b."""
        if not isinstance(a, Sum):
            negative = Sum([(atom, sign * M) for atom, M in b.terms.values()], sign * b.bias)
            return self.add(negative, a, 1.0)
        if not isinstance(b, Sum):
            return Sum(list(a.terms.values()), a.bias + sign * np.broadcast_to(b.reshape(-1), a.bias.shape))
        terms = [*a.terms.values(), *[(atom, sign * M) for atom, M in b.terms.values()]]
        return Sum(terms, a.bias + sign * b.bias)

    def scaled(self, a: Sum, by: Any) -> Sum:
        return Sum([(atom, M * by) for atom, M in a.terms.values()], a.bias * by)

    def product(self, a: Any, b: Any) -> Sum:
        if not isinstance(a, Sum) or not isinstance(b, Sum):
            value, constant = (a, b) if isinstance(a, Sum) else (b, a)
            return self.scaled(value, constant.reshape(-1))
        left, right = self.factors(a), self.factors(b)
        terms, bias = [], 0.0
        for p, x in left:
            for q, y in right:
                factors = [f for atom in (p, q) if atom for f in (atom.what if atom.kind == "product" else (atom,))]
                if not factors:
                    bias += x * y
                    continue
                key = tuple(sorted(map(id, factors)))
                atom = factors[0] if len(factors) == 1 else self.atom("product", tuple(factors), a.width, key)
                if x * y:
                    terms.append((atom, x * y * np.eye(a.width)))
        return Sum(terms, np.full(a.width, bias))

    def factors(self, value: Sum) -> list[tuple[Atom | None, float]]:
        """What a product is distributed over: atoms with their factors and a number, or the sum as one atom."""
        found = value.scalars()
        if found is None:
            return [(self.atom("sum", value, value.width, id(value)), 1.0)]
        return [*found, (None, float(value.bias[0]))]

    def activation(self, function: tuple[Any, ...], a: Sum) -> Sum:
        return one(self.atom("activation", (function, a), a.width, (function, id(a))))

    def part(self, a: Any, start: int, stop: int) -> Any:
        """Columns of a sum; where it is one activation, that of the argument's columns."""
        single = a.scalars()
        if single is not None and len(single) == 1 and single[0][0].kind == "activation" and not a.bias.any():
            function, argument = single[0][0].what
            return self.scaled(self.activation(function, self.part(argument, start, stop)), single[0][1])
        return Sum([(atom, M[:, start:stop]) for atom, M in a.terms.values()], a.bias[start:stop])


def gate(atom: Atom, h: str) -> tuple[tuple[Any, ...], str, Array, Array, Array]:
    """(function, the source x, W, R, bias) of an activation of W x + R h + b."""
    if atom.kind != "activation":
        raise Unrecognised("a gate is no activation of a sum")
    function, total = atom.what
    R, xs = np.zeros((total.width, total.width)), []
    for source, M in total.terms.values():
        if source.kind != "source":
            raise Unrecognised("a gate takes more than x and h")
        if source.what == h:
            R = M.T
        else:
            xs.append((source.what, M.T))
    if len(xs) != 1:
        raise Unrecognised(f"a gate takes {len(xs)} inputs beside h")
    return function, xs[0][0], xs[0][1], R, total.bias


def as_lstm(h_new: Sum, c_new: Sum, h: str, c: str) -> tuple[str, dict[str, Any], list[Any]]:
    """(x, options, gates i, f, g, o) of h = o act(c), c = f c + i g."""

    def factors(total: Sum) -> list[tuple[Atom, ...]]:
        found = total.scalars()
        if found is None or total.bias.any() or any(a.kind != "product" or abs(f - 1) > 1e-6 for a, f in found):
            raise Unrecognised("the new state is no sum of products")
        return [atom.what for atom, _ in found]

    products = factors(c_new)
    kept = [p for p in products if any(a.kind == "source" and a.what == c for a in p)]
    others = [p for p in products if p not in kept]
    outputs = factors(h_new)
    if not (len(kept) == len(others) == len(outputs) == 1 and {len(kept[0]), len(others[0]), len(outputs[0])} == {2}):
        raise Unrecognised("the new c is not f c + i g, or the new h not o times a function of c")
    f = next(a for a in kept[0] if a.kind != "source")
    last = [a for a in outputs[0] if a.kind == "activation" and a.what[1] is c_new]
    if len(last) != 1:
        raise Unrecognised("the new h is not o times a function of the new c")
    o = next(a for a in outputs[0] if a is not last[0])
    i, g = sorted(others[0], key=lambda a: a.kind != "activation" or a.what[0] != f.what[0])
    gates = [gate(a, h) for a in (i, f, g, o)]
    if not gates[0][0] == gates[1][0] == gates[3][0]:
        raise Unrecognised("the gates' activations differ")
    return gates[0][1], {"activations": [gates[0][0], gates[2][0], last[0].what[0]]}, gates


def as_rnn(h_new: Sum, h: str) -> tuple[str, dict[str, Any], list[Any]]:
    found = h_new.scalars()
    if found is None or len(found) != 1 or abs(found[0][1] - 1) > 1e-6 or h_new.bias.any():
        raise Unrecognised("the new h is no activation of a sum")
    only = gate(found[0][0], h)
    return only[1], {"activations": [only[0]]}, [only]


def as_gru(h_new: Sum, h: str) -> tuple[str, dict[str, Any], list[Any]]:
    """(x, options, gates r, z, n) of h = n - z n + z h; n's bias is of x alone, or of each part."""
    found = h_new.scalars() or []
    new = [a for a, f in found if a.kind == "activation" and abs(f - 1) < 1e-6]
    keep = [a.what for a, f in found if a.kind == "product" and abs(f - 1) < 1e-6]
    less = [a.what for a, f in found if a.kind == "product" and abs(f + 1) < 1e-6]
    if len(found) != 3 or not len(new) == len(keep) == len(less) == 1 or h_new.bias.any():
        raise Unrecognised("the new h is not n - z n + z h")
    n = new[0]
    z = [a for a in keep[0] if a.kind != "source"]
    if len(z) != 1 or {id(a) for a in less[0]} != {id(z[0]), id(n)} or not any(a.what == h for a in keep[0]):
        raise Unrecognised("the new h is not n - z n + z h")
    function, total = n.what
    products = [(a, M) for a, M in total.terms.values() if a.kind == "product"]
    xs = [(a, M) for a, M in total.terms.values() if a.kind == "source" and a.what != h]
    if len(products) != 1 or len(xs) != 1 or len(total.terms) != 2 or len(products[0][0].what) != 2:
        raise Unrecognised("n takes more than x and r with h")
    (product, M), (x, W) = products[0], xs[0]
    r = next((a for a in product.what if a.kind == "activation"), None)
    inner = next((a for a in product.what if a is not r), None)
    if r is None or inner is None:
        raise Unrecognised("n has no reset gate")
    if inner.kind == "source":
        reset, R, b_hn = "before", M.T, np.zeros(total.width)
    elif [a.what for a, _ in inner.what.terms.values()] == [h] and np.array_equal(M, np.eye(len(M))):
        reset, R, b_hn = "after", next(iter(inner.what.terms.values()))[1].T, inner.what.bias
    else:
        raise Unrecognised("n takes more than x and r with h")
    gates = [gate(r, h), gate(z[0], h), (function, x.what, W.T, R, total.bias, b_hn)]
    if gates[0][0] != gates[1][0]:
        raise Unrecognised("the gates' activations differ")
    return x.what, {"activations": [gates[0][0], function], "reset": reset}, gates


def read_loop(scope: Any, node: Any, make_scope: Any) -> tuple[Any, str, list[str], list[str]]:
    """(layer, x, outputs, initial states) of a Loop or Scan whose body is the step of a cell."""
    body = next(a.g for a in node.attribute if a.HasField("g"))
    inner = make_scope(body, scope.opsets, scope)
    scan = node.op_type == "Scan"
    ways: dict[str, Any] = {}
    if scan:
        scanned = next(a.i for a in node.attribute if a.name == "num_scan_inputs")
        count, ways = len(node.input) - scanned, way_of(node)
        xs = {value.name: node.input[k + count] for k, value in enumerate(body.input[count:])}
        states = list(range(count))
    else:
        states = list(range(2, len(node.input)))
        counters = {body.input[0].name}
        xs = {}
    changing = []
    for k in states:
        new = body.output[k if scan else k - 1].name
        name = body.input[k].name
        if new == name:
            inner.known[name] = scope.constant(node.input[k])
            continue
        maker = inner.producers.get(new)
        step = [] if maker is None or maker.op_type != "Add" else [i for i in maker.input if i != name]
        if len(step) == 1 and name in maker.input and scope.uniform(node.input[k]) == 0 and (
            np.array_equal(inner.constant(step[0]), 1)
        ):  # fmt: skip
            counters.add(name)
            continue
        changing.append(k)
    if not scan:
        xs = {g.output[0]: g.input[0] for g in body.node if g.op_type == "Gather" and g.input[1] in counters
              and not any(a.name == "axis" and a.i for a in g.attribute)}  # fmt: skip
    steps = Body(inner, {*xs, *[body.input[k].name for k in changing]})
    new_of = {k: body.output[k if scan else k - 1].name for k in changing}
    found, order = cell_of(steps, {k: (body.input[k].name, name) for k, name in new_of.items()})
    kind, (x, options, gates) = found
    layer = build(kind, options | ways, gates)
    check(layer, inner, x, [(body.input[k].name, new_of[k]) for k in order])
    return layer, xs[x], list(node.output), [node.input[k] for k in order]


def way_of(node: Any) -> dict[str, Any]:
    """The layer's direction, of a Scan; Unrecognised where its axes or directions are none of a layer's."""
    ways = {a.name: set(a.ints) for a in node.attribute if a.name not in ("num_scan_inputs", "body")}
    directions = [ways.pop(f"scan_{end}_directions", {0}) for end in ("input", "output")]
    axes = [ways.pop(f"scan_{end}_axes", {0}) for end in ("input", "output")]
    if ways:
        raise Unrecognised(f"attributes of the scan: {', '.join(ways)}")
    if axes != [{0}, {0}]:
        raise Unrecognised("axes of the scan other than the first")
    if directions not in ([{0}, {0}], [{1}, {1}]):
        raise Unrecognised("the scan reads one way and writes the other")
    return {"direction": "reverse"} if directions[0] == {1} else {}


def cell_of(steps: Body, states: dict[int, tuple[str, str]]) -> tuple[Any, list[int]]:
    """What the states' new values make of them, and the states in the order h, c."""
    if len(states) == 2:
        why: Unrecognised | None = None
        for h, c in (tuple(states), tuple(states)[::-1]):
            try:
                new_c, new_h = steps.value(states[c][1]), steps.value(states[h][1])
                return ("LSTM", as_lstm(new_h, new_c, states[h][0], states[c][0])), [h, c]
            except Unrecognised as error:
                why = error
        raise why or Unrecognised("no LSTM")
    if len(states) != 1:
        raise Unrecognised(f"{len(states)} states change from step to step, not 1 or 2")
    (k, (old, new)), *_ = states.items()
    total = steps.value(new)
    try:
        return ("RNN", as_rnn(total, old)), [k]
    except Unrecognised:
        return ("GRU", as_gru(total, old)), [k]


def build(kind: str, options: dict[str, Any], gates: list[Any]) -> Any:
    """The layer of these gates; the whole bias is that of x, but for a GRU's n."""
    if len({g[1] for g in gates}) != 1:
        raise Unrecognised("the gates take different inputs")
    W, R, b = (np.concatenate([g[k] for g in gates]) for k in (2, 3, 4))
    b_hh = np.concatenate([g[5] if len(g) > 5 else np.zeros_like(g[4]) for g in gates])
    layer = LAYERS[kind](W.shape[1], R.shape[1], rng=0, **options)
    layer.load_state_dict({"weight_ih_l0": W, "weight_hh_l0": R, "bias_ih_l0": b, "bias_hh_l0": b_hh})
    return layer


def check(layer: Any, inner: Any, x: str, states: list[tuple[str, str]]) -> None:
    """Compare one step of the layer with the body's own nodes; Unrecognised where they differ."""
    rng = np.random.default_rng(0)
    step = rng.standard_normal((1, 3, layer.input_size)).astype(np.float32)
    parts = [rng.standard_normal((1, 3, layer.hidden_size)).astype(np.float32) for _ in states]
    _, after = layer(step, tuple(parts) if len(parts) == 2 else parts[0])
    feed = {x: step[0], **{old: part[0] for (old, _), part in zip(states, parts)}}
    expected = evaluate(inner, feed, [new for _, new in states])
    for part, theirs in zip(after if len(parts) == 2 else (after,), expected):
        if not np.allclose(part[0], theirs, atol=1e-4):
            raise Unrecognised("the step has other numbers than the cell that it looks like")


def evaluate(scope: Any, feed: dict[str, Array], results: list[str]) -> list[Any]:
    """What the nodes of a graph make of the tensors that are fed, and of its constants."""
    nodes: set[int] = set()
    constants: dict[str, Array] = {}
    wanted, seen = list(results), set(feed)
    while wanted:
        name = wanted.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        if (constant := scope.constant(name)) is not None:
            constants[name] = constant
        elif name in scope.producers:
            nodes.add(id(scope.producers[name]))
            wanted += scope.producers[name].input
        else:
            raise Unrecognised(f"it begins with {name!r}, which the graph is given")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node for node in scope.graph.node if id(node) in nodes],
        "part",
        [value(name, 1, None) for name in feed],
        [value(name, 1, None) for name in results],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", scope.opsets[""])])
    return list(ReferenceEvaluator(model).run(None, feed))
