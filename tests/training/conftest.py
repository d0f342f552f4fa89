import pytest


@pytest.fixture(autouse=True)
def _own_store(store):
    """In each test of these files."""
