"""What to do here instead of what torch's modules have: for the message of an AttributeError."""

import re

PARAMETER = re.compile(r"(weight|bias)_(ih|hh|hr)(_l\d+(_reverse)?)?")  # what torch's modules have as attributes

PARAMETERS = "the parameters are in params, to be changed in place, or all at once with load_state_dict"
MODES = "a call keeps nothing and drops nothing out, forward records a tape and drops out: there is no mode to set"
GRADIENTS = "backward returns the gradients, or adds them to those given as accumulate: nothing is kept on the layer"
PLACES = "arrays are NumPy's, on the CPU; the constructor takes dtype=np.float32 or np.float64"

HABITS = {
    **dict.fromkeys(("parameters", "named_parameters", "all_weights", "_parameters", "data", "weight"), PARAMETERS),
    **dict.fromkeys(("train", "eval", "training"), MODES),
    **dict.fromkeys(("zero_grad", "grad", "requires_grad_", "requires_grad"), GRADIENTS),
    **dict.fromkeys(("to", "cpu", "cuda", "float", "double", "half", "device"), PLACES),
    "flatten_parameters": "weights are packed by each call, or once by freeze()",
    "reset_parameters": "make a new layer, with rng= to repeat the draw, and load_state_dict its state_dict()",
}


def hint(name: str) -> str:
    """What follows the message for an attribute that is not there; empty where there is nothing to say."""
    where = PARAMETERS if PARAMETER.fullmatch(name) else HABITS.get(name)
    return f": {where}" if where else ""
