import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import sys
import time
from functools import partial

import pytest
import torch

from pipeline.core import seeds
from pipeline.core.errors import DIVERGED, Stopped, UserError
from pipeline.engine import checkpoint, loop
from pipeline.params.schema import Compute, Training
from tests.toys import COMPUTE, forked


def schedule(**changes):
    given = {"steps": 17, "batch_size": 4, "lr": 0.1, "warmup_steps": 4, "weight_decay": 0.01}
    return Training(
        **given | {"log_every": 4, "checkpoint_every": 3, "seed": 0, "min_lr": 0.0, "warmup_lr": None} | changes
    )


def sgd(groups, lr):
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


class Crash(Exception):
    pass


class Toy:
    """A small network with batch statistics and dropout, a record of the steps it took, and faults at given steps."""

    def __init__(self, faults=None):
        with seeds.scope(0, "toy"):
            self.net = torch.nn.Sequential(
                torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1)
            )
        self.taken, self.evaluated, self.faults = [], [], faults or {}
        self.task = loop.Task(
            phases=[loop.Phase(loop.groups_of(self.net), self.loss)],
            batch=lambda step: torch.randn(4, 3, generator=seeds.generator(0, "toy-data", step)),
            objects={"net": self.net},
            evaluate=self.evaluate,
        )

    def loss(self, x, step):
        fault = self.faults.pop(step, None)
        factor = fault() if fault else 1.0
        with seeds.scope(0, "toy-dropout", step):
            error = (self.net(x) - x.sum(dim=1, keepdim=True)).square().mean()
        self.taken.append(step)
        return {"loss": factor * error, "size": x.abs().max()}

    def evaluate(self, step):
        self.evaluated.append(step)
        return {"measured": self.net[0].weight.sum().item()}

    def train(self, folder, build=sgd, clip=None, evaluate_every=None, **changes):
        plan = loop.Optimisation(schedule(**changes), build, clip, evaluate_every)
        return loop.train("toy", self.task, plan, COMPUTE, folder, "work")

    def bits(self):
        return {name: value.numpy().tobytes() for name, value in self.net.state_dict().items()}


def crash():
    raise Crash


