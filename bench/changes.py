"""What single changes are worth, each against the same work without it (reported, no target).

python -m bench.changes
"""

import copy
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


def folded_or_cast() -> pairs.Row:
    """The UNet rewritten and wholly in bf16, against autocast around diffusers' own."""
    compute = reader.load().compute
    model, noise = sample.networks(sample.WIDER)
    made = ddpm.for_sampling(copy.deepcopy(model), compute)

    plain = model.forward

    def cast(*words: object) -> object:
        with arithmetic.autocast(compute):  # one step, as the loop had it
            return plain(*words)

    model.forward = cast
    note = f"sampling as in `sample`, against autocast; {compute.precision}"
    return pairs.compare(
        "change: folded UNet", lambda: sample.ours(made, noise), lambda: sample.ours(model, noise), None, note=note
    )


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
    return [*found, folded_or_cast(), fused_or_not()]


if __name__ == "__main__":
    pairs.main(rows)
