"""Weights into a network: fitting ones bit for bit, others not at all, and nothing is taken before that is known."""

import re

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core import weights
from pipeline.core.errors import UserError


def network():
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    made = network()
    made[1](made[0](torch.randn(5, 3)))  # statistics of its own
    save_file(made.state_dict(), tmp_path / "w.safetensors")
    return made, tmp_path / "w.safetensors"


def test_fitting_weights_come_back_bit_for_bit(saved):
    made, path = saved
    found = weights.load(path, network)
    assert all(torch.equal(found.state_dict()[name], value) for name, value in made.state_dict().items())


@pytest.mark.fault(22)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"0.weight": torch.zeros(2, 4)}, r"0\.weight is \(2, 4\), not \(2, 3\)"),
        ({"more": torch.zeros(1)}, r"more is \(1,\), not wanted"),
        ({"0.weight": torch.zeros(2, 3, dtype=torch.int8)}, r"0\.weight is \(2, 3\) of whole numbers, not \(2, 3\)"),
        ({"1.num_batches_tracked": torch.zeros(())}, r"is \(\), not \(\) of whole numbers"),
        ({"a\nb\u2028c": torch.zeros(1)}, r"a\\nb\\u2028c is"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line_and_nothing_is_built(saved, change, says):
    made, path = saved
    save_file(made.state_dict() | change, path)
    built = []

    def build():
        built.append(network())
        return built[-1]

    with pytest.raises(UserError, match="do not fit") as caught:
        weights.load(path, build)
    assert [next(one.parameters()).device.type for one in built] == ["meta"]
    assert len(str(caught.value).splitlines()) == 1
    assert re.search(says, str(caught.value))


def test_missing_ones_are_counted_and_three_are_named(saved):
    _, path = saved
    save_file({}, path)
    with pytest.raises(UserError, match=r"0\.bias is missing.*; 0\.weight .*; 1\.bias .* and 4 more"):
        weights.load(path, network)


def test_a_lack_of_memory_is_no_fault_of_the_file(saved):
    _, path = saved

    def build():
        if torch.empty(0).device.type == "meta":
            return network()
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        weights.load(path, build)