def test_the_rate_climbs_linearly_and_falls_along_half_a_cosine():
    plan = schedule(lr=0.8, warmup_steps=4, steps=14)
    rates = [loop.learning_rate(plan, step) for step in range(14)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert rates[9] == pytest.approx(0.4)  # half way down, five of ten steps
    assert rates[13] == pytest.approx(0.8 * (1 - math.sin(math.radians(72))) / 2)  # cos 162 = -sin 72
    assert all(a > b > 0 for a, b in itertools.pairwise(rates[4:]))


def test_without_warm_up_the_first_rate_is_the_whole_one():
    assert loop.learning_rate(schedule(warmup_steps=0), 0) == 0.1


def test_the_rate_ends_where_it_is_told_to_and_is_constant_where_that_is_where_it_starts():
    plan = schedule(lr=0.8, min_lr=0.2, warmup_steps=4, steps=14)
    rates = [loop.learning_rate(plan, step) for step in range(14)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert rates[9] == pytest.approx(0.5)  # half way from .8 to .2
    assert rates[13] == pytest.approx(0.2 + 0.6 * (1 - math.sin(math.radians(72))) / 2)
    constant = schedule(lr=0.8, min_lr=0.8, warmup_steps=4, steps=14)
    assert [loop.learning_rate(constant, step) for step in range(3, 14)] == [0.8] * 11


def test_the_warm_up_starts_where_it_is_told_to():
    """solo-learn's: the first step has the start, the last of the warm-up the whole rate, and so has the next."""
    plan = schedule(lr=0.8, warmup_lr=0.2, warmup_steps=4, steps=14)
    assert [loop.learning_rate(plan, step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    plan = schedule(lr=0.8, warmup_lr=0.5, warmup_steps=4, steps=14)
    assert [loop.learning_rate(plan, step) for step in range(5)] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.8])
    assert loop.learning_rate(schedule(lr=0.8, warmup_lr=0.5, warmup_steps=1), 0) == 0.5


def test_a_constant_group_keeps_its_rate_while_the_others_follow_the_schedule(tmp_path):
    """Plain SGD on losses whose gradient is 1: each moves by the sum of its rates."""
    moving, constant = (torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(2))
    groups = [loop.Group([moving]), loop.Group([constant], lr_factor=3.0, constant=True)]
    phase = loop.Phase(groups, lambda batch, step: {"loss": moving.sum() + constant.sum()})
    plan = schedule(lr=0.1, warmup_steps=2, steps=7, weight_decay=0.0)
    task = loop.Task([phase], lambda step: None, {})
    loop.train(
        "toy", task, loop.Optimisation(plan, lambda groups, lr: torch.optim.SGD(groups, lr)), COMPUTE, tmp_path, "w"
    )
    assert moving[0, 0].item() == pytest.approx(-sum(loop.learning_rate(plan, step) for step in range(7)), rel=1e-6)
    assert constant[0, 0].item() == pytest.approx(-7 * 0.3, rel=1e-6)


ADAM = {"build": lambda groups, lr: torch.optim.AdamW(groups, lr)}


@pytest.mark.parametrize("options", [{}, ADAM, {"evaluate_every": 8}], ids=["sgd", "adamw", "evaluated"])
@pytest.mark.parametrize("faults", [[1], [4, 5], [3, 9, 16], [2, 3, 6, 7, 8, 12]], ids=str)
def test_any_chain_of_crashes_ends_with_the_bits_and_rows_of_one_run(tmp_path, faults, options):
    straight = Toy()
    rows = straight.train(tmp_path / "straight", **options)
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 17]
    executed, expected, start = [], [], 0
    for fault in faults:
        toy = Toy({fault: crash})
        with pytest.raises(Crash):
            toy.train(tmp_path / "chain", **options)
        executed += toy.taken
        expected += range(start, fault)
        start = fault // 3 * 3  # back to the last checkpoint, and no farther
    last = Toy()
    assert last.train(tmp_path / "chain", **options) == rows
    assert last.bits() == straight.bits()
    assert executed + last.taken == [*expected, *range(start, 17)]


def test_a_finished_run_is_found_and_no_step_is_taken(tmp_path):
    first, again = Toy(), Toy()
    rows = first.train(tmp_path)
    assert again.train(tmp_path) == rows
    assert again.taken == []
    assert again.bits() == first.bits()


def test_a_row_holds_the_means_since_the_row_before_and_the_rate_of_its_last_step(tmp_path):
    seen = []
    toy = Toy()
    inner = toy.loss

    def spying(x, step):
        values = inner(x, step)
        seen.append({name: float(value.detach()) for name, value in values.items()})
        return values

    toy.task.phases[0].loss = spying
    rows = toy.train(tmp_path)
    for row, first, last in zip(rows, (0, 4, 8, 12, 16), (4, 8, 12, 16, 17), strict=True):
        for name in ("loss", "size"):
            assert row[name] == pytest.approx(sum(s[name] for s in seen[first:last]) / (last - first), rel=1e-6)
        assert row["lr"] == loop.learning_rate(schedule(), last - 1)


def test_measurements_join_their_rows_and_the_last(tmp_path):
    toy = Toy()
    rows = toy.train(tmp_path, evaluate_every=8)
    assert toy.evaluated == [8, 16, 17]
    assert ["measured" in row for row in rows] == [False, True, False, True, True]


@pytest.mark.fault(14)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [7, 8, 16])
def test_a_loss_that_is_not_finite_stops_the_run_and_the_checkpoint_before_it_stays(tmp_path, step, value):
    straight = Toy()
    straight.train(tmp_path / "straight")
    toy = Toy({step: lambda: value})
    with pytest.raises(UserError, match="loss, gradient_norm not finite") as caught:
        toy.train(tmp_path / "run")
    assert caught.value.code == DIVERGED
    assert "checkpoint.pt" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert toy.taken[-1] <= step + 2  # at the next row or checkpoint, of which one comes within three steps
    kept = {"net": Toy().net, "optimiser-0": sgd(loop._torch_groups(Toy().task.phases[0].groups, 0.0), 0.1)}
    done, _ = checkpoint.load(tmp_path / "run" / "checkpoint.pt", "work", kept | {"meter": loop.Meter()})
    assert done == step // 3 * 3
    assert all(torch.isfinite(value).all() for value in kept["net"].state_dict().values())
    mended = Toy()
    mended.train(tmp_path / "run")
    assert mended.bits() == straight.bits()


