"""Whether a GPU computes what a CPU computes, twice the same, on from a crash, and whether the smoke pipeline runs."""

import copy
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

import pipeline
from bench.gpu.rung import Setting
from pipeline import methods
from pipeline.augment import recipes, transforms
from pipeline.core import seeds
from pipeline.core.errors import RESOURCE
from pipeline.data import mixture
from pipeline.data.bank import ImageBank
from pipeline.engine import arithmetic, loop
from pipeline.evaluation.quality import plain
from pipeline.generators import ddpm, gan
from pipeline.measures import probes
from pipeline.methods import Given
from pipeline.networks import backbones
from pipeline.params import presets, reader
from pipeline.params.methods import METHODS
from pipeline.params.schema import Params, Training
from pipeline.training.batches import Batches

REPOSITORY = Path(pipeline.__file__).parent.parent
STAGES = ("check", "prepare", "generator", "generate", "score", "positives", "quality", "pretrain", "linear_eval")
SIZE, LATE = 28, 10  # pixels; a step in which every method does all that it does
NEAR = 1e-4  # relative, of losses and of gradients as one vector, in fp32


def workspace(setting: Setting) -> dict:
    """What a run meets whose environment does not name cuBLAS's workspace, as a user's does not."""
    code = (
        "import torch; from pipeline.engine import arithmetic; from pipeline.params.schema import Compute;"
        f"arithmetic.prepare(Compute(device={setting.device!r}, precision='fp32', threads=1, compile=False));"
        f"x = torch.ones(8, 8, device={setting.device!r}, requires_grad=True); (x @ x).sum().backward(); print('runs')"
    )
    given = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=False)
    if done.stdout.strip() != "runs":
        raise AssertionError(f"without a workspace: {done.stderr.strip()[-500:]}")
    return {"without a workspace": "runs"}


def every_method(setting: Setting) -> dict:
    """Loss and gradients of each method for the same views; what deterministic algorithms refuse stands in place."""
    found, far, refused = {}, [], []
    for name in METHODS:
        built = method(name)
        views = batch(built, 8)
        there = copy.deepcopy(built).to(setting.device)
        try:
            one, two = (losses(built, views), losses(there, [view.to(setting.device) for view in views]))
        except RuntimeError as fault:
            found[name] = f"REFUSED: {str(fault).splitlines()[0]}"
            refused.append(name)
            continue
        apart = max(apart_by(a, b) for a, b in zip(one, two, strict=True))
        found[name] = f"{apart:.1e}"
        far += [name] * (not apart <= NEAR)
    if refused:
        raise AssertionError("; ".join(f"{name} {found[name]}" for name in refused))
    if far:
        raise AssertionError(f"farther than {NEAR:g} from the CPU's: {', '.join(f'{n} {found[n]}' for n in far)}")
    return found


def unet_and_samplers(setting: Setting) -> dict:
    """The UNet's loss and gradient, and images of every sampler from the same noise, beside the CPU's."""
    given = params()
    here = ddpm.unet(given.ddpm, SIZE, 1)
    there, noise = copy.deepcopy(here).to(setting.device), ddpm.scheduler(given.ddpm)
    x, t = torch.rand(4, 1, SIZE, SIZE, generator=seeds.generator(0, "x")), torch.tensor([1, 50, 500, 999])
    sides = []
    for network, device in ((here, "cpu"), (there, setting.device)):
        loss = network(x.to(device), t.to(device)).sample.square().mean()
        loss.backward()
        sides.append((loss, vector(network)))
    far = {"unet": max(apart_by(a, b) for a, b in zip(*sides, strict=True)) / NEAR}
    found = {"unet": f"{far['unet'] * NEAR:.1e}"}
    for sampler in ("ddpm", "ddim", "dpmsolver++", "sde-dpmsolver++"):
        how = given.generate.model_copy(update={"steps": 4, "eta": 0.5 if sampler == "ddim" else 0.0})
        images = [ddpm.sample(network.eval(), noise, how, range(4), 0, sampler).cpu() for network in (here, there)]
        far[sampler] = (images[0] - images[1]).abs().max().item() * 127.5  # of one shade
        found[sampler] = f"{far[sampler]:.3f} of 255"
    if not max(far.values()) <= 1:
        raise AssertionError(f"farther from the CPU's than {NEAR:g}, or than one shade of 255: {found}")
    return found


def views_and_features(setting: Setting) -> dict:
    """Views of the same drawn parameters, and features of a frozen encoder, beside the CPU's."""
    images = (255 * torch.rand(16, 32, 32, 3, generator=seeds.generator(0, "images"))).to(torch.uint8)
    recipe = recipes.recipe(plain(3, strength=2.0), 0)
    drawn = recipes.draw([recipe, recipe], 16, (32, 32), seeds.generator(0, "views"))
    both = torch.cat([images, images])
    one = transforms.apply(both, drawn, None, recipe.interpolation)
    two = transforms.apply(both.to(setting.device), drawn, None, recipe.interpolation).cpu()
    network = backbones.build(backbones.resnet(16, [1, 1, 1, 1]), [0.5] * 3, [0.25] * 3, 0)
    seen = [
        probes.features(copy.deepcopy(network).to(device), images.numpy(), setting.compute(device=device))
        for device in ("cpu", setting.device)
    ]
    views, features = 255 * (one - two).abs().max().item(), apart_by(*seen)
    found = {"views": f"{views:.4f} of 255", "features": f"{features:.1e}"}
    if not (views <= 0.5 and features <= NEAR):
        raise AssertionError(f"farther from the CPU's than half a shade of 255, or than {NEAR:g}: {found}")
    return found


