"""What only a GPU can show: the first rung of `python -m bench.gpu` at sizes that take no time."""

import pytest
import torch

from bench.gpu import works
from bench.gpu.rung import Setting

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.mark.parametrize("check", works.CHECKS, ids=lambda check: check.__name__)
def test_a_check_of_the_first_rung_passes(check):
    check(Setting("cuda", toy=True))
