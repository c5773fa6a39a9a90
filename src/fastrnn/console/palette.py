"""Colours of the cells in the pictures: told apart by those who see red and green alike.

Blue for RNN and its kin, violet to pink for LSTM's, green for GRU's; lines of one hue differ in shade and dashes.
"""

CELL_COLOURS = {
    "rnn": "#56b4e9",
    "rnn_relu": "#1f78b4",
    "leaky": "#08306b",
    "leaky_relu": "#7f9fbf",
    "indrnn": "#00a0a0",
    "lstm": "#7b3294",
    "lstm_peephole": "#c2a5cf",
    "lstm_coupled": "#df65b0",
    "lstm_clip": "#3f007d",
    "lstm_activations": "#9e9ac8",
    "lstm_zoneout": "#8c6bb1",
    "lstm_norm": "#e7298a",
    "minlstm": "#980043",
    "gru": "#008837",
    "gru_reset_first": "#a6dba0",
    "gru_norm": "#1b5e20",
    "mingru": "#66a61e",
}
CELL_DASHES = {
    "rnn_relu": "--", "leaky": ":", "leaky_relu": "-.", "indrnn": "--",
    "lstm_peephole": "--", "lstm_coupled": ":", "lstm_clip": "-.", "lstm_activations": (0, (1, 1)),
    "lstm_zoneout": (0, (4, 1, 1, 1)), "minlstm": "--",
    "gru_reset_first": "--", "gru_norm": "-.", "mingru": ":", "lstm_norm": (0, (5, 2)),
}  # fmt: skip
