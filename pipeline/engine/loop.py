"""The training loop of diffusion models, GANs, classifiers and encoders: steps, log, checkpoints, signals.

An interrupted and resumed run ends with the same bits as an uninterrupted one: batches and noise are functions of the
step, and a checkpoint holds weights, buffers, optimizers, averages and the log. A loss that is not finite stops a run.
"""

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.core import processes, seeds
from pipeline.core.errors import DIVERGED, Stopped, UserError
from pipeline.core.progress import bar, log
from pipeline.engine import arithmetic, checkpoint, distributed
from pipeline.params.schema import Compute, Training


@dataclass
class Group:
    """Parameters with one learning-rate factor. decay: whether they have weight decay; adapt: whether LARS gives them a
    trust ratio. Biases and normalisation have neither. constant: the rate is the schedule's `lr` in all steps."""

    parameters: list[torch.nn.Parameter]
    lr_factor: float = 1.0
    decay: bool = True
    adapt: bool = True
    constant: bool = False


@dataclass
class Phase:
    """One update of a step: parameters and a loss. A step with several optimizers has several phases, in order.

    loss(batch, step) -> {name: scalar}; the entry "loss" is minimised, the others are logged. With several processes
    `batch` is this one's share, and the scalars are those of the whole batch (distributed.gather).
    name: a prefix of the names in the log; "" for the phase whose "loss" is the run's. due(step): whether it takes part
    in a step. build(groups) -> torch optimizer of a constant rate and no decay, in place of the plan's.
    """

    groups: list[Group]
    loss: Callable[[Any, int], dict[str, torch.Tensor]]
    name: str = ""
    due: Callable[[int], bool] = lambda step: True
    build: Callable[[list[dict]], torch.optim.Optimizer] | None = None


@dataclass
class Task:
    """What the loop trains.

    batch(step) -> anything, a pure function of the step: this process's share (distributed.share), or the part at hand
    of it. objects: name -> what has state_dict and load_state_dict and changes while training (modules, averages).
    before_step and after_step(step, progress), progress = step / steps, run outside autocast; evaluate(step) ->
    {name: number} joins the log's row, in the first process.
    """

    phases: list[Phase]
    batch: Callable[[int], Any]
    objects: dict[str, Any]
    before_step: Callable[[int, float], None] = lambda step, progress: None
    after_step: Callable[[int, float], None] = lambda step, progress: None
    evaluate: Callable[[int], dict[str, float]] = lambda step: {}


def learning_rate(schedule: Training, step: int) -> float:
    """The rate of step `step` (0-based): linear from warmup_lr, or lr / warmup, to lr; then half a cosine to min_lr."""
    if step < schedule.warmup_steps:
        if schedule.warmup_lr is None:
            return schedule.lr * (step + 1) / schedule.warmup_steps
        return schedule.warmup_lr + step * (schedule.lr - schedule.warmup_lr) / max(1, schedule.warmup_steps - 1)
    left = max(1, schedule.steps - schedule.warmup_steps)
    fallen = 1 + math.cos(math.pi * (step - schedule.warmup_steps) / left)
    return schedule.min_lr + 0.5 * (schedule.lr - schedule.min_lr) * fallen


@dataclass
class Optimisation:
    """A schedule with its optimiser: build(groups, lr) -> torch optimiser; clip: largest gradient norm, or None.

    rate(schedule, step) -> the rate of a step. parts: in how many a batch passes, one after the other; the loss is the
    mean of theirs, so a step costs the memory of one part and is the same step where losses are means over images.
    """

    schedule: Training
    build: Callable[[list[dict], float], torch.optim.Optimizer]
    clip: float | None = None
    evaluate_every: int | None = None
    parts: int = 1
    rate: Callable[[Training, int], float] = learning_rate


Follow = Callable[[list[dict]], None]  # gets the log so far, whenever there is a new row


