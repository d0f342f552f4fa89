"""What single changes are worth, each against the same work without it (reported, no target).

python -m bench.changes
"""

from collections.abc import Callable

import torch

from bench import pairs, sample, views
from bench.ddpm_train import gray
from pipeline.engine import arithmetic
from pipeline.generators import ddpm
from pipeline.params import reader


def work(name: str, keep: bool) -> Callable[[], object]:
    """Sampling or views in a process of its own, with and without the memory setting of `arithmetic.prepare`."""
    compute = reader.load().compute
    if keep:
        arithmetic.prepare(compute)
    if name == "views":
        pixels = torch.from_numpy(views.images())
        return lambda: views.used(views.ours(pixels))
    model, noise = sample.networks(sample.WIDER)
    made = ddpm.for_sampling(model, compute)
    return lambda: sample.ours(made, noise)


def fused_or_not() -> pairs.Row:
    """AdamW's step on the default UNet's gradients."""
    params = reader.load().ddpm
    training = ddpm.Training(params, gray())
    training.loss(training.batch(0), 0)["loss"].backward()
    (phase,) = training.task.phases

    def groups() -> list[dict]:  # an optimiser writes its settings into those it is given
        return [{"params": group.parameters} for group in phase.groups]

    fused, plain = training.plan.build(groups(), 0.0), torch.optim.AdamW(groups(), 0.0)
    assert [o.param_groups[0]["fused"] for o in (fused, plain)] == [True, None]

    def steps(optimiser: torch.optim.Optimizer) -> None:
        for _ in range(100):
            optimiser.step()

    note = "100 steps of AdamW on the default UNet"
    return pairs.compare("change: fused AdamW", lambda: steps(fused), lambda: steps(plain), None, note=note)


def rows() -> list[pairs.Row]:
    """All of them."""
    found = []
    for name in ("views", "sampling"):
        with pairs.Apart(work, name, True) as kept, pairs.Apart(work, name, False) as given_back:
            note = "freed memory kept, against given back to the system"
            found.append(pairs.compare(f"change: memory, {name}", kept, given_back, None, note=note))
    arithmetic.prepare(reader.load().compute)
    return [*found, fused_or_not()]


if __name__ == "__main__":
    pairs.main(rows)
