"""The table of the recurrent cells: the facts about each that the code around the equations reads.

A cell's equations stand in each backend; everything else about it is here. `csrc/cells.def` is written from this table.
"""

from typing import NamedTuple

import numpy as np

NONE = "-"  # a column that x, or h, does not feed


class Phase(NamedTuple):
    """The products of a step by the columns of a tile of pre-activations.

    A column is fed by x through the rows of W_ih of a gate, by h through those of W_hh. The columns that x feeds are
    neighbours, the first ones; so are those that h feeds, up to the last. In a second phase W_hh multiplies what the
    first has left, for the columns that x alone has fed until then.
    """

    x: str  # the gate of each column, NONE where x does not feed it
    h: str


class Function(NamedTuple):
    """An activation, with alpha and beta as ONNX has them; 0 where it takes none."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0


FUNCTIONS = (  # in the order of the kernels' fr_function_kind
    "sigmoid", "hard_sigmoid", "tanh", "relu", "leaky_relu", "thresholded_relu", "elu", "softsign", "softplus",
    "affine", "scaled_tanh", "linear",
)  # fmt: skip
NORM_EPS = 1e-5  # torch.nn.LayerNorm's
PLAIN = (Function("sigmoid"), Function("tanh"), Function("tanh"))  # of the gates, the candidate, the output


class Options(NamedTuple):
    """How a layer's cell differs from the plain one."""

    functions: tuple[Function, ...]  # of the gates, the candidate, the output
    clip: float = 0.0  # gates and candidate take what is within -clip .. clip; 0: anything
    peephole: bool = False
    zoneout: tuple[float, ...] = ()  # of each part of the state, the probability that a unit keeps it; () for none
    each_gate: bool = False  # of a cell that normalises: whether each gate has statistics of its own
    eps: float = NORM_EPS  # and what joins the variances


class Cell(NamedTuple):
    """The shape of a cell's arithmetic.

    gates    rows of weight_ih and weight_hh: hidden_size of each gate, in this order
    states   the parts of the state: h, or h and c
    saved    the values of each hidden unit, row and step that a tape has beside x and y
    phases   the products of a step, one after the other
    carries  whether the previous h enters the step beside the recurrent product too
    vectors  parameters of each hidden unit
    peepholes  such that it has if its options say so
    options  of a layer's cell; None for a plain cell
    normal   of a cell that normalises: the name of the one whose equation it has. W_ih x and W_hh h are normalised,
             and c on its way into h. It saves both products as they were, and its vectors are the gains of the gates
             by x, of the gates by h, and c's gain and bias
    """

    name: str
    gates: str
    states: str
    saved: tuple[str, ...]
    phases: tuple[Phase, ...]
    carries: bool = False
    vectors: tuple[str, ...] = ()
    peepholes: tuple[str, ...] = ()
    options: Options | None = None
    normal: str = ""

    @property
    def own_vectors(self) -> tuple[str, ...]:
        """The vectors that a layer of this cell has."""
        return self.vectors + (self.peepholes if self.options and self.options.peephole else ())

    @property
    def equation(self) -> str:
        """The name of the cell whose equation it has."""
        return self.normal or self.name

    @property
    def splits(self) -> bool:
        """Whether the gradients of the products by W_ih and by W_hh differ."""
        return bool(self.normal) or (len(self.phases) == 1 and self.phases[0].x != self.phases[0].h)

    @property
    def first_gates(self) -> int:
        """How many gates W_hh h feeds in the first phase; the others' rows of W_hh come after theirs."""
        return sum(gate != NONE for gate in self.phases[0].h)


RNN_TANH = Cell("rnn_tanh", gates="a", states="h", saved=(), phases=(Phase(x="a", h="a"),))
RNN_RELU = RNN_TANH._replace(name="rnn_relu")
LSTM = Cell(
    "lstm",
    gates="ifgo",
    states="hc",
    saved=("i", "f", "g", "o", "c"),
    phases=(Phase(x="ifgo", h="ifgo"),),
    peepholes=("i", "f", "o"),
)
LSTM_COUPLED = Cell(  # f = 1 - i
    "lstm_coupled",
    gates="igo",
    states="hc",
    saved=("i", "g", "o", "c"),
    phases=(Phase(x="igo", h="igo"),),
    peepholes=("i", "o"),
)
LEAKY_TANH = Cell(
    "leaky_tanh",
    gates="a",
    states="h",
    saved=("f",),
    phases=(Phase(x="a", h="a"),),
    carries=True,
    vectors=("alpha",),
)
LEAKY_RELU = LEAKY_TANH._replace(name="leaky_relu")
GRU = Cell(
    "gru",
    gates="rzn",
    states="h",
    saved=("r", "z", "n", "hn"),  # hn: W_hn h + b_hn, which r multiplies
    phases=(Phase(x="nrz-", h="-rzn"),),
    carries=True,
)
GRU_RESET_FIRST = Cell(  # W_hn multiplies r h
    "gru_reset_first",
    gates="rzn",
    states="h",
    saved=("r", "z", "n"),
    phases=(Phase(x="nrz", h="-rz"), Phase(x="---", h="n--")),
    carries=True,
)


def normalised(cell: Cell) -> Cell:
    """The cell with layer normalisation (Ba et al. 2016)."""
    products = tuple(f"{source}_{gate}" for source in "xh" for gate in cell.gates)
    of_c = ("gain_c", "bias_c") if "c" in cell.states else ()
    return cell._replace(
        name=f"{cell.name}_norm",
        saved=cell.saved + products,
        vectors=tuple(f"gain_{product}" for product in products) + of_c,
        peepholes=(),
        options=Options(PLAIN),
        normal=cell.name,
    )


LSTM_NORM, GRU_NORM = normalised(LSTM), normalised(GRU)

TABLE = (
    RNN_TANH, RNN_RELU, LSTM, GRU, LSTM_COUPLED, LEAKY_TANH, LEAKY_RELU, GRU_RESET_FIRST, LSTM_NORM, GRU_NORM,
)  # fmt: skip
CELLS = {cell.name: cell for cell in TABLE}


class Weights(NamedTuple):
    """The parameters of one direction of one layer, or their gradients; G gates, H hidden units, I inputs.

    P is the width of h: H, but for a layer that projects.
    """

    w_ih: np.ndarray  # (G·H, I)
    w_hh: np.ndarray  # (G·H, P)
    b_ih: np.ndarray | None = None  # (G·H,)
    b_hh: np.ndarray | None = None  # (G·H,)
    vectors: np.ndarray | None = None  # (V·H,): those of Cell.own_vectors, one after the other
    w_hr: np.ndarray | None = None  # (P, H): of a layer that projects, h = W_hr times the cell's own output