def train(
    what: str,
    task: Task,
    plan: Optimisation,
    compute: Compute,
    folder: Path,
    fingerprint: str,
    follow: Follow = lambda rows: None,
) -> list[dict]:
    """Run the task to its last step, going on from the checkpoint in `folder` if there is one.

    Returns the log: one row {"step", ...} every `log_every` steps and after the last, losses averaged since the row
    before; the first process shows it to `follow` as it grows. Raises UserError with code 4 at the first non-finite
    loss or gradient (the checkpoint before it stays), and Stopped after SIGINT or SIGTERM, once the step in hand is
    finished and saved.
    """
    schedule = plan.schedule
    with distributed.part(0, plan.parts):
        distributed.share(schedule.batch_size)  # or refused
    seeding = _by_chance(task.objects)  # a scope costs a tenth of a millisecond and more
    phases = [_seeded(phase, schedule.seed) if seeding else phase for phase in task.phases]
    optimisers = [_optimiser(phase, plan) for phase in phases]
    meter = Meter()
    objects = {**task.objects, **{f"optimiser-{i}": o for i, o in enumerate(optimisers)}, "meter": meter}
    path = Path(folder) / "checkpoint.pt"
    start, rows = checkpoint.load(path, fingerprint, objects)
    judged = {}
    if distributed.differ(start):
        raise UserError("not the same checkpoint in all processes", path, "run the same command again")
    if start:
        log(f"{what}: resuming after step {start} of {schedule.steps}")
    with bar(what, schedule.steps, "step", start) as progress, processes.signals() as received:
        for step in range(start, schedule.steps):
            rate = plan.rate(schedule, step)
            task.before_step(step, step / schedule.steps)
            parts = [_in_part(k, plan.parts, task.batch, step) for k in range(plan.parts)]
            for phase, optimiser in zip(phases, optimisers, strict=True):
                if phase.due(step):
                    meter.add(_update(phase, optimiser, parts, step, plan, compute))
            task.after_step(step, (step + 1) / schedule.steps)
            done = step + 1
            stopping = distributed.anywhere(bool(received))
            logging = done % schedule.log_every == 0 or done == schedule.steps
            saving = done % schedule.checkpoint_every == 0 or done == schedule.steps or stopping
            if logging or saving:
                meter.check(what, done, rate, path)
            if saving:
                _check_weights(what, task.phases, done, rate, path)
            if logging:
                row = {"step": done, "lr": rate, **meter.means()}
                evaluating = plan.evaluate_every and (done % plan.evaluate_every == 0 or done == schedule.steps)
                if evaluating:
                    judged = task.evaluate(done) if distributed.first() else {}
                    row |= judged
                    distributed.wait()
                rows.append(row)
                # A line has room for two numbers: the loss, and what says best how good it is.
                best = {name.removeprefix("validation_"): value for name, value in list(judged.items())[:1]}
                shown = {"loss": row.get("loss", math.nan), **best}
                progress.set_postfix({name: f"{value:.3g}" for name, value in shown.items()}, refresh=False)
                if distributed.first():
                    follow(rows)
            if saving and distributed.first():
                checkpoint.save(path, fingerprint, done, objects, rows)
            progress.update()
            if stopping and done < schedule.steps:
                number = received[0] if received else signal.SIGTERM  # another process's
                raise Stopped(f"{what}: stopped after step {done}; run the same command to go on", number)
    return rows


class Meter:
    """Running means of the step's scalars, kept on the device; it notices the first step that is not finite."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}  # one for each name: phases need not log in every step

    def add(self, values: dict[str, torch.Tensor]) -> None:
        """Add the scalars of one phase of a step."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double()
            self.counts[name] = self.counts.get(name, 0) + 1

    def check(self, what: str, step: int, rate: float, path: Path) -> None:
        """Raise a UserError (code 4) if a scalar since the last row was not finite."""
        bad = [name for name, total in self.sums.items() if not math.isfinite(total)]
        if bad:
            raise _diverged(f"{what}: {', '.join(bad)} not finite at step {step} or since the row before", rate, path)

    def means(self) -> dict[str, float]:
        """The means since the last call; starts anew."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def state_dict(self) -> dict:
        """For the checkpoint: a row that is half full is saved half full."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load_state_dict(self, state: dict) -> None:
        """Go on where the saved meter was."""
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


