"""Estimators for scikit-learn: sequences in, classes or numbers out; the extra `fastrnn[sklearn]`.

    X  (n, T) numbers, (n, T, features), or a list of n sequences (T_i,) or (T_i, features)

Rows of an array that end before T are padded with NaN; a NaN that a value follows is an error. A model is a recurrent
layer over the standardised sequences, the output at each one's last step, and a linear layer; it is trained by Adam.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .core import checks
from .layers import GRU, LSTM, RNN
from .train import Adam, Chain, LastStep, Linear, Sequences, cross_entropy, fit, mean_squared

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError("fastrnn.sklearn needs scikit-learn: pip install 'fastrnn[sklearn]'") from error

Array = np.ndarray
CELLS: dict[str, Any] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


def is_ragged(X: Any) -> bool:
    """Whether X is a list of sequences that have lengths of their own, or a row each."""
    if not isinstance(X, (list, tuple)) or not len(X):
        return False
    shapes = {np.shape(sequence) for sequence in X}
    return len({shape[1:] for shape in shapes}) == 1 and (len(shapes) > 1 or len(next(iter(shapes))) == 2)


class SequenceEstimator(BaseEstimator):
    """What the classifier and the regressor share."""

    def __init__(
        self,
        cell: str = "gru",
        hidden_size: int = 32,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        epochs: int = 50,
        batch_size: int = 32,
        lr: float = 0.01,
        clip: float = 1.0,
        random_state: Any = None,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.clip = clip
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = False
        return tags

    def _read(self, X: Any, reset: bool) -> tuple[list[Array] | Array, Array]:
        """The sequences (n, T, features) or a list of (T_i, features), and their lengths."""
        if is_ragged(X):
            found = [check_array(np.reshape(s, (len(s), -1)), dtype=np.float64, ensure_min_samples=1) for s in X]
            self._check_features(found[0].shape[1], reset)
            return found, np.array([len(sequence) for sequence in found])
        if isinstance(X, np.ndarray) and X.ndim == 3:
            array = check_array(X, dtype=np.float64, allow_nd=True, ensure_all_finite="allow-nan")
            self._check_features(array.shape[2], reset)
        else:
            array = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=reset)[..., None]
            if reset:
                self.features_ = 1
            elif self.features_ != 1:
                raise ValueError(f"X: expected sequences of {self.features_} features, got an array of two axes")
        return array, self._lengths(array)

    def _check_features(self, features: int, reset: bool) -> None:
        """Sequences have as many features as those the estimator was fitted with."""
        if reset:
            self.features_ = self.n_features_in_ = features
        elif features != self.features_:
            raise ValueError(f"X: expected sequences of {self.features_} features, got {features}")

    def _lengths(self, array: Array) -> Array:
        """The steps before each row's padding."""
        if not array.shape[1]:
            raise ValueError("X: expected sequences of at least one step, got none")
        valid = ~np.isnan(array).all(axis=2)
        lengths = valid.sum(axis=1)
        gaps = np.isnan(array).any(axis=2) & (np.arange(array.shape[1]) < lengths[:, None])
        if gaps.any():
            raise ValueError(
                f"X: expected NaN only after a sequence's end, got one within row {gaps.any(axis=1).argmax()}"
            )
        if not lengths.all():
            raise ValueError(f"X: expected at least one step in each sequence, got none in row {lengths.argmin()}")
        return lengths

    def _scaled(self, sequences: list[Array] | Array) -> list[Array] | Array:
        """The sequences with each feature's mean and deviation taken out, in float32."""
        if isinstance(sequences, list):
            return [((s - self.mean_) / self.scale_).astype(np.float32) for s in sequences]
        with np.errstate(invalid="ignore"):
            return ((sequences - self.mean_) / self.scale_).astype(np.float32)

    def _fit(self, X: Any, targets: Array, outputs: int, loss: Any) -> None:
        """Train a new model."""
        if self.cell not in CELLS:
            raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {self.cell!r}")
        epochs, lr = checks.integer("epochs", self.epochs), checks.not_negative("lr", self.lr)
        sequences, lengths = X
        steps = np.concatenate([sequence[:length] for sequence, length in zip(sequences, lengths)])
        self.mean_, deviation = steps.mean(axis=0), steps.std(axis=0)
        self.scale_ = np.where(deviation > 0, deviation, 1.0)
        seed = int(check_random_state(self.random_state).randint(1 << 31))
        layer = CELLS[self.cell](
            self.features_, self.hidden_size, self.num_layers, bidirectional=self.bidirectional,
            dropout=self.dropout if self.num_layers > 1 else 0.0, rng=seed,
        )  # fmt: skip
        self.model_ = Chain(
            rnn=layer,
            last=LastStep(bidirectional=layer.bidirectional),
            out=Linear(layer.output_size, outputs, rng=seed),
        )
        scaled = self._scaled(sequences)
        data = Sequences(scaled, targets, lengths=None if isinstance(scaled, list) else lengths)
        self.history_ = fit(
            self.model_, data, loss, Adam(self.model_.params, lr=lr), epochs=epochs, rng=seed,
            batch_size=self.batch_size, clip=self.clip, progress=False,
        )  # fmt: skip
        self.n_iter_ = epochs

    def _outputs(self, X: Any) -> Array:
        """The model's outputs, (n, outputs) float64: a row's are the same in any company."""
        check_is_fitted(self, "model_")
        sequences, lengths = self._read(X, reset=False)
        scaled = self._scaled(sequences)
        data = Sequences(scaled, np.zeros(len(lengths)), lengths=None if isinstance(scaled, list) else lengths)
        model, found = self.model_, []
        weight, bias = (model.out.params[name].astype(np.float64) for name in ("weight", "bias"))
        for key in data.plan(256, None):
            batch = data.batch(key)
            assert batch is not None
            y, _ = model.rnn(batch.x, lengths=batch.lengths)
            last = model.last(y, batch.lengths).astype(np.float64)
            found.append((last[:, None] * weight).sum(axis=2) + bias)
        return np.concatenate(found)


