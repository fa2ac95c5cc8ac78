import pytest
from preparing import write_images


@pytest.fixture
def photos(tmp_path):
    return write_images(tmp_path / 'photos')
