import importlib
import subprocess
import sys
import warnings

import pytest

from relgrounding import _moved, datasets, features, io


def test_old_names_work_and_say_where_they_are_now():
    from relgrounding import data

    now = {*datasets.__all__, *features.__all__, *io.__all__}
    assert data.__all__ == sorted(name for name in _moved.NAMES["relgrounding.data"] if name in now)
    assert {*io.__all__, "Query", "RegionFeatures"} < set(data.__all__)
    for name in data.__all__:
        with pytest.warns(DeprecationWarning, match=rf"relgrounding\.data\.{name} is now relgrounding\.\w+\.{name}$"):
            found = getattr(data, name)
        assert any(getattr(home, name, None) is found for home in (io, datasets, features))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = data.nothing


@pytest.mark.parametrize("old", sorted(_moved.MODULES))
def test_old_modules_lead_to_the_new_ones(old):
    new = importlib.import_module(_moved.MODULES[old])
    name = new.__all__[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert getattr(importlib.import_module(old), name) is getattr(new, name)


def test_an_old_import_statement_works():
    code = (
        "from relgrounding.inference import Grounder\nfrom relgrounding.data.scenes import make_scenes\nprint(Grounder)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "relgrounding.predictor.Grounder" in done.stdout
