"""Colours of the cells in the pictures: told apart by those who see red and green alike."""

CELL_COLOURS = {"rnn": "#56b4e9", "lstm": "#7b3294", "gru": "#008837"}
