"""Denoising diffusion (DDPM, Ho et al. 2020, arXiv 2006.11239) with diffusers' UNet, schedulers and EMA.

Image i is a function of the weights, the sampler and i alone: its noise has a generator of its own, and it is always
computed in batch i // B at row i % B.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import EMAModel

from pipeline.core import files, seeds, weights
from pipeline.core.errors import DIVERGED, UserError
from pipeline.engine import distributed, loop
from pipeline.generators import folded
from pipeline.params.schema import DDPM, Compute, Generate

UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
PREDICTIONS = ("epsilon", "sample", "v_prediction")
TIMESTEPS, LAYERS, LEVELS, CONFIGURATION = 100_000, 100, 10, 100_000  # at most, in what is loaded; the last in bytes
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler")


def unet(params: DDPM, size: int, channels: int, **further: object) -> UNet2DModel:
    """A freshly initialised UNet for images of size x size with 1 or 3 channels; further: of its configuration."""
    depth = len(params.channels)
    attention = ["Attn" if params.attention else ""]
    plain = [""] * (depth - 1)
    with seeds.scope(params.seed, "unet"):
        return UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=params.channels,
            layers_per_block=params.layers,
            norm_num_groups=params.groups,
            attention_head_dim=None,
            dropout=params.dropout,
            down_block_types=[f"{a}DownBlock2D" for a in plain + attention],
            up_block_types=[f"{a}UpBlock2D" for a in attention + plain],
            add_attention=params.attention,
            **further,
        )


def scheduler(params: DDPM) -> DDPMScheduler:
    """The forward process: betas and what the network predicts."""
    return DDPMScheduler(
        num_train_timesteps=params.timesteps, beta_schedule=params.beta_schedule, prediction_type=params.prediction
    )


class Training:
    """A DDPM in training on uint8 images (N, H, W, C) on the device; `task` is what the loop runs."""

    def __init__(self, params: DDPM, images: torch.Tensor, network: torch.nn.Module | None = None):
        """network: what is trained in the place of a plain UNet, for whoever gives it more than images and times."""
        self.params, self.images = params, images
        if network is None:
            network = unet(params, images.shape[1], images.shape[3])
        self.unet = network.to(images.device)
        self.noise = scheduler(params)
        self.average = EMAModel(
            self.unet.parameters(), decay=params.ema_decay, use_ema_warmup=True, power=0.75, foreach=True
        )
        self.task = loop.Task(
            phases=[loop.Phase(loop.groups_of(self.unet), self.loss)],
            batch=self.batch,
            objects={"unet": self.unet, "average": self.average},
            after_step=self.after_step,
        )
        self.plan = loop.Optimisation(
            params, build=lambda groups, lr: torch.optim.AdamW(groups, lr, fused=True), clip=params.grad_clip
        )

    def batch(self, step: int) -> torch.Tensor:
        """This process's images of a step, float (b, C, H, W) in [-1, 1]."""
        return self.look(self.rows(step), step)

    def rows(self, step: int) -> torch.Tensor:
        """Which images this process has in a step, int64 (b,): passes over a fresh permutation each."""
        p, n = self.params, len(self.images)
        places = np.arange(step * p.batch_size, (step + 1) * p.batch_size)
        rows = [
            seeds.permutation(p.seed, "ddpm-data", number, n, places[places // n == number] % n)
            for number in range(places[0] // n, places[-1] // n + 1)
        ]
        return torch.from_numpy(np.concatenate(rows)[distributed.share(p.batch_size)]).to(self.images.device)

    def look(self, rows: torch.Tensor, step: int) -> torch.Tensor:
        """The images of these rows as the network sees them, half of them mirrored if `flip`."""
        p, x = self.params, self.images[rows].permute(0, 3, 1, 2).float() / 127.5 - 1
        if p.flip:
            draw = self._generator("ddpm-flip", step)
            mirrored = torch.rand(p.batch_size, generator=draw, device=x.device) < 0.5
            x = torch.where(mirrored[distributed.share(p.batch_size), None, None, None], x.flip(3), x)
        return x

    def loss(self, x: torch.Tensor, step: int, *given: torch.Tensor) -> dict[str, torch.Tensor]:
        """L_simple, equation 14: mean squared error of the predicted noise (or velocity, or image).

        given: what else the network is told of each image.
        """
        draw, n = self._generator("ddpm-noise", step), len(x) * distributed.size()
        own = distributed.share(n)
        noise = torch.randn((n, *x.shape[1:]), generator=draw, device=x.device)[own]
        t = torch.randint(0, self.params.timesteps, (n,), generator=draw, device=x.device)[own]
        target = {"epsilon": noise, "sample": x}.get(self.params.prediction)
        if target is None:
            target = self.noise.get_velocity(x, noise, t)
        place = () if distributed.first() else (distributed.rank(),)  # or every process would drop the same
        with seeds.scope(self.params.seed, "ddpm-dropout", step, *place):
            predicted = self.unet(self.noise.add_noise(x, noise, t), t, *given).sample
        own_mean = F.mse_loss(predicted.float(), target)
        return {"loss": distributed.gather([own_mean[None]])[0].mean()}

    def after_step(self, step: int, progress: float) -> None:
        """Average the weights."""
        self.average.to(self.images.device)  # a checkpoint is restored on the CPU, and diffusers leaves it there
        self.average.step(self.unet.parameters())

    def averaged(self) -> UNet2DModel:
        """The UNet with the averaged weights, which is what samples; training is over after this."""
        self.average.copy_to(self.unet.parameters())
        return self.unet.eval()

    def save(self, folder: Path) -> list[str]:
        """`save` of what samples; training is over after this."""
        return save(self.averaged(), self.noise, folder)

    def _generator(self, purpose: str, step: int) -> torch.Generator:
        return seeds.generator(self.params.seed, purpose, step, device=self.images.device.type)


def save(model: UNet2DModel, noise: DDPMScheduler, folder: Path) -> list[str]:
    """Write the folder that `diffusers.DDPMPipeline.from_pretrained` reads, safetensors only; returns its files."""
    model.save_pretrained(Path(folder) / "unet", safe_serialization=True)
    noise.save_pretrained(Path(folder) / "scheduler")
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    files.write_json(Path(folder) / "model_index.json", {"_class_name": "DDPMPipeline", **parts})
    return ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json", f"unet/{UNET_WEIGHTS}"]


def pretrained_files(folder: Path) -> dict[str, Path]:
    """The files of a local diffusers DDPM, in `save`'s layout: name -> path. Pipeline and flat layouts are read.

    Only these files are ever opened: no pickle, no code.
    """
    folder = Path(folder)
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    scheduler_folder = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    found = {
        "unet/config.json": unet_folder / "config.json",
        f"unet/{UNET_WEIGHTS}": unet_folder / UNET_WEIGHTS,
        "scheduler/scheduler_config.json": scheduler_folder / "scheduler_config.json",
    }
    for path in found.values():
        if not path.exists():
            raise UserError(
                "not found",
                path,
                "a generator is a folder with config.json, scheduler_config.json and safetensors weights "
                "(pickled .bin weights are not read; convert them with diffusers)",
            )
    return found


def load(folder: Path) -> tuple[UNet2DModel, DDPMScheduler]:
    """UNet (evaluation mode) and forward process of a local folder in either layout; refuses what cannot be sampled."""
    found = pretrained_files(folder)
    where, forward_where = found["unet/config.json"], found["scheduler/scheduler_config.json"]
    config, noise = (files.read_json(path, CONFIGURATION) for path in (where, forward_where))
    if config.get("_class_name") != "UNet2DModel":
        raise UserError(f"a {config.get('_class_name')}, not an unconditional UNet2DModel", where)
    if config.get("class_embed_type") or config.get("num_class_embeds"):
        raise UserError("class-conditional; only unconditional UNets are sampled", where)
    if config.get("out_channels", 3) != config.get("in_channels", 3):
        raise UserError("predicts variances too; only plain DDPMs are sampled", where)
    if noise.get("_class_name") not in SCHEDULERS:
        raise UserError(f"scheduler {noise.get('_class_name')} is none of {', '.join(SCHEDULERS)}", forward_where)
    predicts = noise.get("prediction_type", "epsilon")
    if predicts not in PREDICTIONS:
        raise UserError(f"prediction_type {predicts} is none of {', '.join(PREDICTIONS)}", forward_where)
    if noise.get("variance_type", "fixed_small") in ("learned", "learned_range"):
        raise UserError("wants variances of the network; only plain DDPMs are sampled", forward_where)
    _bounded(noise.get("num_train_timesteps", 1000), TIMESTEPS, "num_train_timesteps", forward_where)
    _bounded(config.get("layers_per_block", 2), LAYERS, "layers_per_block", where)
    levels = config.get("block_out_channels")
    _bounded(len(levels) if isinstance(levels, list) else levels, LEVELS, "levels", where)
    forward = _built(DDPMScheduler, noise, forward_where)
    model = weights.load(found[f"unet/{UNET_WEIGHTS}"], lambda: _built(UNet2DModel, config, where))
    return model.eval(), forward


def _bounded(value: object, most: int, name: str, path: Path) -> None:
    """Refuse what would take memory or time without end before diffusers makes anything of it."""
    if type(value) is not int or not 1 <= value <= most:
        raise UserError(f"{name} is {str(value)[:40]}, not a number from 1 to {most:,}", path)


def try_out(model: UNet2DModel, noise: DDPMScheduler, where: str) -> None:
    """One step for one image: a stranger's configuration can be built and not be sampled."""
    try:
        steps, extra = solver("ddpm", noise, 0.0, True)
        steps.set_timesteps(1)
        sample(model, steps, extra, range(1), 0)
    except UserError:
        raise
    except Exception as fault:  # a foreign configuration may provoke anything inside diffusers
        raise UserError(f"diffusers cannot sample with it: {str(fault)[:200]}", where) from fault


def _built(kind: type, config: dict, path: Path) -> UNet2DModel | DDPMScheduler:
    try:
        return kind.from_config(config)
    except Exception as fault:  # a foreign configuration may provoke anything inside diffusers
        reason = str(fault).partition("\n")[0]
        raise UserError(f"diffusers makes nothing of it: {reason}", path) from fault


def fit_to(size: tuple[int, int], channels: int, model: UNet2DModel, where: str) -> None:
    """Refuse a generator whose images cannot stand beside the data's (`size` = H, W).

    Channels must be equal, the data square, and the generator's images neither less than half nor more than four times
    as wide; within that, images are resized (antialiased bicubic).
    """
    made, found = model.config.sample_size, model.config.in_channels
    if found != channels:
        raise UserError(
            f"makes images of {found} channels, the data has {channels}", where, "use a generator of the data's kind"
        )
    if not isinstance(made, int) or size[0] != size[1] or not size[0] / 2 <= made <= 4 * size[0]:
        raise UserError(
            f"makes images of {made} pixels, the data has {size[0]}x{size[1]}",
            where,
            "the sizes may differ by resizing to at most twice or at least a quarter",
        )


def solver(name: str, noise: DDPMScheduler, eta: float, clip: bool) -> tuple[object, dict]:
    """diffusers' scheduler for sampling and the extra arguments of its `step`.

    name: "ddpm" (ancestral), "ddim" (Song et al. 2021; eta 0 deterministic, 1 ancestral), "dpmsolver++" (Lu et al.
    2022, second order, multistep) or "sde-dpmsolver++", its form that adds fresh noise at each step. clip: clamp
    predicted images to [-1, 1]. Timesteps end with the last of training ("trailing"): the first of few steps must not
    see less noise than the network was trained on.
    """
    common = {"timestep_spacing": "trailing"}
    if name == "ddpm":
        return DDPMScheduler.from_config(noise.config, clip_sample=clip, **common), {}
    if name == "ddim":
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        own = {"clip_sample": clip, "set_alpha_to_one": True}  # the last step ends without noise
        return DDIMScheduler.from_config(noise.config, **own, **common), {"eta": eta}
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    # DPM-Solver++ has no plain clamp; its dynamic threshold between 1 (built in) and 1 is one.
    own = {"algorithm_type": name, "thresholding": clip, "sample_max_value": 1.0, "final_sigmas_type": "zero"}
    config = {k: v for k, v in noise.config.items() if k != "variance_type"}
    return DPMSolverMultistepScheduler.from_config(config, **own, **common), {}


def for_sampling(model: UNet2DModel, compute: Compute) -> UNet2DModel:
    """The model on its device, rewritten (folded.py) and with precision bf16 wholly in it, as `sample` wants it.

    Autocast would cast the weights anew at each step, and between two convolutions go to fp32 and back.
    """
    model = folded.fold(model.eval().requires_grad_(False)).to(compute.device)
    if compute.precision == "bf16":
        torch.nn.Module.to(model, torch.bfloat16)  # diffusers' own warns of fp32 layers, of which it has none
    if compute.compile:
        model.compile()
    return model


def sample(model: UNet2DModel, solver: object, extra: dict, numbers: range, seed: int) -> torch.Tensor:
    """Images with the given numbers, one batch: float32 (len(numbers), C, H, W), nominally in [-1, 1].

    solver, extra: of the function `solver`, its timesteps set, and fresh, as solvers keep history. Every image
    has noise of its own, at the start and at each step. Raises UserError (code 4) when a value is not finite.
    """
    draws = [seeds.generator(seed, "sample", i) for i in numbers]
    size, channels = model.config.sample_size, model.config.in_channels
    x = torch.stack([seeds.noise((channels, size, size), seed, "image", i) for i in numbers]).to(model.device)
    x = x * solver.init_noise_sigma
    with torch.inference_mode():
        for t in solver.timesteps:
            predicted = model(solver.scale_model_input(x, t).to(model.dtype), t).sample.float()
            x = solver.step(predicted, t, x, generator=draws, **extra).prev_sample
    if not torch.isfinite(x).all():
        first = numbers[int((~torch.isfinite(x)).flatten(1).any(1).nonzero()[0])]
        raise UserError(
            f"image {first} has values that are not finite",
            "the generator",
            "train it longer or at a lower learning rate, or sample with precision fp32",
            DIVERGED,
        )
    return x


def batches(folder: Path, params: Generate, size: int, compute: Compute) -> Callable[[range], np.ndarray]:
    """batch(numbers) -> the images with these numbers of the DDPM in a folder, uint8 (n, size, size, C)."""
    model, noise = load(folder)
    if params.steps > noise.config.num_train_timesteps:
        fault = f"{params.steps} > {noise.config.num_train_timesteps} timesteps that the generator was trained with"
        raise UserError(fault, "params.yaml: generate.steps", "lower it")
    model = for_sampling(model, compute)

    def batch(numbers: range) -> np.ndarray:
        steps, extra = solver(params.sampler, noise, params.eta, params.clip)
        steps.set_timesteps(params.steps, device=compute.device)
        return to_uint8(sample(model, steps, extra, numbers, params.seed), size)

    return batch


def to_uint8(x: torch.Tensor, size: int) -> np.ndarray:
    """float (n, C, S, S) in [-1, 1] -> uint8 (n, size, size, C), rounded; resized (antialiased bicubic) if need be."""
    if x.shape[-1] != size:
        x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    x = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return x.permute(0, 2, 3, 1).contiguous().cpu().numpy()
