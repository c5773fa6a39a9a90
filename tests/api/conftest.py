"""What the tests of the Python surface share."""

import pytest
from kinds import KINDS


@pytest.fixture(params=KINDS)
def kind(request):
    """The name of a kind of layer and cell (support/kinds.py)."""
    return request.param
