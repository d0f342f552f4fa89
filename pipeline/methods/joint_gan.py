"""Synthetic data can also teach (Wu et al., AAAI 2023, arXiv 2202.06464): a generator that learns to make it hard.

A GAN trained on the same images goes on training while the encoder learns. Its samples become hard for the current
encoder (hard), or two generators make dissimilar images of one latent, which are positives of each other (pair); all
samples stay realistic. The paper's code was not at hand: nearly every detail is our reading, see
docs/methods/joint-gan.md.
"""

import copy
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.augment import differentiable, recipes
from pipeline.core import seeds
from pipeline.core.errors import UserError
from pipeline.engine import distributed
from pipeline.engine.distributed import gather, whole
from pipeline.engine.loop import Phase, groups_of
from pipeline.generators import gan
from pipeline.generators.gan import held
from pipeline.methods import Given, Method, View, game, late_mean
from pipeline.methods.losses import multi_positive, unit_rows
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import mlp
from pipeline.params.methods import JointGAN as Params

TRAINED = {"static": 0, "static_pair": 0, "hard": 1, "pair": 2, "both": 2}  # how many generators learn


class JointGAN(Method):
    """Encoder and projector, f; the pretrained GAN, frozen; generators and a discriminator that go on training."""

    GENERATOR = "gan"
    views = (View(recipe=0), View(recipe=1), View(recipe=None))

    def __init__(self, params: Params, encoder: Encoder, seed: int, given: Given):
        super().__init__(params, encoder, seed)
        self.recipes = [recipes.recipe(given.augmentation, view) for view in (0, 1)]
        self.view_seed = given.augmentation.seed
        self.projector = mlp(encoder.width, params.hidden_dim, params.output_dim, norm=False)
        pretrained = gan.load(given.generator)
        gan.fit_to(given.images.shape[1:3], given.images.shape[3], pretrained, str(given.generator))
        self.frozen = pretrained.requires_grad_(False).eval()
        trained = TRAINED[params.mode]
        self.generators = nn.ModuleList(copy.deepcopy(pretrained.generator) for _ in range(trained))
        self.generators.requires_grad_(True)
        if trained:
            self.discriminator = copy.deepcopy(pretrained.discriminator).requires_grad_(True)
            self.monitor = game.Monitor(seed, params.monitor_images, pretrained, given.images)
        self.register_buffer("ramped", torch.zeros((), dtype=torch.int64))  # completed steps of the ramp
        of = params.snapshot_images, pretrained.form["latent"]
        fixed = (game.fixed_noise(seed, name, *of) for name in ("snapshots", "fresh snapshots"))
        self.snapshots = game.Snapshots(params.snapshots, *fixed, given.images.shape[1:])

    def train(self, mode: bool = True) -> "JointGAN":
        """The pretrained GAN stays in evaluation mode."""
        super().train(mode)
        self.frozen.eval()
        return self

    def phases(self) -> list[Phase]:
        """Generators and discriminator with Adam at `game_lr`, if they learn at all; then the encoder."""
        encoder, adam = Phase(groups_of(self.network), self.loss), partial(gan.adam, lr=self.params.game_lr)
        if not len(self.generators):
            return [encoder]
        return [
            Phase(groups_of(self.generators), self.generator_loss, "generator", self.game_step, adam),
            Phase(groups_of(self.discriminator), self.discriminator_loss, "discriminator", self.game_step, adam),
            encoder,
        ]

    def game_step(self, step: int) -> bool:
        """Whether generators and discriminator are updated in a step."""
        since = step - self.params.real_steps
        return len(self.generators) > 0 and since >= 0 and (since + 1) % self.params.every == 0

    def passes(self, step: int) -> tuple[float, ...]:
        """Passes for synthetic images are counted with the third view."""
        if step < self.params.real_steps:
            return 3, 3, 0
        mode, share = self.params.mode, self.params.synthetic
        if not self.game_step(step):
            return 3, 3, 12 * share
        real = 4 if mode in ("hard", "both") else 3
        return real, real, (24 if mode == "both" else 18) * share

    def before_step(self, step: int, progress: float) -> None:
        """When due: measure the generators, halve the ramp if they have gone too far, and keep a snapshot."""
        since = step - self.params.real_steps
        if len(self.generators) and since >= 0 and since % self.params.monitor_every == 0:
            self.monitor.measure(self.generators, self.frozen)
            near = self.monitor.near(self.params.growth)
            self.ramped.copy_(torch.where(near, self.ramped, self.ramped // 2))
        self.snapshot(step, progress)

    def after_step(self, step: int, progress: float) -> None:
        """Advance the ramp, unless the generators are too far; keep the last snapshot."""
        if len(self.generators) and step >= self.params.real_steps:
            self.ramped.add_(self.monitor.near(self.params.growth).long()).clamp_(max=self.params.ramp_steps)
        if progress == 1:
            self.snapshot(step + 1, progress)

    # --- losses

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """The encoder's. batch: two views of real images and the images themselves, float (B, C, H, W) each.

        From step `real_steps` on, four views of each synthetic identity join them: two of each image of its pair.
        """
        views = batch[:2]
        self.synthetic_rows(batch)  # raises before the first of `real_steps` if they cannot be shared
        if step >= self.params.real_steps:
            with torch.no_grad():
                views = [*views, *self.synthetic_views(self.pair(*self.noise("encoder", batch, step)), "encoder", step)]
        z = gather(self.network(torch.cat(views)).split([len(view) for view in views]))
        found, right = self.contrast(z)
        real = 2 * len(z[0])
        terms = {"loss": found.mean(), "real": found[:real].mean(), "agreement": right.float().mean()}
        return terms | ({"synthetic": found[real:].mean()} if len(views) > 2 else {})

    def generator_loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """The generators': adversarial - factor x lambda_h x hardness + lambda_r x distance from the pretrained GAN.

        Encoder and discriminator stay constant; f uses its stored statistics.
        """
        params, (z, _) = self.params, self.noise("generator", batch, step)
        made = [generator(z) for generator in self.generators]
        with held(self.discriminator):
            scores = [self.scores(images, f"generator {k}, seen", step) for k, images in enumerate(made)]
        adversarial = sum(gan.generator_hinge(each) for each in gather(scores))
        realism = self.realism(z, made)
        hardness, terms = self.hardness(made, batch, step)
        weight = params.weight * self.ramp()
        pulling, last = weight * hardness, [generator.last.weight for generator in self.generators]
        factor = game.guard(adversarial, pulling, last, params.guard)
        terms |= {"adversarial": adversarial, "realism": realism, "guard": factor, "weight": weight}
        terms |= {"growth": self.monitor.distance / self.monitor.baseline - 1, "distance": self.monitor.distance}
        return {"loss": adversarial - factor * pulling + params.realism * realism, **terms}

    def discriminator_loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """The discriminator's hinge loss between the batch's images and those of all generators."""
        z, _ = self.noise("discriminator", batch, step)
        with torch.no_grad():
            made = torch.cat(gather([generator(z) for generator in self.generators]))
        real = gather([self.scores(2 * batch[2] - 1, "real ones, seen", step)])[0]
        fake = gather([self.scores(made[distributed.share(len(made))], "generated ones, seen", step)])[0]
        return {"loss": gan.discriminator_hinge(real, fake), "real": real.mean(), "fake": fake.mean()}

    def scores(self, images: torch.Tensor, purpose: str, step: int) -> torch.Tensor:
        """The discriminator's scores of this process's images, augmented: float (n,)."""
        return self.discriminator(differentiable.diff_augment(images, self.draw(purpose, step), whole(len(images))))[0]

    def realism(self, z: torch.Tensor, made: list[torch.Tensor]) -> torch.Tensor:
        """Mean of |psi(G(z)) - psi(G_pre(z))|^2 over rows and generators; psi, G_pre: the pretrained GAN's."""
        with torch.no_grad():
            _, wanted = self.frozen.discriminator(self.frozen.generator(z))
        distances = [(self.frozen.discriminator(images)[1] - wanted).square().sum(dim=1) for images in made]
        return torch.cat(gather(distances)).mean()

    def hardness(
        self, made: list[torch.Tensor], batch: list[torch.Tensor], step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What the generators maximise, and its parts.

        hard: L_CL of two views of each image of the first generator, among views of the real images.
        pair: min(1 - cos(f(G1(z)), f(G2(z))), m), of images without augmentation.
        """
        hard, terms = 0.0, {}
        with held(self.network):
            if self.params.mode in ("hard", "both"):
                with torch.no_grad():
                    real = gather(self.network(torch.cat(batch[:2])).chunk(2))
                views = self.synthetic_views(made[:1], "generator", step)
                found, _ = self.contrast([*real, *gather(self.network(torch.cat(views)).chunk(2))])
                terms["contrast"] = hard = found[2 * len(real[0]) :].mean()
            if self.params.mode in ("pair", "both"):
                z = unit_rows(self.network(torch.cat(to_unit(made))).chunk(2))
                with torch.autocast(z[0].device.type, enabled=False):  # which would round the cosine to bf16
                    cosine = torch.linalg.vecdot(*z)
                terms["cosine"], terms["margin"] = cosine.mean(), self.margin()
                hard = hard + torch.minimum(1 - cosine, self.margin()).mean()
        return hard, terms

    def contrast(self, z: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """`multi_positive` of projections (n, D), two views of the real images first, then the synthetic ones."""
        return multi_positive(F.normalize(torch.cat(z).float(), dim=1), identities(z), self.params.temperature)

    # --- the ramp

    def ramp(self) -> torch.Tensor:
        """The completed share of the ramp, from 0 to 1."""
        return self.ramped / self.params.ramp_steps

    def margin(self) -> torch.Tensor:
        """m(t), from margin_start to margin_end along the ramp."""
        return self.params.margin_start + self.ramp() * (self.params.margin_end - self.params.margin_start)

    # --- images

    def noise(self, phase: str, batch: list[torch.Tensor], step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """This process's latents of a phase, and fresh ones to mix with them: float (B_s, latent) each."""
        n, rows = self.synthetic_rows(batch)
        draw = self.draw(f"latents of the {phase}", step)
        both = torch.randn(2, n, self.frozen.form["latent"], generator=draw, device=self.ramped.device)
        return tuple(both[:, rows])

    def synthetic_rows(self, batch: list[torch.Tensor]) -> tuple[int, slice]:
        """B_s, the synthetic identities of a step, and this process's rows of them; a UserError if it has no part."""
        n, processes = round(self.params.synthetic * len(batch[0]) * distributed.size()), distributed.size()
        if n % processes:
            what = f"{n} synthetic images a step among {processes} processes"
            raise UserError(what, "PIPELINE_LAUNCH", "the number must divide joint_gan.synthetic x pretrain.batch_size")
        return n, distributed.share(n)

    def pair(self, z: torch.Tensor, fresh: torch.Tensor) -> list[torch.Tensor]:
        """The two images of each identity, float (n, C, H, W) in [-1, 1]; identical in modes without pairs."""
        share = self.params.perturbation
        generators = list(self.generators) or [self.frozen.generator]
        images = [generator(z) for generator in generators]
        if self.params.mode == "static_pair":
            images.append(generators[0]((1 - share) ** 0.5 * z + share**0.5 * fresh))
        return [images[0], images[-1]]

    def synthetic_views(self, images: list[torch.Tensor], phase: str, step: int) -> list[torch.Tensor]:
        """Two differentiable views of each image, augmented as real ones are: float (n, C, H, W) each."""
        images = to_unit(images)
        n, rows = whole(len(images[0]))
        views = [image for image in images for _ in self.recipes]
        draw = seeds.generator(self.view_seed, f"synthetic views of the {phase}", step)
        drawn = recipes.draw(self.recipes * len(images), n, tuple(images[0].shape[2:]), draw)
        local = torch.arange(len(drawn.flip)).view(-1, n)[:, rows].flatten()
        kernel = self.recipes[0].interpolation
        return list(differentiable.apply(torch.cat(views), drawn.of(local), kernel).chunk(len(views)))

    def draw(self, purpose: str, step: int) -> torch.Generator:
        """Random numbers for one purpose in one step."""
        return seeds.generator(self.seed, f"joint-gan: {purpose}", step, device=self.ramped.device.type)

    # --- snapshots

    def snapshot(self, step: int, progress: float) -> None:
        """Keep the images of fixed latents after `step` steps, if that is due."""
        if not self.snapshots.due(progress):
            return
        with torch.no_grad(), held(self.generators, self.network):
            made = self.pair(self.snapshots.z, self.snapshots.fresh)
            f = [F.normalize(self.network(images), dim=1) for images in to_unit(made)]
        self.snapshots.keep(step, made, torch.linalg.vecdot(*f))

    def save_artifacts(self, folder: Path, images: np.ndarray) -> list[str]:
        """Write the snapshots; returns the name of the file. The images are not used."""
        self.snapshots.write(folder, self.params.mode)
        return [game.SNAPSHOTS]

    @staticmethod
    def pictures(made: dict[str, Path]) -> list[tuple[str, np.ndarray]]:
        """The generators' images over time."""
        return game.pictures(made[game.SNAPSHOTS])

    @staticmethod
    def outcomes(rows: list[dict], made: dict[str, Path]) -> dict[str, float]:
        """synthetic, synthetic_start: L_CL of synthetic anchors, late and in the first row that has it. cosine: of the
        last snapshot's pairs. frechet_growth, frechet_most: the monitor's, last and largest, if generators learn.
        """
        synthetic = [row for row in rows if "synthetic" in row]  # the first rows may have real images only
        growth = [row["generator_growth"] for row in rows if "generator_growth" in row]
        found = {"cosine": game.last_cosine(made[game.SNAPSHOTS])}
        if synthetic:
            found |= {"synthetic": late_mean(synthetic, "synthetic"), "synthetic_start": synthetic[0]["synthetic"]}
        return found | ({"frechet_growth": growth[-1], "frechet_most": max(growth)} if growth else {})


def to_unit(images: list[torch.Tensor]) -> list[torch.Tensor]:
    """From [-1, 1] to [0, 1]."""
    return [(image + 1) / 2 for image in images]


def identities(views: list[torch.Tensor]) -> torch.Tensor:
    """The image that each row shows, int64 (V,): of two views of the real images, then any of the synthetic ones."""
    real, device = len(views[0]), views[0].device
    return torch.cat([torch.arange(len(view), device=device) + real * (k > 1) for k, view in enumerate(views)])
