"""Denoising diffusion (DDPM, Ho et al. 2020, arXiv 2006.11239) with diffusers' UNet, schedulers and EMA.

Image i depends on the weights, the sampler and i alone: it has its own random generator, and it is always computed in
batch i // B at row i % B.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import EMAModel

from pipeline.core import access, files, seeds, weights
from pipeline.core.devices import sent
from pipeline.core.errors import UserError
from pipeline.engine import distributed, loop
from pipeline.generators import pixels
from pipeline.generators.diffusers_folder import INDEX, SCHEDULER, UNET, WEIGHTS, read
from pipeline.generators.pixels import to_uint8
from pipeline.params.schema import DDPM, Compute, Generate, Positives


def unet(params: DDPM, size: int, channels: int, **further: object) -> UNet2DModel:
    """A freshly initialised UNet for images of size x size with 1 or 3 channels; further: more of its configuration."""
    depth = len(params.channels)
    attended = {level % depth for level in params.attention}
    blocks = ["Attn" if level in attended else "" for level in range(depth)]  # finest first
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
            down_block_types=[f"{kind}DownBlock2D" for kind in blocks],
            up_block_types=[f"{kind}UpBlock2D" for kind in reversed(blocks)],
            add_attention=bool(attended),
            **further,
        )


def scheduler(params: DDPM) -> DDPMScheduler:
    """The forward process: betas and what the network predicts."""
    return DDPMScheduler(
        num_train_timesteps=params.timesteps, beta_schedule=params.beta_schedule, prediction_type=params.prediction
    )


def largest_pass(params: DDPM, image: tuple[int, int, int], images: int) -> tuple[UNet2DModel, Callable[[], object]]:
    """The network of a training step on so many images (H, W, C), and its forward pass."""
    side, _, channels = image
    model = unet(params, side, channels)
    x, t = torch.empty(images, channels, side, side), torch.empty(images, dtype=torch.int64)
    return model, lambda: model(x, t)


class Training:
    """A DDPM in training on uint8 images (N, H, W, C) on the device; `task` is what the loop runs."""

    def __init__(self, params: DDPM, images: torch.Tensor, network: torch.nn.Module | None = None):
        """network: trained instead of a plain UNet; its forward may take conditions after images and timesteps."""
        self.params, self.images = params, images
        self.unet = (network or unet(params, images.shape[1], images.shape[3])).to(images.device)
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

    def compile(self) -> None:
        """Train what torch.compile makes of the network."""
        self.unet.compile()

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
        return sent(torch.from_numpy(np.concatenate(rows)[distributed.share(p.batch_size)]), self.images.device)

    def look(self, rows: torch.Tensor, step: int) -> torch.Tensor:
        """The images of these rows as the network sees them, half of them mirrored if `flip`."""
        p, x = self.params, pixels.to_float(self.images[rows])
        if p.flip:
            draw = self._generator("ddpm-flip", step)
            mirrored = torch.rand(p.batch_size, generator=draw, device=x.device) < 0.5
            x = torch.where(mirrored[distributed.share(p.batch_size), None, None, None], x.flip(3), x)
        return x

    def loss(self, x: torch.Tensor, step: int, *conditions: torch.Tensor) -> dict[str, torch.Tensor]:
        """L_simple, equation 14: mean squared error of the predicted noise (or velocity, or image).

        conditions: further inputs of the network, a row an image.
        """
        draw, n = self._generator("ddpm-noise", step), len(x) * distributed.size()
        local = distributed.share(n)
        noise = torch.randn((n, *x.shape[1:]), generator=draw, device=x.device)[local]
        t = self.timesteps(n, draw)[local]
        target = {"epsilon": noise, "sample": x}.get(self.params.prediction)
        if target is None:
            target = self.noise.get_velocity(x, noise, t)
        place = () if distributed.first() else (distributed.rank(),)  # or all processes would drop the same units
        with seeds.scope(self.params.seed, "ddpm-dropout", step, *place):
            predicted = self.unet(self.noise.add_noise(x, noise, t), t, *conditions).sample
        local_mean = F.mse_loss(predicted.float(), target)
        return {"loss": distributed.gather([local_mean[None]])[0].mean()}

    def timesteps(self, n: int, draw: torch.Generator) -> torch.Tensor:
        """Random timesteps of n images, int64 (n,), as `timestep_sampling` says.

        logit_normal (Esser et al., ICML 2024, section 3.1): sigmoid(N(mean, std)) of all timesteps. Their quantiles are
        one in each n-th of (0, 1), in random order, for less variance (Kingma et al., NeurIPS 2021, appendix I.1).
        """
        p = self.params
        if p.timestep_sampling == "uniform":
            return torch.randint(0, p.timesteps, (n,), generator=draw, device=draw.device)
        part, within = (
            torch.randperm(n, generator=draw, device=draw.device),
            torch.rand(n, generator=draw, device=draw.device),
        )
        quantile = ((part + within) / n).clamp(1e-6, 1 - 1e-6)
        share = torch.sigmoid(p.logit_mean + p.logit_std * torch.special.ndtri(quantile))
        return (share * p.timesteps).long().clamp(max=p.timesteps - 1)

    def after_step(self, step: int, progress: float) -> None:
        """Average the weights."""
        self.average.to(self.images.device)  # a checkpoint is restored on the CPU, and diffusers leaves it there
        self.average.step(self.unet.parameters())

    def averaged(self) -> UNet2DModel:
        """The UNet with the averaged weights, with which images are sampled; training is over after this."""
        self.average.copy_to(self.unet.parameters())
        return self.unet.eval()

    def save(self, folder: Path) -> list[str]:
        """Write the averaged UNet; training is over after this. Returns the names of the files."""
        return save(self.averaged(), self.noise, folder)

    def _generator(self, purpose: str, step: int) -> torch.Generator:
        return seeds.generator(self.params.seed, purpose, step, device=self.images.device.type)


def save(model: UNet2DModel, noise: DDPMScheduler, folder: Path) -> list[str]:
    """Write the folder that `diffusers.DDPMPipeline.from_pretrained` reads, safetensors only; returns file names."""
    model.save_pretrained(Path(folder) / "unet", safe_serialization=True)
    noise.save_pretrained(Path(folder) / "scheduler")
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    files.write_json(Path(folder) / INDEX, {"_class_name": "DDPMPipeline", **parts})
    return [INDEX, SCHEDULER, UNET, WEIGHTS]


def load(folder: Path) -> tuple[UNet2DModel, DDPMScheduler]:
    """UNet (evaluation mode) and forward process of a local folder; UserError if it cannot be sampled from."""
    paths, configurations = read(folder)
    noise = _built(DDPMScheduler, configurations[SCHEDULER], paths[SCHEDULER])
    model = weights.load(paths[WEIGHTS], lambda: _built(UNet2DModel, configurations[UNET], paths[UNET]))
    return model.eval(), noise


def _built(kind: type, config: dict, path: Path) -> UNet2DModel | DDPMScheduler:
    with access.reading(path, "diffusers cannot build it", "", Exception):  # of any kind, inside it
        return kind.from_config(config)


def fit_to(size: tuple[int, int], channels: int, model: UNet2DModel, where: str) -> None:
    """Refuse a generator whose images cannot be mixed with the data (`size` = H, W).

    The channels must be equal, the data square, and the generator's images at least half and at most four times as
    wide; within that, images are resized (antialiased bicubic).
    """
    made, found = model.config.sample_size, model.config.in_channels
    if found != channels:
        fault = f"makes images of {found} channels, the data has {channels}"
        raise UserError(fault, where, "use a generator of the data's kind")
    if not isinstance(made, int) or size[0] != size[1] or not size[0] / 2 <= made <= 4 * size[0]:
        fault = f"makes images of {made} pixels, the data has {size[0]}x{size[1]}"
        raise UserError(fault, where, "the sizes may differ by resizing to at most twice or at least a quarter")


def solver(name: str, noise: DDPMScheduler, eta: float, clip: bool) -> tuple[object, dict]:
    """diffusers' scheduler for sampling and the extra arguments of its `step`.

    name: "ddpm" (ancestral), "ddim" (Song et al. 2021; eta 0 deterministic, 1 ancestral), "dpmsolver++" (Lu et al.
    2022, second order, multistep) or "sde-dpmsolver++", its form that adds fresh noise at each step. clip: clamp
    predicted images to [-1, 1]. Sampling begins at the last timestep of training: few steps, too, begin at as much
    noise as the network was trained on. "ddpm" and "ddim" go on evenly in time; the others by the noise levels of
    Karras et al. (NeurIPS 2022, equation 5, rho 7), which leave most of a few steps to where detail is decided.
    """
    common = {"timestep_spacing": "trailing"}  # evenly, and the first is the last of training
    if name == "ddpm":
        return DDPMScheduler.from_config(noise.config, clip_sample=clip, **common), {}
    if name == "ddim":
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        ddim = {"clip_sample": clip, "set_alpha_to_one": True}  # the last step ends without noise
        return DDIMScheduler.from_config(noise.config, **ddim, **common), {"eta": eta}
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    # DPM-Solver++ has no plain clamp, but its dynamic threshold is one when it must lie between 1 (built in) and 1.
    dpm = {"algorithm_type": name, "thresholding": clip, "sample_max_value": 1.0}
    dpm |= {"use_karras_sigmas": True, "final_sigmas_type": "zero"}
    config = {k: v for k, v in noise.config.items() if k != "variance_type"}
    return DPMSolverMultistepScheduler.from_config(config, **dpm, **common), {}


def for_sampling(model: UNet2DModel, compute: Compute) -> UNet2DModel:
    """The model on its device and, with precision bf16, converted to it as a whole.

    Autocast would convert the weights at each step, and go to fp32 and back between two convolutions.
    """
    model = model.eval().requires_grad_(False).to(compute.device)
    if compute.precision == "bf16":
        torch.nn.Module.to(model, torch.bfloat16)  # not diffusers' `to`, which warns about absent fp32 layers
    if compute.compile:
        model.compile()
    return model


def sample(
    model: UNet2DModel,
    noise: DDPMScheduler,
    params: Generate | Positives,
    numbers: range,
    seed: int,
    sampler: str = "ddim",
    predict: Callable | None = None,
) -> torch.Tensor:
    """Images with the given numbers, one batch: float32 (len(numbers), C, H, W), nominally in [-1, 1].

    Of `params`, steps, eta and clip are read. predict(x, t): what predicts in the model's place, as diffusers returns
    it. Every image has its own noise, at the start and at each step. UserError (code 4) if a value is not finite.
    """
    predict = predict or model
    steps, extra = solver(sampler, noise, params.eta, params.clip)  # a new one, as solvers keep history
    steps.set_timesteps(params.steps)  # on the CPU, where the solver looks at them; a GPU would be waited for
    draws = [seeds.generator(seed, "sample", i) for i in numbers]
    size, channels = model.config.sample_size, model.config.in_channels
    x = torch.stack([seeds.noise((channels, size, size), seed, "image", i) for i in numbers]).to(model.device)
    x = x * steps.init_noise_sigma
    with torch.inference_mode():
        for t, there in zip(steps.timesteps, sent(steps.timesteps, model.device), strict=True):
            predicted = predict(steps.scale_model_input(x, t).to(model.dtype), there).sample.float()
            x = steps.step(predicted, t, x, generator=draws, **extra).prev_sample
    pixels.refuse_non_finite(x, numbers, "train it longer or at a lower learning rate, or sample with precision fp32")
    return x


def batches(folder: Path, params: Generate, size: int, compute: Compute) -> Callable[[range], np.ndarray]:
    """batch(numbers) -> the images with these numbers of the DDPM in a folder, uint8 (n, size, size, C)."""
    model, noise = load(folder)
    if params.steps > noise.config.num_train_timesteps:
        fault = f"{params.steps} > {noise.config.num_train_timesteps} timesteps that the generator was trained with"
        raise UserError(fault, "params.yaml: generate.steps", "lower it")
    model = for_sampling(model, compute)
    return lambda numbers: to_uint8(sample(model, noise, params, numbers, params.seed, params.sampler), size)
