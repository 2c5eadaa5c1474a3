import pytest

from tests.support.toy_pipelines import run_toy, write_toy
from tests.support.toys import store_at


@pytest.fixture
def store(tmp_path):
    return store_at(tmp_path / "store", tmp_path / "cache")


@pytest.fixture
def path(tmp_path):
    return write_toy(tmp_path / "specs")


@pytest.fixture
def toy_run(store, path):
    """A run of the toy pipeline that succeeded."""
    return run_toy(store, path)
