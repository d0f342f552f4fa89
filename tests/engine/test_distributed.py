"""Two real processes against one: the same loss, gradients and state, for every method and generator."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pipeline
from pipeline.core.errors import UserError
from pipeline.engine import distributed
from tests import ranks
from tests.methods import contract

REPOSITORY = Path(pipeline.__file__).parent.parent
COMPUTED = [
    *(f"method {name}" for name in contract.METHODS),
    *(f"ddpm {name}" for name in ranks.PREDICTIONS),
    *("gan", "layer beside"),
    *("norm 1", "norm 2", "norm plain", "views", "parts"),
]
PROCESSES = 2


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = ranks.everything(tmp_path_factory.mktemp("alone"))
    torch.set_num_threads(threads)
    return found


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each of the processes found."""
    folder = tmp_path_factory.mktemp("together")
    words = ["-m", "torch.distributed.run", "--nproc-per-node", str(PROCESSES), "-m", "tests.ranks", str(folder)]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env=os.environ,
        stdout=-1,
        stderr=-2,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(PROCESSES)]


def test_everything_is_compared(alone):
    assert set(alone) == set(COMPUTED)
    assert all(any(key.startswith("gradient") for key in alone[name]) for name in COMPUTED if name[0] in "mdg")
    assert {"after queue.keys", "after queue.place"} <= set(alone["method moco"])
    assert any(key.startswith("after momentum_encoder") for key in alone["method byol"])


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPUTED)
def test_every_process_finds_what_one_finds_alone(name, alone, together):
    """To 1e-5 in fp32; gradients as one vector, which another order of rows moves by up to 2e-5, to 5e-5; after three
    steps, which carry differences on, to 5e-4."""
    wanted = alone[name]
    for process in together:
        found = process["computed"][name]
        assert set(found) == set(wanted)
        if vectors := [key for key in wanted if key.startswith("gradient")]:
            there, expected = (torch.cat([x[key].flatten().double() for key in vectors]) for x in (found, wanted))
            assert (there - expected).norm() <= 5e-5 * expected.norm()
        for key in set(wanted) - set(vectors):
            there, expected = (x[key].detach().double() for x in (found, wanted))
            allowed = 5e-4 if key.startswith(("after", "row")) else 1e-5
            assert (there - expected).abs().max() <= allowed * max(1, expected.abs().max()), key


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPUTED)
def test_processes_hold_the_same_bits(name, together):
    first, second = (process["computed"][name] for process in together)
    for key in first:
        if key.startswith(("after", "gradient", "row")) or key == "loss":
            assert torch.equal(first[key], second[key]), key


@pytest.mark.parametrize("name", contract.METHODS)
def test_a_share_alone_has_other_gradients(name, alone):
    """So that a forgotten gather or a batch norm of its own rows would show above."""
    built, wanted = contract.build(name), alone[f"method {name}"]
    found = ranks.gradients(
        built, built.loss([view[:6] for view in contract.views(ranks.N, 0, name)], ranks.LATE)["loss"]
    )
    there, expected = (torch.cat([x[key].flatten() for key in found]) for x in (found, wanted))
    assert (there - expected).norm() > 0.1 * expected.norm()


@pytest.mark.slow
def test_processes_agree_and_each_has_its_share(together):
    assert [process["job"] for process in together] == [
        {
            "number": number,
            "agreed": {"from": 0},
            "anywhere": [True, False],
            "differ": [True, False],
            "apart": [True, False],
            "rows": list(range(6 * number, 6 * number + 6)),
        }
        for number in range(PROCESSES)
    ]


def test_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(UserError, match="a batch of 12 among 5 processes"):
        distributed.share(12)


def test_alone_there_is_nothing_to_do():
    x = [torch.ones(2, requires_grad=True)]
    assert distributed.gather(x)[0] is x[0]
    norm = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    distributed.synchronise(norm)
    assert type(norm[0]) is torch.nn.BatchNorm1d
    assert distributed.share(7) == slice(0, 7, 1)
    assert distributed.agreed("x") == "x"
    assert distributed.anywhere(True)
    assert not distributed.apart([torch.nn.Parameter(torch.ones(1))])


def test_batch_normalisation_with_its_activation_inside_keeps_it():
    """timm's, of MobileNets and others: training, evaluation and running statistics are those of the layer itself."""
    from timm.layers import BatchNormAct2d

    own = BatchNormAct2d(4, inplace=False)
    synchronised = distributed._Synchronised(copy.deepcopy(own))
    x = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    for training in (True, False):
        one, other = own.train(training)(x), synchronised.train(training)(x)
        assert torch.allclose(one, other, atol=1e-6)
        assert one.min() == other.min() == 0
    assert torch.allclose(own.running_var, synchronised.running_var)
