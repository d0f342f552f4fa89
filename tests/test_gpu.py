"""What only a GPU can show: the first rung of `python -m bench.gpu` at sizes that take no time."""

import pytest
import torch

from bench.gpu import works
from bench.gpu.rung import Setting
from pipeline.engine import arithmetic

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.fixture(autouse=True)
def prepared():
    """Deterministic kernels and fp32 that is fp32, as every stage has them."""
    threads = torch.get_num_threads()
    arithmetic.prepare(Setting("cuda", toy=True).compute("fp32"))
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("check", works.CHECKS, ids=lambda check: check.__name__)
def test_a_check_of_the_first_rung_passes(check):
    check(Setting("cuda", toy=True))
