"""`make verify`, with fewer kills; and that it would notice a byte."""

import pytest

from tests.faults import verify
from tests.pipeline import clones


@pytest.mark.slow
@pytest.mark.fault(32)
def test_two_runs_have_the_same_bytes_whatever_happens_to_the_second(small, tmp_path, request):
    odd = clones.copy(small, tmp_path / verify.ODD_NAME)
    assert 1 <= verify.again(odd, seconds=45, kills=2, seed=0) <= 2
    base = request.getfixturevalue("base")  # which another worker may make meanwhile
    assert len(verify.digests(base.clone)) > 30
    assert verify.compare(base.clone, odd) == []


def test_a_byte_and_a_file_that_one_run_lacks_are_noticed(base, tmp_path):
    other = clones.copy(base.clone, tmp_path / "clone")
    assert verify.compare(base.clone, other) == []
    path = other / "data/generated/inflation/shard-00001.h5"
    harmed = bytearray(path.read_bytes())
    harmed[-1] ^= 1
    path.write_bytes(harmed)
    (other / "metrics/pretrain.json").unlink()
    assert verify.compare(base.clone, other) == ["data/generated/inflation/shard-00001.h5", "metrics/pretrain.json"]
