"""A generative adversarial network: SNGAN's residual networks (Miyato et al., ICLR 2018, arXiv 1802.05957, appendix B).

Hinge losses, Adam without momentum, and spectral normalisation in the discriminator, which sees all images through
DiffAugment. Image i depends on the averaged weights and i alone: batch normalisation uses stored statistics.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.augment import differentiable
from pipeline.core import files, seeds, weights
from pipeline.core.devices import sent
from pipeline.core.errors import UserError
from pipeline.data import mixture
from pipeline.engine import arithmetic, distributed, loop
from pipeline.generators import pixels
from pipeline.generators.pixels import to_uint8
from pipeline.params.schema import GAN as Params
from pipeline.params.schema import Compute, Generate

WEIGHTS, FORM = "gan.safetensors", "gan.json"
COARSEST = 7  # pixels: the longest side of the first feature map
BETAS = (0.0, 0.9)  # Adam's (SNGAN, section 4)
_FORM = ("latent", "generator_channels", "discriminator_channels", "size", "channels")


def adam(groups: list[dict], lr: float) -> torch.optim.Optimizer:
    """The optimiser of both networks: Adam, with decoupled weight decay where a group has any."""
    return torch.optim.AdamW(groups, lr, betas=BETAS, fused=True)


def halvings(size: int) -> int:
    """How often a side is halved until it has at most seven pixels; as many blocks double it again."""
    count = 0
    while size > COARSEST:
        if size % 2:
            raise UserError(f"images of {size} pixels at some level cannot be halved", "dataset.image_size")
        size, count = size // 2, count + 1
    return count


def _conv(fan_in: int, fan_out: int, kernel: int, gain: float = 1.0, bias: bool = True) -> nn.Conv2d:
    made = nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2, bias=bias)
    nn.init.xavier_uniform_(made.weight, gain)
    if bias:
        nn.init.zeros_(made.bias)
    return made


class UpBlock(nn.Module):
    """A residual block that doubles the side: batch norm, ReLU, nearest neighbours, 3x3; batch norm, ReLU, 3x3.

    There are no biases: the next batch normalisation would remove them, and Adam would only follow rounding errors.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.convs = nn.ModuleList(_conv(width, width, 3, 2**0.5, bias=False) for _ in range(2))
        self.shortcut = _conv(width, width, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.interpolate(self.norms[0](x).relu(), scale_factor=2)
        h = self.convs[1](self.norms[1](self.convs[0](h)).relu())
        return h + self.shortcut(F.interpolate(x, scale_factor=2))


class Generator(nn.Module):
    """Noise, float (n, latent) -> images, float32 (n, C, size, size) in [-1, 1]."""

    def __init__(self, latent: int, width: int, size: int, channels: int):
        super().__init__()
        count = halvings(size)
        self.coarse = size >> count
        self.first = nn.Linear(latent, width * self.coarse**2)
        self.blocks = nn.Sequential(*(UpBlock(width) for _ in range(count)))
        self.norm = nn.BatchNorm2d(width)
        self.last = _conv(width, channels, 3)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = self.first(z).view(len(z), -1, self.coarse, self.coarse)
        return self.last(self.norm(self.blocks(h)).relu()).float().tanh()


class DownBlock(nn.Module):
    """A residual block: ReLU (not in the first), 3x3, ReLU, 3x3, and the mean of 2x2 pixels if it halves the side."""

    def __init__(self, fan_in: int, width: int, halves: bool, first: bool = False):
        super().__init__()
        sides = ((fan_in, width), (width, width))
        self.convs = nn.ModuleList(spectral_norm(_conv(*both, 3, 2**0.5)) for both in sides)
        self.shortcut = spectral_norm(_conv(fan_in, width, 1)) if halves or fan_in != width else nn.Identity()
        self.halves, self.first = halves, first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.convs[1](self.convs[0](x if self.first else x.relu()).relu())
        x = h + self.shortcut(x)
        return F.avg_pool2d(x, 2) if self.halves else x


class Discriminator(nn.Module):
    """Images, float (n, C, H, W) in [-1, 1] -> scores (n,) and features (n, width), float32.

    Four blocks, of which two halve the side. Features are means over places; the score uses their sum, as in SNGAN.
    """

    def __init__(self, width: int, channels: int):
        super().__init__()
        halving = (True, True, False, False)
        self.blocks = nn.Sequential(
            *(DownBlock(width if k else channels, width, halves, not k) for k, halves in enumerate(halving))
        )
        self.last = spectral_norm(nn.Linear(width, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.blocks(x).float().relu()
        features = h.mean(dim=(2, 3))
        return self.last(features * (h.shape[2] * h.shape[3])).float()[:, 0], features


class GAN(nn.Module):
    """Both networks; `form` holds the five numbers that they are built from."""

    def __init__(self, latent: int, generator_channels: int, discriminator_channels: int, size: int, channels: int):
        super().__init__()
        self.form = dict(zip(_FORM, (latent, generator_channels, discriminator_channels, size, channels), strict=True))
        self.generator = Generator(latent, generator_channels, size, channels)
        self.discriminator = Discriminator(discriminator_channels, channels)


def discriminator_hinge(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Mean of max(0, 1 - D(x)) over real scores and of max(0, 1 + D(G(z))) over generated ones (SNGAN, equation 16)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def generator_hinge(fake: torch.Tensor) -> torch.Tensor:
    """Mean of -D(G(z)) (SNGAN, equation 17)."""
    return -fake.mean()


@contextlib.contextmanager
def held(*modules: nn.Module) -> Iterator[None]:
    """Freeze modules for a while: stored statistics, no power iteration, no gradients for their parameters."""
    training = [(part, part.training) for module in modules for part in module.modules()]
    gradients = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    for module in modules:
        module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in training:
            part.training = mode
        for p, wanted in gradients:
            p.requires_grad_(wanted)


def largest_pass(params: Params, image: tuple[int, int, int], images: int) -> tuple[GAN, Callable[[], object]]:
    """The networks of the generator's step on so many images (H, W, C), and the forward pass through both."""
    side, _, channels = image
    gan = GAN(params.latent, params.generator_channels, params.discriminator_channels, side, channels)
    noise = torch.empty(images, params.latent)
    return gan, lambda: gan.discriminator(gan.generator(noise))


class Training:
    """A GAN in training on uint8 images (N, H, W, C) on the device; `task` is what the loop runs.

    Each step updates the discriminator; every `discriminator_steps`-th step updates the generator too.
    """

    def __init__(self, params: Params, images: torch.Tensor):
        self.params, self.images = params, images
        size, channels = images.shape[1], images.shape[3]
        with seeds.scope(params.seed, "gan"):
            gan = GAN(params.latent, params.generator_channels, params.discriminator_channels, size, channels)
        self.gan = gan.to(images.device)
        average = get_ema_multi_avg_fn(params.ema_decay)
        self.average = AveragedModel(self.gan.generator, multi_avg_fn=average, use_buffers=True)
        distributed.synchronise(self.gan)
        self.walk = mixture.Mixture(len(images), 0, 1.0, params.batch_size, params.seed)
        self.task = loop.Task(
            phases=[
                loop.Phase(loop.groups_of(self.gan.discriminator), self.discriminator_loss),
                loop.Phase(loop.groups_of(self.gan.generator), self.generator_loss, "generator", self.due),
            ],
            batch=self.batch,
            objects={"gan": self.gan, "average": self.average},
            after_step=self.after_step,
        )
        self.plan = loop.Optimisation(params, build=adam)

    def compile(self) -> None:
        """Train what torch.compile makes of the networks."""
        self.gan.generator.compile()
        self.gan.discriminator.compile()

    def due(self, step: int) -> bool:
        """Whether the generator is updated in this step."""
        return (step + 1) % self.params.discriminator_steps == 0

    def batch(self, step: int) -> torch.Tensor:
        """This process's real images of a step, float (b, C, H, W) in [-1, 1]."""
        rows = self.walk.rows(step)[distributed.share(self.params.batch_size)]
        return pixels.to_float(self.images[sent(torch.from_numpy(rows), self.images.device)])

    def discriminator_loss(self, x: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        """The hinge loss on as many generated images as real ones; also the mean score of each."""
        with torch.no_grad():
            made = self.gan.generator(self._noise("discriminator", step))
        seen = (self._seen(each, f"{name} for the discriminator", step) for name, each in (("real", x), ("made", made)))
        real, fake = distributed.gather([self.gan.discriminator(each)[0] for each in seen])
        return {"loss": discriminator_hinge(real, fake), "real": real.mean(), "fake": fake.mean()}

    def generator_loss(self, x: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        """The hinge loss; the discriminator does not change."""
        made = self.gan.generator(self._noise("generator", step))
        with held(self.gan.discriminator):
            fake = self.gan.discriminator(self._seen(made, "made for the generator", step))[0]
        return {"loss": generator_hinge(distributed.gather([fake])[0])}

    def after_step(self, step: int, progress: float) -> None:
        """Average the generator, its batch statistics included, after each of its updates."""
        if self.due(step):
            self.average.update_parameters(self.gan.generator)

    def save(self, folder: Path) -> list[str]:
        """Write the averaged generator and the discriminator; training is over after this. Returns file names."""
        self.gan.generator.load_state_dict(self.average.module.state_dict())
        return save(self.gan, folder)

    def _noise(self, network: str, step: int) -> torch.Tensor:
        shape, device = (self.params.batch_size, self.params.latent), self.images.device
        draw = seeds.generator(self.params.seed, f"gan-noise for the {network}", step, device=device.type)
        return torch.randn(shape, generator=draw, device=device)[distributed.share(self.params.batch_size)]

    def _seen(self, x: torch.Tensor, whose: str, step: int) -> torch.Tensor:
        draw = seeds.generator(self.params.seed, f"gan-views, {whose}", step, device=x.device.type)
        n = self.params.batch_size
        return differentiable.diff_augment(x, draw, (n, distributed.share(n)))


def save(gan: GAN, folder: Path) -> list[str]:
    """Write what `load` reads: the weights of both networks and their `form`; returns file names."""
    weights.save(Path(folder) / WEIGHTS, gan)
    files.write_json(Path(folder) / FORM, gan.form)
    return [FORM, WEIGHTS]


def load(folder: Path) -> GAN:
    """The networks of a folder that `save` wrote, in evaluation mode."""
    where = Path(folder) / FORM
    form = files.read_json(where)
    if set(form) != set(_FORM) or not all(type(value) is int and 0 < value < 2**16 for value in form.values()):
        raise UserError(f"does not say {', '.join(_FORM)} of a GAN", where, "run `dvc repro -f -s generator`")
    return weights.load(Path(folder) / WEIGHTS, lambda: GAN(**form)).eval()


def fit_to(size: tuple[int, int], channels: int, gan: GAN, where: str) -> None:
    """Refuse a GAN whose images have another shape than the data's (`size` = H, W): it was trained on other data."""
    made, data = (gan.form["size"],) * 2 + (gan.form["channels"],), (*size, channels)
    if made != data:
        raise UserError(f"makes images of {made}, the data has {data} (H, W, C)", where, "run `dvc repro generator`")


def batches(folder: Path, params: Generate, size: int, compute: Compute) -> Callable[[range], np.ndarray]:
    """batch(numbers) -> the images with these numbers of the generator in a folder, uint8 (n, size, size, C)."""
    gan = load(folder)
    fit_to((size, size), gan.form["channels"], gan, str(folder))
    model = gan.generator.requires_grad_(False).to(compute.device)
    if compute.compile:
        model.compile()

    def batch(numbers: range) -> np.ndarray:
        with torch.inference_mode(), arithmetic.autocast(compute):
            return to_uint8(sample(model, gan.form["latent"], numbers, params.seed), size)

    return batch


def sample(model: Generator, latent: int, numbers: range, seed: int) -> torch.Tensor:
    """Images with the given numbers, one batch: float32 (len(numbers), C, H, W) in [-1, 1].

    Every image has its own noise. UserError (code 4) if a value is not finite.
    """
    z = torch.stack([seeds.noise((latent,), seed, "image", i) for i in numbers])
    x = model(z.to(model.last.weight.device))
    pixels.refuse_non_finite(x, numbers, "train it at a lower learning rate")
    return x
