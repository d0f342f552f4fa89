import contextlib
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel

from pipeline.core.errors import Stopped, UserError
from pipeline.engine import checkpoint
from tests.toys import forked

ROWS = [{"step": 2, "loss": 0.1 + 0.2}, {"step": 4, "loss": 1e-300}]


def objects(seed):
    """A module with buffers, its optimiser and its average, after three steps from weights of this seed."""
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.01 * (seed + 1))
    average = EMAModel(module.parameters(), decay=0.9, use_ema_warmup=True, power=0.75, foreach=True)
    found = {"module": module, "optimiser": optimiser, "average": average}
    for _ in range(3):
        advance(found)
    return found


def advance(found):
    found["optimiser"].zero_grad()
    found["module"](torch.linspace(0, 1, 15).reshape(5, 3)).square().mean().backward()
    found["optimiser"].step()
    found["average"].step(found["module"].parameters())


def flat(state):
    """Everything inside nested containers as (place, comparable value)."""
    if isinstance(state, dict):
        return [(f"{k}/{place}", v) for k, child in state.items() for place, v in flat(child)]
    if isinstance(state, list | tuple):
        return [(f"{i}/{place}", v) for i, child in enumerate(state) for place, v in flat(child)]
    return [("", state.detach().numpy().tobytes() if isinstance(state, torch.Tensor) else state)]


def states(found):
    return flat({name: thing.state_dict() for name, thing in found.items()})


def test_module_optimiser_and_average_come_back_bit_for_bit_and_go_on_alike(tmp_path):
    saved, other = objects(0), objects(1)
    checkpoint.save(tmp_path / "c.pt", "work", 3, saved, ROWS)
    assert states(saved) != states(other)
    assert checkpoint.load(tmp_path / "c.pt", "work", other) == (3, ROWS)
    assert states(saved) == states(other)
    advance(saved)
    advance(other)
    assert states(saved) == states(other)


def test_saving_again_gives_the_same_bytes_under_any_name(tmp_path):
    for name in ("a.pt", "longer-name.pt"):
        checkpoint.save(tmp_path / name, "work", 3, objects(0), ROWS)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "longer-name.pt").read_bytes()


def test_no_checkpoint_is_step_zero_and_leaves_the_objects_alone(tmp_path):
    found = objects(0)
    before = states(found)
    assert checkpoint.load(tmp_path / "c.pt", "work", found) == (0, [])
    assert states(found) == before


@pytest.mark.fault(22)
@pytest.mark.parametrize(
    ("fingerprint", "lost"), [("other work", None), ("work", "average")], ids=["fingerprint", "objects"]
)
def test_a_checkpoint_of_other_work_is_refused_and_restores_nothing(tmp_path, fingerprint, lost):
    checkpoint.save(tmp_path / "c.pt", "work", 3, objects(0), ROWS)
    found = objects(1)
    found.pop(lost, None)
    before = states(found)
    with pytest.raises(UserError, match=r"c\.pt: a checkpoint of other work") as caught:
        checkpoint.load(tmp_path / "c.pt", fingerprint, found)
    assert caught.value.code == 2
    assert states(found) == before


@pytest.mark.parametrize("fault", [Stopped("stopped", 15), MemoryError()])
def test_an_order_to_stop_and_a_lack_of_memory_are_no_fault_of_the_checkpoint(tmp_path, monkeypatch, fault):
    def broken_off(*arguments, **named):
        raise fault

    checkpoint.save(tmp_path / "c.pt", "work", 3, objects(0), ROWS)
    monkeypatch.setattr(checkpoint.torch, "load", broken_off)
    with pytest.raises(type(fault)):
        checkpoint.load(tmp_path / "c.pt", "work", objects(0))


@pytest.mark.fault(8)
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.7, 0.99, 0.9999])
def test_a_truncated_checkpoint_is_refused(tmp_path, share):
    path = tmp_path / "c.pt"
    checkpoint.save(path, "work", 3, objects(0), ROWS)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"c\.pt: not a readable checkpoint"):
        checkpoint.load(path, "work", objects(0))


def test_with_a_bit_flipped_anywhere_it_is_refused_or_restores_what_was_saved(tmp_path):
    """torch.load itself reads a flipped bit in a tensor without a word."""
    path, saved = tmp_path / "c.pt", objects(0)
    checkpoint.save(path, "work", 3, saved, ROWS)
    content, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    weights = content.index(saved["module"][0].weight.detach().numpy().tobytes())
    for place in [weights, weights + 5, *random.integers(0, len(content), 150)]:
        harmed = bytearray(content)
        harmed[place] ^= 1 << int(random.integers(8))
        path.write_bytes(harmed)
        found = objects(1)
        try:
            restored = checkpoint.load(path, "work", found)
        except UserError:
            refused += 1
        else:
            assert restored == (3, ROWS), place
            assert states(found) == states(saved), place
            assert place not in (weights, weights + 5)
    assert refused > 20


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.marker}",)


@pytest.mark.fault(21)
@pytest.mark.parametrize("form", ["bare pickle", "torch archive"])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, form):
    marker, path = tmp_path / "marker", tmp_path / "c.pt"
    content = {"fingerprint": "work", "step": 1, "rows": [], "states": {"module": Evil(marker)}}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        checkpoint.load(path, "work", {"module": torch.nn.Linear(1, 1)})
    assert not marker.exists()
    with contextlib.suppress(RuntimeError):
        torch.load(path, weights_only=False)  # which would have run it
    assert marker.exists()


@pytest.mark.parametrize("content", [{}, [1], {"states": {}}, {"states": 3, "fingerprint": "work"}], ids=str)
def test_a_torch_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(UserError, match="checkpoint"):
        checkpoint.load(tmp_path / "c.pt", "work", objects(0))


def save_and_die(path, when):
    """A checkpoint of step 1, and the end while that of step 2 is written or gets its name."""

    def die(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    module = torch.nn.Linear(3, 3)
    with torch.no_grad():
        module.weight.fill_(1.0)
    checkpoint.save(path, "work", 1, {"module": module}, [])
    with torch.no_grad():
        module.weight.fill_(2.0)
    if when == "rename":
        os.replace = die
    else:
        write = Path.write_bytes
        Path.write_bytes = lambda self, data: (write(self, bytes(data)[:700]), die())
    checkpoint.save(path, "work", 2, {"module": module}, [])


@pytest.mark.fault(5)
@pytest.mark.parametrize("when", ["write", "rename"])
def test_killed_while_saving_it_leaves_the_checkpoint_before(tmp_path, when):
    path = tmp_path / "c.pt"
    child = forked(save_and_die, path, when)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    module = torch.nn.Linear(3, 3)
    assert checkpoint.load(path, "work", {"module": module}) == (1, [])
    assert (module.weight == 1).all()
    checkpoint.save(path, "work", 3, {"module": module}, [])
    assert checkpoint.load(path, "work", {"module": module})[0] == 3
