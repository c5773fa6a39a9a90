"""The classic sequence tasks, each one short script that trains on real or generated data: `fastrnn learn TASK`.

A task is a module of this package with a function `learn(options)`, which returns a Result. TASKS lists them.
"""

from __future__ import annotations

from typing import NamedTuple


class Task(NamedTuple):
    """One line of `fastrnn learn`."""

    shape: str
    shows: str
    picture: bool = False  # whether it has one to draw


TASKS = {
    "hello": Task("one to one", 'a vanilla RNN that learns one word, "hell" → "o"'),
    "tagging": Task("many to many, aligned", "each character's class in Python sources, with and without the future"),
    "digits": Task("many to one", "handwritten digits read row by row"),
    "sunspots": Task(
        "many to one, forecast", "next year's sunspots, against persistence and autoregression", picture=True
    ),
    "spelling": Task("many to many, delayed", "a word's phonemes: encoder, decoder, attention, beam", picture=True),
    "dates": Task("many to many, delayed", "dates written freely → ISO 8601", picture=True),
    "captions": Task("one to many", "a scene's vector → the sentence that describes it"),
    "sentiment": Task("many to one, two levels", "words → sentences → reviews, with attention at both levels"),
    "text": Task("one to many", "a character model that writes text; RNN, LSTM and GRU side by side", picture=True),
    "memory": Task("many to one", "adding and copying over long gaps, and why an RNN cannot", picture=True),
}
