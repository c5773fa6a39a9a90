"""Training with NumPy alone: parts of models, losses, optimisers, and the loop over batches.

    model = Chain(Embedding(50, 16), LSTM(16, 64), Linear(64, 50))
    history = fit(model, Sequences(x, targets, per_step=True), cross_entropy, epochs=10)

Parts have `params`, a call, `forward` -> (y, tape) and `backward(tape, dy)`; losses return (loss, gradient); nothing is
differentiated by itself. Sequences are time first: x (T, B, ...).
"""

from .attention import AttentionPooling, DotAttention
from .clipping import clip_grad_norm
from .counting import counted
from .ctc import ctc, ctc_greedy
from .data import Batch, Data, Sequences, Stream, batches
from .history import History
from .linear import Dropout, Embedding, LastStep, Linear
from .loop import fit
from .losses import binary_cross_entropy, cross_entropy, huber, mean_squared
from .model import Chain, Model
from .objective import Outcome, evaluate, supervised
from .optimisers import SGD, Adam, AdamW, Optimiser, RMSprop
from .part import Part, PartGrads
from .schedules import CosineSchedule, Plateau, StepSchedule, WarmUp

KINDS: list[type] = [AttentionPooling, Chain, DotAttention, Dropout, Embedding, LastStep, Linear, Model]

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AttentionPooling",
    "Batch",
    "Chain",
    "CosineSchedule",
    "Data",
    "DotAttention",
    "Dropout",
    "Embedding",
    "History",
    "LastStep",
    "Linear",
    "Model",
    "Optimiser",
    "Outcome",
    "Part",
    "PartGrads",
    "Plateau",
    "RMSprop",
    "Sequences",
    "StepSchedule",
    "Stream",
    "WarmUp",
    "batches",
    "binary_cross_entropy",
    "clip_grad_norm",
    "counted",
    "cross_entropy",
    "ctc",
    "ctc_greedy",
    "evaluate",
    "fit",
    "huber",
    "mean_squared",
    "supervised",
]
