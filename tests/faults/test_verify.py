"""`make verify`, with fewer kills; and that it would notice a byte."""

import pytest

from tests.faults import verify
from tests.pipeline import clones


@pytest.mark.slow
@pytest.mark.fault(32)
def test_two_runs_have_the_same_bytes_whatever_happens_to_the_second(base, tmp_path):
    found = verify.verify(base.clone, base.seconds, kills=2, seed=0, place=tmp_path)
    assert found.different == []
    assert 1 <= found.kills == found.runs - 1
    assert found.files > 30
    assert found.bytes > 5_000_000


def test_a_byte_and_a_file_that_one_run_lacks_are_noticed(base, tmp_path):
    other = clones.copy(base.clone, tmp_path / "clone")
    assert verify.compare(base.clone, other) == []
    path = other / "data/generated/inflation/shard-00001.h5"
    harmed = bytearray(path.read_bytes())
    harmed[-1] ^= 1
    path.write_bytes(harmed)
    (other / "metrics/pretrain.json").unlink()
    assert verify.compare(base.clone, other) == ["data/generated/inflation/shard-00001.h5", "metrics/pretrain.json"]
