import pytest
import torch

from pipeline.engine import arithmetic
from tests.toys import COMPUTE


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """A store of the test's own, and one thread: the bits depend on their number."""
    before = torch.get_num_threads()
    arithmetic.prepare(COMPUTE)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "store"))
    yield tmp_path / "store"
    torch.set_num_threads(before)