def waits(setting: Setting) -> dict:
    """Where a step of each training makes the program wait for the card; nowhere, if the next batch is to be drawn."""
    if setting.device != "cuda":
        return {"left out": "no card to wait for"}
    images = np.random.default_rng(0).integers(0, 256, (2, 64, SIZE, SIZE, 1), dtype=np.uint8)
    bank, draw = ImageBank(images[0], [images[1], images[0]], "cuda"), mixture.Mixture(64, 64, 1.0, 32, 0)
    tasks = {"ddpm": ddpm.Training(params().ddpm, torch.from_numpy(images[0]).to("cuda")).task}
    for name in METHODS:
        built = method(name).to("cuda")
        batches = Batches(draw, bank, 1, built.views, plain(1, strength=2.0))
        tasks[name] = loop.Task(built.phases(), batches, {}, built.before_step, built.after_step)
    places = {name: waiting(task, setting) for name, task in tasks.items()}
    found = {name: ", ".join(where) or "nowhere" for name, where in places.items()}
    if any(places.values()):
        raise AssertionError(f"waits: {found}")
    return found


def twice_and_on(setting: Setting) -> dict:
    """Pretraining twice, and on from a crash, in both precisions: are all weights the same bits?"""
    found = {}
    for precision in ("fp32",) if setting.toy else ("fp32", "bf16"):
        straight, again = (trained(setting, precision) for _ in range(2))
        found[f"twice, {precision}"] = same(straight, again)
        with tempfile.TemporaryDirectory() as folder:
            trained(setting, precision, folder, crash=5)
            found[f"on from a crash, {precision}"] = same(straight, trained(setting, precision, folder))
    if not all(found.values()):
        raise AssertionError(f"other bits: {found}")
    return found


def smoke(setting: Setting) -> dict:
    """Every stage of the smoke pipeline, one after the other, in both precisions: seconds, and the accuracy."""
    found = {}
    for precision in ("fp32",) if setting.toy else ("fp32", "bf16"):
        with checkout() as folder:
            configure(folder, {("compute", "device"): setting.device, ("compute", "precision"): precision})
            for name in STAGES[:1] if setting.toy else STAGES:
                start = time.perf_counter()
                stage(folder, name)
                found[f"{name}, {precision}"] = f"{time.perf_counter() - start:.1f} s"
            path = folder / "metrics/linear_eval.json"
            if path.exists():
                found[f"metrics, {precision}"] = yaml.safe_load(path.read_text())
    return found


def out_of_memory(setting: Setting) -> dict:
    """What a user reads where another program holds the card's memory."""
    if setting.device != "cuda":
        return {"left out": "no card whose memory could be held"}
    with checkout() as folder:
        large = {("ddpm", "channels"): [128, 256], ("ddpm", "batch_size"): 400}
        configure(folder, {("compute", "device"): "cuda"} | large)
        for name in STAGES[:2]:
            stage(folder, name)
        free, _ = torch.cuda.mem_get_info()
        held = torch.empty(free - 1_200_000_000, dtype=torch.uint8, device="cuda")
        done = stage(folder, "generator", check=False)
        del held
        torch.cuda.empty_cache()
        if done.returncode != RESOURCE:
            raise AssertionError(f"exit code {done.returncode}, not {RESOURCE}: {done.stderr.strip()[-500:]}")
        return {"exit code": done.returncode, "last lines": done.stderr.strip().splitlines()[-3:]}


CHECKS = [workspace, every_method, unet_and_samplers, views_and_features, waits, twice_and_on, smoke, out_of_memory]


# --- what the checks are made of


@cache
def params() -> Params:
    """The committed parameters with the smoke preset."""
    return reader.with_values(reader.load(REPOSITORY / "params.yaml"), presets.load("smoke"), "smoke")


def method(name: str) -> methods.Method:
    """A method of the smoke preset in training mode, on a ViT where it wants one, and a GAN beside it."""
    kind = methods.load(name)
    form = backbones.vit(24, 1, 2, 4) if name == "mixed_ae" else backbones.resnet(8, [1, 1, 1, 1])
    encoder = backbones.build(form, [0.5], [0.25], 0, SIZE)
    given = [a_gan()] if kind.GENERATOR else []
    section = getattr(params(), name)
    if "dropout" in type(section).model_fields:
        section = section.model_copy(update={"dropout": 0.0})  # whose masks a GPU draws otherwise
    return kind.build(section, encoder, 0, *given).train()


