"""What several tests of flows need."""

from collections.abc import Iterator

import pytest

from tests.support.services import named, prefect_api


@pytest.fixture
def server() -> Iterator[None]:
    """This process's environment and settings name the shared server, as PREFECT_API_URL does for a command."""
    with named(prefect_api()):
        yield
