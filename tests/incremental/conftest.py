import pytest

from tests.system.raw import open_raw


@pytest.fixture
def raw(store_uri):
    """The contents of the store of the test's savers."""
    opened = open_raw(store_uri)
    yield opened
    opened.close()