@pytest.mark.fault(14)
def test_a_gradient_that_is_not_finite_stops_the_run_where_the_loss_is_finite(tmp_path):
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    task = loop.Task(
        phases=[loop.Phase([loop.Group([weight])], lambda batch, step: {"loss": weight.abs().sqrt().sum()})],
        batch=lambda step: None,
        objects={},
    )
    with pytest.raises(UserError, match=r"gradient_norm not finite.*no checkpoint yet") as caught:
        loop.train("toy", task, loop.Optimisation(schedule(), sgd), COMPUTE, tmp_path, "work")
    assert caught.value.code == DIVERGED
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.fault(14)
@pytest.mark.parametrize(("step", "kept"), [(2, 0), (16, 15)])  # at the first checkpoint, at the end
def test_an_update_that_breaks_the_weights_is_never_saved(tmp_path, step, kept):
    toy = Toy()

    def build(groups, lr):
        optimiser = sgd(groups, lr)

        def broken(*_):
            if toy.taken[-1] == step:
                toy.net[3].weight.data[0, 5] = math.inf

        optimiser.register_step_post_hook(broken)
        return optimiser

    with pytest.raises(UserError, match=f"weights not finite after step {step + 1}") as caught:
        toy.train(tmp_path, build=build)
    assert caught.value.code == DIVERGED
    path = tmp_path / "checkpoint.pt"
    assert (torch.load(path, weights_only=True)["step"] if path.exists() else 0) == kept


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_in_hand_with_a_checkpoint(tmp_path, number):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    toy = Toy({7: lambda: os.kill(os.getpid(), number) or 1.0})
    with pytest.raises(Stopped, match="stopped after step 8; run the same command to go on") as caught:
        toy.train(tmp_path / "run")
    assert caught.value.signum == number
    assert toy.taken == list(range(8))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    straight, rest = Toy(), Toy()
    rows = straight.train(tmp_path / "straight")
    assert rest.train(tmp_path / "run") == rows
    assert rest.taken == list(range(8, 17))
    assert rest.bits() == straight.bits()


def test_a_signal_in_the_last_step_lets_the_run_finish(tmp_path):
    toy = Toy({16: lambda: os.kill(os.getpid(), signal.SIGTERM) or 1.0})
    assert toy.train(tmp_path)[-1]["step"] == 17


def slow(folder, told):
    """A tenth of a second a step; each is told before it is taken, and the last one when a signal stopped it."""

    def tell(step):
        told.send(step)
        time.sleep(0.1)
        return 1.0

    toy = Toy({step: partial(tell, step) for step in range(17)})
    try:
        toy.train(folder)
    except Stopped as stop:
        told.send(toy.taken[-1])
        sys.exit(128 + stop.signum)


@pytest.mark.fault(6)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_was_signalled_goes_on_to_the_same_bits(tmp_path, number):
    heard, told = multiprocessing.Pipe(duplex=False)
    child = forked(slow, tmp_path / "run", told)
    told.close()
    while heard.recv() != 7:
        pass
    os.kill(child.pid, number)
    child.join()
    if number == signal.SIGTERM:
        assert child.exitcode == 143
        with contextlib.suppress(EOFError):
            while True:
                stopped = heard.recv()
        assert 7 <= stopped < 16
        start = stopped + 1
    else:
        assert child.exitcode == -9
        start = None
    straight, rest = Toy(), Toy()
    rows = straight.train(tmp_path / "straight")
    assert rest.train(tmp_path / "run") == rows
    assert rest.bits() == straight.bits()
    assert rest.taken[0] == (6 if start is None else start)


def test_phases_update_in_turn_each_after_the_others_last_update(tmp_path):
    """f = a b; a goes down, then b goes up where a now is. The numbers are worked out in plain floats."""
    a, b = torch.nn.Parameter(torch.tensor([1.0]).double()), torch.nn.Parameter(torch.tensor([2.0]).double())
    moves = []

    def first(batch, step):
        moves.append(("a", step))
        return {"loss": (a * b).sum(), "only_first": (a + 10).sum()}

    def second(batch, step):
        moves.append(("b", step))
        return {"loss": -(a * b).sum(), "only_second": (b + 20).sum()}

    task = loop.Task(
        phases=[loop.Phase([loop.Group([a])], first), loop.Phase([loop.Group([b], lr_factor=0.5)], second)],
        batch=lambda step: None,
        objects={"both": torch.nn.ParameterList([a, b])},
    )
    plan = loop.Optimisation(schedule(steps=6, log_every=3, weight_decay=0.0), torch.optim.SGD)
    rows = loop.train("game", task, plan, COMPUTE, tmp_path, "work")
    assert moves == [(phase, step) for step in range(6) for phase in "ab"]
    x, y, seen = 1.0, 2.0, []
    for step in range(6):
        rate = loop.learning_rate(plan.schedule, step)
        seen.append([x + 10])
        x -= rate * y
        seen[-1].append(y + 20)
        y += 0.5 * rate * x
    assert a.item() == pytest.approx(x, rel=1e-12)
    assert b.item() == pytest.approx(y, rel=1e-12)
    for row, three in zip(rows, (seen[:3], seen[3:]), strict=True):
        assert row["only_first"] == pytest.approx(sum(s[0] for s in three) / 3)
        assert row["only_second"] == pytest.approx(sum(s[1] for s in three) / 3)


