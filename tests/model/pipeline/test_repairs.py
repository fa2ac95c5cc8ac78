import sys

import pytest

from hcflow_arch import basicsr_import
from hcflow_model.pipeline.repairs import replaced


def test_version_is_that_of_the_basicsr_that_would_be_imported(tmp_path, monkeypatch):
    """It has no metadata, and is not imported."""
    (tmp_path / 'basicsr').mkdir()
    (tmp_path / 'basicsr' / '__init__.py').write_text('raise RuntimeError')
    (tmp_path / 'basicsr' / 'version.py').write_text("__version__ = '9.8.7'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'basicsr')
    assert basicsr_import.basicsr_version() == '9.8.7'


@pytest.mark.parametrize('error', [None, KeyError, KeyboardInterrupt])
def test_replaced_values_come_back(error):
    class Owner:
        first, second = 1, 2

    try:
        with replaced([(Owner, 'first', 3), (Owner, 'second', 4), (Owner, 'first', 5)]):
            assert (Owner.first, Owner.second) == (5, 4)
            if error:
                raise error
    except BaseException as raised:
        assert type(raised) is error
    assert (Owner.first, Owner.second) == (1, 2)
    with pytest.raises(AttributeError, match='none'), replaced([(Owner, 'first', 3), (Owner, 'none', 4)]):
        pass
    assert Owner.first == 1 and not hasattr(Owner, 'none')
