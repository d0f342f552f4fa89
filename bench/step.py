"""One SimCLR step of the real loop, from data to update, against the bare network on a tensor that lies in memory.

python -m bench step

Bare is what no trainer can do without: forward, loss, backward, optimiser of the same network on two views that were
made beforehand. What ours adds: drawing the batch, making the views, measuring the gradient's norm, keeping the log,
watching for values that are not finite, and one checkpoint at the end of the run.
"""

import torch

from bench import pairs
from bench.pretrain import HEAD, RATE, STEPS, Ours, encoder
from bench.views import images
from pipeline.engine import arithmetic, loop
from pipeline.methods import simclr
from pipeline.training import encoder as training


class Bare:
    """As many eager steps of the same network, in the same arithmetic."""

    def __init__(self, views: list[torch.Tensor], width: int, compute):
        self.views, self.width, self.compute = views, width, compute

    def __call__(self) -> None:
        method = simclr.SimCLR.build(HEAD, encoder(self.width), 0).train()
        optimiser = torch.optim.SGD(method.parameters(), lr=RATE, momentum=0.9, fused=True)
        for _ in range(STEPS[self.width]):
            with arithmetic.autocast(self.compute):
                loss = method.loss(self.views, 0)["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def same_update(ours: Ours, compute) -> None:
    """One step of the loop and one bare step on its views leave the same weights."""
    a, b = (simclr.SimCLR.build(HEAD, encoder(ours.width), 0).train() for _ in range(2))
    (phase,) = a.phases()
    plan = loop.Optimisation(ours.schedule, lambda groups, lr: training.optimiser(ours.schedule, groups, lr))
    views = ours.batch(0)
    loop._update(phase, loop._optimiser(phase, plan), [views], 0, plan, compute)
    with arithmetic.autocast(compute):
        loss = b.loss(views, 0)["loss"]
    loss.backward()
    torch.optim.SGD(b.parameters(), RATE, momentum=0.9, fused=True).step()
    for one, two in zip(a.parameters(), b.parameters(), strict=True):
        if not torch.equal(one, two):
            raise SystemExit("step: weights differ after one step: not the same work")


def rows() -> list[pairs.Row]:
    """Two widths: the wider the network, the less the rest weighs."""
    compute = pairs.setting().compute
    pixels, found = images(), []
    for width, target in ((32, 1.05), (16, 1.10)):
        ours = Ours(pixels, width, compute)
        same_update(ours, compute)
        note = f"width {width}, {STEPS[width]} steps of {ours.schedule.batch_size}, {compute.precision}"
        bare = Bare(ours.batch(0), width, compute)
        found.append(pairs.compare(f"step, width {width}", ours, bare, target, at_most=True, pairs=9, note=note))
    return found
