"""How many bad inputs the files before this one have tried."""

import pytest
from bad_inputs import TRIED


def test_at_least_two_thousand_inputs_were_tried():
    if TRIED["inputs"] < 1000:
        pytest.skip("the other tests of bad input did not run")
    assert TRIED["inputs"] >= 2000, TRIED
    assert TRIED["errors"] >= 1000