class SequenceClassifier(ClassifierMixin, SequenceEstimator):
    """Classes of sequences by a recurrent network.

    cell           "rnn", "lstm" or "gru"
    hidden_size    units of each layer, and direction
    num_layers, bidirectional, dropout   as in fastrnn.GRU; dropout acts between layers
    epochs, batch_size, lr, clip         of the training by Adam; clip is the largest norm of a step's gradient
    random_state   None, a seed or a RandomState

    After `fit`: classes_, model_ (a fastrnn.train.Chain), history_, n_features_in_.
    """

    def fit(self, X: Any, y: Sequence[Any]) -> SequenceClassifier:
        """Train on the sequences X and their classes y, (n,)."""
        read = self._read(X, reset=True)
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        if len(labels) != len(read[1]):
            raise ValueError(f"y: expected as many classes as sequences, {len(read[1])}, got {len(labels)}")
        self.classes_, targets = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y: expected at least two classes, got one class, {self.classes_[0]!r}")
        self._fit(read, targets, len(self.classes_), cross_entropy)
        return self

    def decision_function(self, X: Any) -> Array:
        """(n, classes) logits; of two classes (n,), the second's less the first's."""
        v = self._outputs(X)
        return v[:, 1] - v[:, 0] if len(self.classes_) == 2 else v

    def predict_proba(self, X: Any) -> Array:
        """(n, classes) probabilities."""
        v = self._outputs(X)
        e = np.exp(v - v.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> Array:
        """(n,) the likeliest class of each sequence."""
        outputs = self._outputs(X)
        return self.classes_[outputs.argmax(axis=1)]


class SequenceRegressor(RegressorMixin, SequenceEstimator):
    """Numbers from sequences by a recurrent network; parameters as in SequenceClassifier.

    After `fit`: model_ (a fastrnn.train.Chain), history_, n_features_in_.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> SequenceRegressor:
        """Train on the sequences X and their targets y, (n,) or (n, k); the squared error of the standardised ones."""
        read = self._read(X, reset=True)
        if y is None:
            raise ValueError("y: requires y to be passed, but the target y is None")
        targets = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        if targets.ndim > 2:
            raise ValueError(f"y: expected one or two axes, got shape {targets.shape}")
        if len(targets) != len(read[1]):
            raise ValueError(f"y: expected as many targets as sequences, {len(read[1])}, got {len(targets)}")
        self.flat_ = targets.ndim == 1
        targets = targets.reshape(len(targets), -1)
        self.target_mean_, deviation = targets.mean(axis=0), targets.std(axis=0)
        self.target_scale_ = np.where(deviation > 0, deviation, 1.0)
        self._fit(read, (targets - self.target_mean_) / self.target_scale_, targets.shape[1], mean_squared)
        return self

    def predict(self, X: Any) -> Array:
        """(n,) or (n, k), as the targets were."""
        found = self._outputs(X) * self.target_scale_ + self.target_mean_
        return found[:, 0] if self.flat_ else found
