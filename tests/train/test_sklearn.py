"""The estimators for scikit-learn: its own checks, pipelines and searches, and the forms of input."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from fastrnn.sklearn import SequenceClassifier, SequenceRegressor

SMALL = {"hidden_size": 16, "epochs": 50, "random_state": 0}


def checks_of_scikit_learn():
    """Its checks of both, but for that of arrays of other libraries, which it runs only if SCIPY_ARRAY_API is set."""
    for made in (SequenceClassifier(**SMALL), SequenceRegressor(**SMALL)):
        for estimator, check in estimator_checks_generator(made, legacy=True):
            if "array_api" not in check.func.__name__:
                name = f"{type(made).__name__}-{check.func.__name__}-{check.keywords}"
                yield pytest.param(estimator, check, id=name)


@pytest.mark.parametrize(("estimator", "check"), list(checks_of_scikit_learn()))
def test_what_scikit_learn_asks_of_an_estimator(estimator, check):
    check(estimator)


def slopes(n=120, seed=0):
    """Noisy lines of 5 to 12 steps: the class is whether they rise, the number by how much a step."""
    rng = np.random.default_rng(seed)
    slope = rng.uniform(-1, 1, n)
    found = [slope[k] * np.arange(rng.integers(5, 13)) + 0.1 * rng.standard_normal() for k in range(n)]
    return found, slope


def padded(sequences, T=12):
    X = np.full((len(sequences), T), np.nan)
    for row, sequence in zip(X, sequences):
        row[: len(sequence)] = sequence
    return X


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_classifier(cell):
    X, slope = slopes()
    model = SequenceClassifier(cell=cell, **SMALL).fit(X, np.where(slope > 0, "up", "down"))
    X, slope = slopes(seed=1)
    assert model.score(X, np.where(slope > 0, "up", "down")) > 0.95
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), (model.decision_function(X) > 0).astype(int))


@pytest.mark.parametrize("outputs", [1, 2])
def test_regressor(outputs):
    X, slope = slopes()
    y = 100 + 7 * slope if outputs == 1 else np.stack([slope, 3 - slope], axis=1)
    model = SequenceRegressor(**SMALL).fit(X, y)
    X, slope = slopes(seed=1)
    right = 100 + 7 * slope if outputs == 1 else np.stack([slope, 3 - slope], axis=1)
    assert model.predict(X).shape == right.shape and model.score(X, right) > 0.9


def test_forms_of_input_are_the_same():
    """Lists of sequences, with or without a features axis; arrays of two and three axes with NaN at the end."""
    X, slope = slopes(40)
    forms = [X, [s[:, None] for s in X], [s.tolist() for s in X], padded(X), padded(X)[..., None]]
    found = [
        SequenceRegressor(hidden_size=4, epochs=3, random_state=0).fit(form, slope).predict(form) for form in forms
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-6)


def test_several_features_and_layers():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 9, 3))
    y = (X[:, :, 1].sum(axis=1) > 0).astype(int)
    model = SequenceClassifier(num_layers=2, bidirectional=True, dropout=0.1, **SMALL).fit(X, y)
    assert model.score(X, y) > 0.95
    with pytest.raises(ValueError, match="X: expected sequences of 3 features, got 2"):
        model.predict(X[:, :, :2])
    with pytest.raises(ValueError, match="X: expected sequences of 3 features, got an array of two axes"):
        model.n_features_in_ = 9
        model.predict(X[:, :, 0])


def test_pipeline_and_search():
    X, slope = slopes(60)
    X = np.array([s[:5] for s in X])
    y = (slope > 0).astype(int)
    pipeline = make_pipeline(StandardScaler(), SequenceClassifier(**SMALL))
    assert cross_val_score(pipeline, X, y, cv=2).mean() > 0.9
    search = GridSearchCV(SequenceClassifier(**SMALL), {"cell": ["rnn", "gru"], "hidden_size": [2, 8]}, cv=2)
    assert search.fit(X, y).best_score_ > 0.9
    assert set(search.best_params_) == {"cell", "hidden_size"}


def test_seeds_repeat():
    X, slope = slopes(40)
    one, again, other = (
        SequenceRegressor(hidden_size=4, epochs=2, random_state=seed).fit(X, slope).predict(X) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        (
            np.array([[1, np.nan, 2], [1, 2, 3]]),
            {},
            "X: expected NaN only after a sequence's end, got one within row 0",
        ),
        (
            np.array([[1, 2.0], [np.nan, np.nan]]),
            {},
            "X: expected at least one step in each sequence, got none in row 1",
        ),
        (np.ones((2, 3)), {"cell": "cnn"}, "cell: expected one of rnn, lstm, gru, got 'cnn'"),
        (np.ones((2, 3)), {"epochs": 0}, "epochs: expected an integer of at least 1"),
        (np.ones((2, 3)), {"hidden_size": 0}, "hidden_size: expected an integer of at least 1"),
        (np.ones((3, 3)), {}, "y: expected as many targets as sequences, 3, got 2"),
        (np.array([[1, np.inf], [1, 1]]), {}, "infinity"),
    ],
)
def test_bad_input(X, options, message):
    with pytest.raises(ValueError, match=message):
        SequenceRegressor(**options).fit(X, [1, 2])
