"""What tests/engine/test_distributed.py computes: alone, or in each process of `torchrun ... -m tests.ranks FOLDER`."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.augment import recipes
from pipeline.core import seeds
from pipeline.engine import arithmetic, distributed, loop
from pipeline.generators import ddpm, gan
from pipeline.params.schema import Training
from pipeline.training.online_head import OnlineHead
from tests import batches
from tests.methods import contract
from tests.toys import COMPUTE, ddpm_params, gan_params

N = 12  # rows of every batch, among all processes
STEPS = 3
SCHEDULE = {
    "batch_size": N,
    "lr": 0.1,
    "min_lr": 0.0,
    "warmup_lr": None,
    "warmup_steps": 1,
    "weight_decay": 0.1,
    "log_every": 1,
    "checkpoint_every": 9,
}
PREDICTIONS = ("epsilon", "v_prediction")
LATE = 10  # a step with every phase; in the first step some methods freeze a layer, or see only real images


def everything(folder: Path) -> dict:
    """Name -> tensors of all that is compared."""
    found = {f"method {name}": of_a_method(name, folder) for name in contract.METHODS}
    found |= {f"ddpm {name}": of_a_generator(name, folder) for name in PREDICTIONS}
    found["gan"] = of_an_adversarial_one(folder)
    found["layer beside"] = of_a_layer_beside(folder)
    norms = {1: nn.BatchNorm1d(5), 2: nn.BatchNorm2d(5), "plain": nn.BatchNorm1d(5, affine=False)}
    found |= {f"norm {kind}": of_a_norm(norm) for kind, norm in norms.items()}
    return found | {"views": of_views(), "parts": of_parts(folder)}


def of_a_method(name: str, folder: Path) -> dict:
    """Loss and gradients of every phase for a first batch; then weights, queues and copies after some steps."""
    built = contract.build(name)
    distributed.synchronise(built)

    def batch(step: int) -> list[torch.Tensor]:
        return [view[distributed.share(N)] for view in contract.views(N, step, name)]

    losses, first = {}, {}
    for phase in built.phases():
        built.zero_grad(set_to_none=True)
        found = phase.loss(batch(0), LATE)
        first |= gradients(built, found["loss"])
        losses |= {f"{phase.name}_{key}" if phase.name else key: value for key, value in found.items()}
    built = contract.build(name)
    distributed.synchronise(built)
    task = loop.Task(built.phases(), batch, {"method": built}, built.before_step, built.after_step)
    rows = trained(task, folder / name)
    return {**losses, **first, **{f"after {key}": value for key, value in built.state_dict().items()}, **rows}


def of_a_layer_beside(folder: Path) -> dict:
    """A layer that learns labels beside MoCo, of which the first process has fewer: its weights after some steps."""
    built = contract.build("moco")
    distributed.synchronise(built)
    head = OnlineHead(built.encoder, built.views, 3, 0)
    answers, own = torch.tensor([-1, 2, -1, -1, 0, 1, 2, 1, 0, 0, 2, -1]), distributed.share(N)
    phase = head.beside(built.phases()[0], lambda step: answers, 2.0)
    batch = lambda step: [view[own] for view in contract.views(N, step, "moco")]  # noqa: E731
    task = loop.Task([phase], batch, {"method": built, "head": head}, built.before_step, built.after_step)
    rows = trained(task, folder / "beside")
    return {**{f"after {key}": value for key, value in head.state_dict().items()}, **rows}


def of_a_generator(prediction: str, folder: Path) -> dict:
    """The same of a diffusion model, half of its images mirrored."""
    images = torch.randint(0, 256, (20, 8, 8, 1), generator=seeds.generator(0, "toy"), dtype=torch.uint8)
    params = ddpm_params(prediction=prediction, batch_size=N, flip=True)
    training = ddpm.Training(params, images)
    loss = training.loss(training.batch(1), 1)["loss"]
    first = gradients(training.unet, loss)
    training = ddpm.Training(params, images)
    rows = trained(training.task, folder / prediction)
    return {"loss": loss, **first, **{f"after {k}": v for k, v in training.unet.state_dict().items()}, **rows}


def of_an_adversarial_one(folder: Path) -> dict:
    """The same of a GAN: both phases' losses and gradients, then networks and average after some steps."""
    images = torch.randint(0, 256, (20, 8, 8, 1), generator=seeds.generator(0, "toy"), dtype=torch.uint8)
    params, losses, first = gan_params(batch_size=N), {}, {}
    training = gan.Training(params, images)
    for phase in training.task.phases:
        training.gan.zero_grad(set_to_none=True)
        found = phase.loss(training.batch(1), 1)
        first |= gradients(training.gan, found["loss"])
        losses |= {f"{phase.name} {key}": value for key, value in found.items()}
    training = gan.Training(params, images)
    rows = trained(training.task, folder / "gan")
    state = {f"after {k}": v for k, v in training.gan.state_dict().items()}
    state |= {f"after average {k}": v for k, v in training.average.state_dict().items()}
    return {**losses, **first, **state, **rows}