class Game:
    """A phase of the schedule, and one in steps 4, 6, 8, ... with Adam at a constant rate."""

    def __init__(self, crash_at=None):
        self.a, self.b = (torch.nn.Parameter(torch.tensor([[v]])) for v in (1.0, 2.0))
        self.moves, self.crash_at = [], crash_at
        adam = partial(torch.optim.Adam, lr=0.05, betas=(0.0, 0.9))
        due = lambda step: step >= 4 and step % 2 == 0  # noqa: E731
        second = loop.Phase([loop.Group([self.b])], self.second, "second", due, adam)
        self.task = loop.Task(
            phases=[second, loop.Phase([loop.Group([self.a])], self.first)],
            batch=lambda step: None,
            objects={"both": torch.nn.ParameterList([self.a, self.b])},
        )

    def first(self, batch, step):
        self.moves.append(("a", step))
        if step == self.crash_at:
            raise Crash
        return {"loss": (self.a * self.b).sum()}

    def second(self, batch, step):
        self.moves.append(("b", step))
        return {"loss": (self.b - self.a).square().sum() * step, "apart": (self.b - self.a).sum()}

    def train(self, folder):
        plan = loop.Optimisation(schedule(steps=9, log_every=3, checkpoint_every=2, weight_decay=0.1), sgd)
        return loop.train("game", self.task, plan, COMPUTE, folder, "work")

    def bits(self):
        return [p.detach().numpy().tobytes() for p in (self.a, self.b)]


def test_a_phase_with_another_optimizer_is_updated_when_it_is_due(tmp_path):
    """Adam without momentum, by hand: b moves by rate x g / sqrt(v / (1 - .9^k)); no decay, no schedule, no clip."""
    game = Game()
    rows = game.train(tmp_path)
    assert [step for phase, step in game.moves if phase == "a"] == list(range(9))
    assert [step for phase, step in game.moves if phase == "b"] == [4, 6, 8]
    a, b, speed, v, k = 1.0, 2.0, 0.0, 0.0, 0
    for step in range(9):
        if step in (4, 6, 8):
            gradient, k = 2 * step * (b - a), k + 1
            v = 0.9 * v + 0.1 * gradient**2
            b -= 0.05 * gradient / ((v / (1 - 0.9**k)) ** 0.5 + 1e-8)
        speed = 0.9 * speed + b + 0.1 * a
        a -= loop.learning_rate(schedule(steps=9), step) * speed
    assert game.a.item() == pytest.approx(a, rel=1e-5)
    assert game.b.item() == pytest.approx(b, rel=1e-5)
    own = {"second_loss", "second_apart", "second_gradient_norm"}
    assert [own <= set(row) for row in rows] == [False, True, True]
    assert all({"loss", "gradient_norm"} <= set(row) for row in rows)


@pytest.mark.parametrize("crashes", [[3], [5, 7], [4, 6, 8]], ids=str)
def test_a_game_goes_on_from_any_crash_to_the_same_bits(tmp_path, crashes):
    straight = Game()
    rows = straight.train(tmp_path / "straight")
    for crash_at in crashes:
        with pytest.raises(Crash):
            Game(crash_at).train(tmp_path / "chain")
    last = Game()
    assert last.train(tmp_path / "chain") == rows
    assert last.bits() == straight.bits()


def test_vectors_have_no_weight_decay_and_matrices_have_it(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 4))
    for parameter in net.parameters():
        torch.nn.init.ones_(parameter)
    task = loop.Task(
        phases=[
            loop.Phase(loop.groups_of(net), lambda batch, step: {"loss": sum(0 * p.sum() for p in net.parameters())})
        ],
        batch=lambda step: None,
        objects={"net": net},
    )
    plan = loop.Optimisation(schedule(steps=1, warmup_steps=0, lr=0.1, weight_decay=0.5), torch.optim.SGD)
    loop.train("toy", task, plan, COMPUTE, tmp_path, "work")
    left = {name: p.detach().flatten() for name, p in net.named_parameters()}
    shrunk = {"0.weight", "2.weight"}
    assert set(left) == shrunk | {"0.bias", "1.weight", "1.bias", "2.bias"}
    for name, values in left.items():
        assert values.tolist() == pytest.approx([0.95 if name in shrunk else 1.0] * len(values)), name