@cache
def a_gan() -> Given:
    """A GAN as it is before its first step, and images for it."""
    folder = Path(tempfile.mkdtemp(prefix="leaven-"))
    own = params().gan
    with seeds.scope(0, "bench gan"):
        made = gan.GAN(own.latent, own.generator_channels, own.discriminator_channels, SIZE, 1)
    gan.save(made, folder)
    images = np.random.default_rng(0).integers(0, 256, (200, SIZE, SIZE, 1), dtype=np.uint8)
    return Given(folder, images, plain(1, strength=1.0))


def batch(built: methods.Method, n: int) -> list[torch.Tensor]:
    """The views that a method wants of n images, drawn on the CPU."""
    sides = [view.size or SIZE for view in built.views]
    return [torch.rand(n, 1, s, s, generator=seeds.generator(k, "bench views")) for k, s in enumerate(sides)]


def losses(built: methods.Method, views: list[torch.Tensor]) -> list[torch.Tensor]:
    """Loss and gradient of the last phase, the encoder's. Its random numbers must be the CPU's."""
    phase = built.phases()[-1]
    loss = phase.loss(views, 0 if built.GENERATOR else LATE)["loss"]  # later, a game draws on the device
    loss.backward()
    return [loss.detach().cpu(), vector(built)]


def vector(module: nn.Module) -> torch.Tensor:
    """All gradients, one after the other, on the CPU."""
    return torch.cat([p.grad.flatten().cpu() for p in module.parameters() if p.grad is not None])


def apart_by(one: torch.Tensor, other: torch.Tensor) -> float:
    """The distance of two tensors, as a share of the first one's length."""
    one, other = (x.detach().cpu().double().flatten() for x in (one, other))
    return float((one - other).norm() / one.norm().clamp(min=1e-12))


def waiting(task: loop.Task, setting: Setting) -> list[str]:
    """The lines at which a late step waits for the card, from the making of its views to what follows its update."""
    parameters = [p for phase in task.phases for group in phase.groups for p in group.parameters]
    optimiser = torch.optim.SGD(parameters, 0.01, fused=True)
    for step in (0, LATE, LATE + 9):  # the first ones make what is kept; the last is in another group of views
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                task.before_step(step, 0.5)
                given = task.batch(step)
                for phase in task.phases:
                    with arithmetic.autocast(setting.compute("bf16")):
                        loss = phase.loss(given, step)["loss"]
                    loss.backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                task.after_step(step, 0.5)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    return sorted({f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)})


class Crash(Exception):
    pass


def trained(setting: Setting, precision: str, folder: str | None = None, crash: int | None = None) -> dict:
    """The state of SimCLR after some steps of the loop; {} if it was to crash before one of them."""
    built = method("simclr").to(setting.device)

    def views(step: int) -> list[torch.Tensor]:
        if step == crash:
            raise Crash
        draw = seeds.generator(0, "bench views", step, device=setting.device)
        return [torch.rand(32, 1, SIZE, SIZE, generator=draw, device=setting.device) for _ in range(2)]

    numbers = {"batch_size": 32, "lr": 0.1, "min_lr": 0.0, "warmup_steps": 0, "warmup_lr": None, "weight_decay": 1e-4}
    schedule = Training(steps=8, log_every=4, checkpoint_every=2, seed=0, **numbers)
    plan = loop.Optimisation(schedule, lambda groups, lr: torch.optim.SGD(groups, lr, momentum=0.9, fused=True))
    task = loop.Task(built.phases(), views, {"method": built}, built.before_step, built.after_step)
    with tempfile.TemporaryDirectory() as own:
        try:
            loop.train("bench", task, plan, setting.compute(precision), Path(folder or own), precision)
        except Crash:
            return {}
    return {name: value.cpu() for name, value in built.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    """Whether two states are the same bits."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@contextmanager
def checkout() -> Iterator[Path]:
    """A copy of what a run needs, with a store of its own."""
    with tempfile.TemporaryDirectory(prefix="leaven-") as place:
        folder = Path(place) / "clone"
        for name in (
            "pipeline",
            "stages",
            "data/FashionMNIST",
            "data/pretrained",
            "data/unclip",
            "data/weights",
            ".dvc/plots",
        ):
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("params.yaml", "dvc.yaml", ".dvc/config"):
            if (REPOSITORY / name).exists():
                shutil.copy(REPOSITORY / name, folder / name)
        yield folder


def configure(folder: Path, changes: dict[tuple, object]) -> None:
    """The smoke preset in a copy's params.yaml, with changes."""
    presets.write(presets.load("smoke") | changes, folder / "params.yaml")


def stage(folder: Path, name: str, check: bool = True) -> subprocess.CompletedProcess:
    """A stage in a copy, which must succeed unless told otherwise."""
    given = os.environ | {"LEAVEN_STORE": str(folder.parent / "store"), "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    words = [sys.executable, "-m", f"stages.{name}"]
    done = subprocess.run(words, cwd=folder, env=given, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"stage {name}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done