def of_a_norm(norm: nn.Module) -> dict:
    """Output, gradients and statistics of one normalisation whose rows differ much among the processes."""
    holder = nn.ModuleDict({"norm": norm})
    distributed.synchronise(holder)
    shape = (N, 5, 3, 3) if isinstance(norm, nn.BatchNorm2d) else (N, 5)
    x = torch.randn(shape, generator=seeds.generator(0, "norm")) * 3
    x += 100 * torch.arange(N).view(-1, *[1] * (len(shape) - 1)) / N
    own = x[distributed.share(N)].requires_grad_()
    y = distributed.gather([holder["norm"](own)])[0]
    weights = torch.randn(shape, generator=seeds.generator(1, "norm"))
    found = gradients(holder, (y * weights).sum())
    gradient = distributed.gather([own.grad / distributed.size()])[0]
    state = {key: value for key, value in holder.state_dict().items() if "running" in key or "tracked" in key}
    holder.eval()
    return {"y": y, "x": gradient, **found, **state, "evaluated": holder["norm"](x)}


def of_views() -> dict:
    """The views of a batch, each process's put beside one another; and of each process the parameters it drew."""
    images, chosen = batches.noise(N, (9, 9, 3)), [recipes.recipe(batches.section(), view) for view in (0, 1)]
    own = distributed.share(N)
    views = recipes.views(images[own], chosen, seeds.generator(0, "views"), (N, own))
    return dict(zip("ab", distributed.gather(views), strict=True))


def of_parts(folder: Path) -> dict:
    """Weights and log of a method whose batches pass in two parts, of which each process has its share."""
    built = contract.build("simclr")
    distributed.synchronise(built)

    def batch(step: int) -> list[torch.Tensor]:
        return [view[distributed.share(N)] for view in contract.views(N, step, "simclr")]

    task = loop.Task(built.phases(), batch, {"method": built}, built.before_step, built.after_step)
    rows = trained(task, folder / "parts", parts=2)
    return {**{f"after {key}": value for key, value in built.state_dict().items()}, **rows}


def gradients(module: nn.Module, loss: torch.Tensor) -> dict:
    """Of every parameter that has one, averaged as the loop averages them."""
    loss.backward()
    named = {name: p for name, p in module.named_parameters() if p.grad is not None}
    distributed.average_gradients(list(named.values()))
    return {f"gradient {name}": p.grad for name, p in named.items()}


def trained(task: loop.Task, folder: Path, parts: int = 1) -> dict:
    """The rows of the log of a few steps, as tensors."""
    schedule = Training(steps=STEPS, seed=0, **SCHEDULE)
    plan = loop.Optimisation(schedule, lambda groups, lr: torch.optim.SGD(groups, lr, momentum=0.9), parts=parts)
    rows = loop.train("toy", task, plan, COMPUTE, folder, "work")
    return {f"row {row['step']} {key}": torch.tensor(value) for row in rows for key, value in row.items()}


def of_the_job() -> dict:
    """What processes tell each other, whatever they compute."""
    number = distributed.rank()
    differ = [nn.Parameter(torch.full((2,), float(number)))]
    return {
        "number": number,
        "agreed": distributed.agreed({"from": number}),
        "anywhere": [distributed.anywhere(number == 1), distributed.anywhere(False)],
        "differ": [distributed.differ(number), distributed.differ("x")],
        "apart": [distributed.apart(differ), distributed.apart([nn.Parameter(torch.ones(2))])],
        "rows": np.arange(N)[distributed.share(N)].tolist(),
    }


if __name__ == "__main__":
    arithmetic.prepare(COMPUTE)
    target = Path(sys.argv[1])
    facts = {"computed": everything(target / "work"), "job": of_the_job()}
    torch.save(facts, target / f"{distributed.rank()}.pt")