def _check_weights(what: str, phases: list[Phase], step: int, rate: float, path: Path) -> None:
    # The losses of a step are those before its update: the last update shows in the weights alone.
    weights = [p for phase in phases for group in phase.groups for p in group.parameters]
    if not torch.stack([torch.isfinite(p).all() for p in weights]).all():
        raise _diverged(f"{what}: weights not finite after step {step}", rate, path)
    if distributed.apart(weights):
        raise RuntimeError(f"{what}: the processes' weights differ after step {step}")


def _diverged(fault: str, rate: float, path: Path) -> UserError:
    kept = f"the last good checkpoint is {path}" if Path(path).exists() else "there is no checkpoint yet"
    remedy = f"lower the learning rate or use precision fp32; {kept}"
    return UserError(f"{fault}, at rate {rate:.3g}", remedy=remedy, code=DIVERGED)


def groups_of(module: torch.nn.Module) -> list[Group]:
    """Two groups of a module's trainable parameters: matrices and kernels; vectors, without decay and trust ratio."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        Group([p for p in parameters if p.ndim > 1]),
        Group([p for p in parameters if p.ndim <= 1], decay=False, adapt=False),
    ]


def _optimiser(phase: Phase, plan: Optimisation) -> torch.optim.Optimizer:
    if phase.build is not None:
        return phase.build(_torch_groups(phase.groups, 0.0))
    return plan.build(_torch_groups(phase.groups, plan.schedule.weight_decay), plan.schedule.lr)


def _torch_groups(groups: list[Group], decay: float) -> list[dict]:
    return [
        {
            "params": group.parameters,
            "lr_factor": group.lr_factor,
            "constant": group.constant,
            "weight_decay": decay if group.decay else 0.0,
            "always_adapt": group.adapt,  # timm's name; other optimizers do not look at it
        }
        for group in groups
    ]


def _in_part(k: int, parts: int, make: Callable, *given: Any) -> Any:
    with distributed.part(k, parts):
        return make(*given)


def _by_chance(objects: dict[str, Any]) -> bool:
    """Whether a network leaves something out by draws of torch's global generator: dropout, timm's stochastic depth."""
    inside = [part for each in objects.values() if isinstance(each, torch.nn.Module) for part in each.modules()]
    shares = [getattr(part, name, 0) for part in inside for name in ("drop_prob", "drop_rate")]
    shares += [part.p for part in inside if isinstance(part, torch.nn.Dropout)]
    return any(isinstance(share, float) and share > 0 for share in shares)


def _seeded(phase: Phase, seed: int) -> Phase:
    """The phase with draws of its own in each step, whatever was drawn before: no checkpoint has the generator."""

    def loss(batch: Any, step: int) -> dict:
        with seeds.scope(seed, "dropout", distributed.of_part(step), processes.rank()):
            return phase.loss(batch, step)

    return replace(phase, loss=loss)


def _update(phase: Phase, optimiser, parts: list, step: int, plan: Optimisation, compute: Compute) -> dict:
    if phase.build is None:
        rate = plan.rate(plan.schedule, step)
        for group in optimiser.param_groups:
            group["lr"] = (plan.schedule.lr if group["constant"] else rate) * group["lr_factor"]
    optimiser.zero_grad(set_to_none=True)
    found = []
    for k, batch in enumerate(parts):
        with arithmetic.autocast(compute):
            losses = _in_part(k, len(parts), phase.loss, batch, step)
        (losses["loss"] / len(parts)).backward()
        found.append({name: value.detach() for name, value in losses.items()})
    losses = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
    parameters = [p for group in phase.groups for p in group.parameters]
    distributed.average_gradients(parameters)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if plan.clip is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, plan.clip, norm)
    optimiser.step()
    logged = {**losses, "gradient_norm": norm}
    return {f"{phase.name}_{name}": value for name, value in logged.items()} if phase.name else logged