def test_clipping_bounds_the_step_and_the_row_holds_the_norm_before_it(tmp_path):
    weight = torch.nn.Parameter(torch.zeros(1, 2))
    slope = torch.tensor([[30.0, 40.0]])
    task = loop.Task(
        phases=[loop.Phase([loop.Group([weight])], lambda batch, step: {"loss": (slope * weight).sum()})],
        batch=lambda step: None,
        objects={},
    )
    plan = loop.Optimisation(schedule(steps=1, warmup_steps=0, weight_decay=0.0), torch.optim.SGD, clip=5.0)
    (row,) = loop.train("toy", task, plan, COMPUTE, tmp_path, "work")
    assert row["gradient_norm"] == pytest.approx(50.0)
    assert weight.detach().tolist() == [pytest.approx([-0.3, -0.4], rel=1e-5)]  # 0.1 x 5 along the slope


def test_hooks_see_the_step_and_the_share_of_the_run(tmp_path):
    toy, before, after = Toy(), [], []
    toy.task.before_step = lambda step, progress: before.append((step, progress))
    toy.task.after_step = lambda step, progress: after.append((step, progress))
    toy.train(tmp_path, steps=5, warmup_steps=1)
    assert before == [(i, i / 5) for i in range(5)]
    assert after == [(i, (i + 1) / 5) for i in range(5)]


def test_another_works_checkpoint_is_refused_before_a_step_is_taken(tmp_path):
    Toy().train(tmp_path)
    toy = Toy()
    with pytest.raises(UserError, match="other work"):
        loop.train("toy", toy.task, loop.Optimisation(schedule(), sgd), COMPUTE, tmp_path, "elsewhere")
    assert toy.taken == []


def test_the_forward_pass_runs_in_the_named_arithmetic(tmp_path):
    kinds = []
    weight = torch.nn.Parameter(torch.ones(2, 2))

    def loss(batch, step):
        product = weight @ weight
        kinds.append(product.dtype)
        return {"loss": product.float().sum()}

    for precision in ("fp32", "bf16"):
        task = loop.Task([loop.Phase([loop.Group([weight])], loss)], lambda step: None, {})
        compute = Compute(device="cpu", precision=precision, threads=1, compile=False)
        plan = loop.Optimisation(schedule(steps=1, warmup_steps=0), sgd)
        loop.train("toy", task, plan, compute, tmp_path / precision, "work")
    assert kinds == [torch.float32, torch.bfloat16]
    assert weight.dtype == torch.float32


def test_the_bar_has_room_for_the_loss_and_the_first_measure(tmp_path, capsys):
    """In a log of 100 columns; the measure stays until there is a new one."""
    toy = Toy()
    toy.task.evaluate = lambda step: {"validation_knn": 79.5, "feature_spread": 0.5}
    plan = loop.Optimisation(schedule(steps=680, lr=1e-4, log_every=5, checkpoint_every=680), sgd, None, 340)
    seen = []
    what = "pretraining (barlow_twins)"
    rows = loop.train(what, toy.task, plan, COMPUTE, tmp_path, "work", lambda rows: seen.append(len(rows)))
    last = capsys.readouterr().err.split("\r")[-1].rstrip()
    assert "680/680" in last
    assert last.endswith(", knn=79.5]")
    assert ", loss=" in last
    assert len(last) <= 100
    assert seen == list(range(1, len(rows) + 1))


def test_what_draws_from_the_global_generator_draws_the_same_when_resumed(tmp_path):
    """As networks of timm that leave out blocks by chance."""

    class Wild(Toy):
        def loss(self, x, step):
            if step in self.faults:
                self.faults.pop(step)()
            self.taken.append(step)
            return {"loss": (self.net(x) - x.sum(dim=1, keepdim=True)).square().mean()}

    whole, broken, again = Wild(), Wild({8: crash}), Wild()
    whole.train(tmp_path / "whole", lr=0.01)
    torch.rand(3)  # another program's draws
    with pytest.raises(Crash):
        broken.train(tmp_path / "broken", lr=0.01)
    again.train(tmp_path / "broken", lr=0.01)
    assert again.taken[0] > 0
    assert again.bits() == whole.bits()
