"""Synthetic data can also teach (Wu et al., AAAI 2023, arXiv 2202.06464): a generator that learns to make it hard.

A GAN, trained on the same images, plays on while the encoder learns: its samples are to be hard for the encoder of the
moment (hard), or two generators are to make unlike images of one noise, which are positives of each other (pair), and
all are to stay realistic. The paper's code was not at hand: nearly every detail is our reading (docs/methods.md).
"""

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.augment import differentiable, recipes
from pipeline.core import seeds
from pipeline.core.errors import UserError
from pipeline.engine import distributed
from pipeline.engine.distributed import gather
from pipeline.engine.loop import Own, Phase, groups_of
from pipeline.generators import gan
from pipeline.generators.gan import held
from pipeline.methods import Given, View, game, late
from pipeline.methods.losses import multi_positive
from pipeline.networks.backbones import Encoder
from pipeline.networks.heads import mlp
from pipeline.params.methods import JointGAN as Params

GENERATOR = "gan"
PLAYERS = {"static": 0, "static_pair": 0, "hard": 1, "pair": 2, "both": 2}  # generators that learn


def build(params: Params, encoder: Encoder, seed: int, given: Given) -> "JointGAN":
    """The method around an encoder and a trained GAN, its projector freshly initialised."""
    trained = gan.load(given.generator)
    gan.fit_to(given.images.shape[1:3], given.images.shape[3], trained, str(given.generator))
    with seeds.scope(seed, "projector"):
        return JointGAN(params, encoder, seed, trained, given)


class JointGAN(nn.Module):
    """Encoder and projector, f; the GAN as it came, frozen; the generators and the discriminator that play on."""

    views = (View(recipe=0), View(recipe=1), View(recipe=None))

    def __init__(self, params: Params, encoder: Encoder, seed: int, trained: gan.GAN, given: Given):
        super().__init__()
        self.params, self.seed, self.draws = params, seed, given.augmentation.seed
        self.recipes = [recipes.recipe(given.augmentation, view) for view in (0, 1)]
        self.network = nn.Sequential(encoder, mlp(encoder.width, params.hidden_dim, params.output_dim, norm=False))
        self.frozen = trained.requires_grad_(False).eval()
        players = PLAYERS[params.mode]
        self.generators = nn.ModuleList(copy.deepcopy(trained.generator) for _ in range(players))
        self.discriminators = nn.ModuleList(copy.deepcopy(trained.discriminator) for _ in range(min(players, 1)))
        self.generators.requires_grad_(True)
        self.discriminators.requires_grad_(True)
        if players:
            self.monitor = game.Monitor(seed, params.monitor_images, trained, given.images)
        self.register_buffer("ramped", torch.zeros((), dtype=torch.int64))  # steps of the ramp that are done
        self.snapshots = game.Snapshots(params.snapshots, params.snapshot_images, given.images.shape[1:])

    def train(self, mode: bool = True) -> "JointGAN":
        """The GAN as it came stays in evaluation mode."""
        super().train(mode)
        self.frozen.eval()
        return self

    def phases(self) -> list[Phase]:
        """Generators, discriminator, encoder; the first two by Adam at a rate of their own, where they learn at all."""
        encoder, own = Phase(groups_of(self.network), self.loss), Own(gan.adam, self.params.game_lr)
        if not len(self.generators):
            return [encoder]
        return [
            Phase(groups_of(self.generators), self.generator_loss, "generator", self.playing, own),
            Phase(groups_of(self.discriminators), self.discriminator_loss, "discriminator", self.playing, own),
            encoder,
        ]

    def playing(self, step: int) -> bool:
        """Whether generators and discriminator move in a step."""
        since = step - self.params.real_steps
        return len(self.generators) > 0 and since >= 0 and (since + 1) % self.params.every == 0

    def passes(self, step: int) -> tuple[float, float, float]:
        """Of the backbone for each view of an image in a step; those of synthetic images are counted with the third."""
        if step < self.params.real_steps:
            return 3, 3, 0
        mode, share = self.params.mode, self.params.synthetic
        if not self.playing(step):
            return 3, 3, 12 * share
        real = 4 if mode in ("hard", "both") else 3
        return real, real, (24 if mode == "both" else 18) * share

    def before_step(self, step: int, progress: float) -> None:
        """Measure the generators, halve the ramp if they have gone too far, and keep a snapshot, where it is time."""
        since = step - self.params.real_steps
        if len(self.generators) and since >= 0 and since % self.params.monitor_every == 0:
            self.monitor.measure(self.generators, self.frozen)
            near = self.monitor.near(self.params.growth)
            self.ramped.copy_(torch.where(near, self.ramped, self.ramped // 2))
        self.snapshot(step, progress)

    def after_step(self, step: int, progress: float) -> None:
        """A step of the ramp, unless the generators are too far; the last snapshot."""
        if len(self.generators) and step >= self.params.real_steps:
            self.ramped.add_(self.monitor.near(self.params.growth).long()).clamp_(max=self.params.ramp_steps)
        if progress == 1:
            self.snapshot(step + 1, progress)

    # --- the players' losses

    def loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """The encoder's. batch: two views of real images and the images, float (B, C, H, W) each.

        Four views of each synthetic identity beside them, from step `real_steps` on: two of each image of its pair.
        """
        views = batch[:2]
        self.shared(batch)  # or refused, before the first of `real_steps`
        if step >= self.params.real_steps:
            with torch.no_grad():
                views = [*views, *self.synthetic_views(self.pair(*self.noise("encoder", batch, step)), batch, step)]
        z = gather(self.network(torch.cat(views)).split([len(view) for view in views]))
        real, total = 2 * len(z[0]), F.normalize(torch.cat(z).float(), dim=1)
        found, right = multi_positive(total, identities(z), self.params.temperature)
        terms = {"loss": found.mean(), "real": found[:real].mean(), "agreement": right.float().mean()}
        return terms | ({"synthetic": found[real:].mean()} if len(views) > 2 else {})

    def generator_loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """The generators': adversarial - factor x lambda_h x hardness + lambda_r x distance from the GAN as it came.

        Neither the encoder nor the discriminator changes, and f has stored statistics.
        """
        params, (z, _) = self.params, self.noise("generator", batch, step)
        made = [generator(z) for generator in self.generators]
        adversarial = sum(gan.generator_hinge(scores) for scores in self.scores(made, batch, step))
        realism = self.realism(z, made)
        hardness, told = self.hardness(made, batch, step)
        pulling = params.weight * self.ramp() * hardness
        last = [generator.last.weight for generator in self.generators]
        factor = game.guard(adversarial, pulling, last, params.guard)
        loss = adversarial - factor * pulling + params.realism * realism
        told |= {"adversarial": adversarial, "realism": realism, "guard": factor, "weight": params.weight * self.ramp()}
        told["growth"] = self.monitor.distance / self.monitor.baseline - 1
        return {"loss": loss, **told, "distance": self.monitor.distance}

    def discriminator_loss(self, batch: list[torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """The discriminator's hinge between the batch's images, as they are, and those of all generators."""
        z, _ = self.noise("discriminator", batch, step)
        with torch.no_grad():
            made = torch.cat(gather([generator(z) for generator in self.generators]))
        (discriminator,) = self.discriminators
        n, own = len(batch[2]) * distributed.size(), self.own_rows(len(batch[2]))
        images = differentiable.diff_augment(2 * batch[2] - 1, self.draw("real ones, seen", step), (n, own))
        real = gather([discriminator(images)[0]])[0]
        rows = distributed.share(len(made))
        seen = differentiable.diff_augment(made[rows], self.draw("generated ones, seen", step), (len(made), rows))
        fake = gather([discriminator(seen)[0]])[0]
        return {"loss": gan.discriminator_hinge(real, fake), "real": real.mean(), "fake": fake.mean()}

    def scores(self, made: list[torch.Tensor], batch: list[torch.Tensor], step: int) -> list[torch.Tensor]:
        """The discriminator's of each generator's images, all rows; each sees an augmentation of its own."""
        n, own, found = len(made[0]) * distributed.size(), self.own_rows(len(made[0])), []
        (discriminator,) = self.discriminators
        with held(discriminator):
            for k, images in enumerate(made):
                draw = self.draw(f"generator {k}, seen", step)
                found.append(discriminator(differentiable.diff_augment(images, draw, (n, own)))[0])
        return gather(found)

    def realism(self, z: torch.Tensor, made: list[torch.Tensor]) -> torch.Tensor:
        """Mean of |psi(G(z)) - psi(G_pre(z))|^2 over rows and generators; psi, G_pre: the GAN's as it came."""
        with torch.no_grad():
            _, wanted = self.frozen.discriminator(self.frozen.generator(z))
        apart = [(self.frozen.discriminator(images)[1] - wanted).square().sum(dim=1) for images in made]
        return torch.cat(gather(apart)).mean()

    def hardness(
        self, made: list[torch.Tensor], batch: list[torch.Tensor], step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What the generators raise, and its parts: L_CL of two views of each of the first generator's images, among
        views of the real ones; min(1 - cos(f(G1(z)), f(G2(z))), m) of the images as they are."""
        hard, told = 0.0, {}
        with held(self.network):
            if self.params.mode in ("hard", "both"):
                with torch.no_grad():
                    real = gather(self.network(torch.cat(batch[:2])).chunk(2))
                views = self.synthetic_views(made[:1], batch, step, "generator")
                z = [*real, *gather(self.network(torch.cat(views)).chunk(2))]
                unit = F.normalize(torch.cat(z).float(), dim=1)
                found, _ = multi_positive(unit, identities(z), self.params.temperature)
                told["contrast"] = hard = found[2 * len(real[0]) :].mean()
            if self.params.mode in ("pair", "both"):
                z = [F.normalize(each.float(), dim=1) for each in self.network(torch.cat(self.pixels(made))).chunk(2)]
                with torch.autocast(z[0].device.type, enabled=False):  # which would round the cosine to bf16
                    cosine = torch.linalg.vecdot(*gather(z))
                told["cosine"], told["margin"] = cosine.mean(), self.margin()
                hard = hard + torch.minimum(1 - cosine, self.margin()).mean()
        return hard, told

    # --- the ramp

    def ramp(self) -> torch.Tensor:
        """How much of the ramp is done: from 0 to 1."""
        return self.ramped / self.params.ramp_steps

    def margin(self) -> torch.Tensor:
        """m(t), from margin_start to margin_end along the ramp."""
        return self.params.margin_start + self.ramp() * (self.params.margin_end - self.params.margin_start)

    # --- images

    def noise(self, player: str, batch: list[torch.Tensor], step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """This process's latent rows of a player's step, and fresh ones beside them: float (B_s, latent) each."""
        n, own = self.shared(batch)
        draw = self.draw(f"latents of the {player}", step)
        both = torch.randn(2, n, self.frozen.form["latent"], generator=draw, device=self.ramped.device)
        return tuple(both[:, own])

    def shared(self, batch: list[torch.Tensor]) -> tuple[int, slice]:
        """B_s, the synthetic identities of a step, and which are this process's; refused where they share unevenly."""
        n, processes = round(self.params.synthetic * len(batch[0]) * distributed.size()), distributed.size()
        if n % processes:
            what = f"{n} synthetic images a step among {processes} processes"
            raise UserError(what, "PIPELINE_LAUNCH", "the number must divide joint_gan.synthetic x pretrain.batch_size")
        return n, distributed.share(n)

    def pair(self, z: torch.Tensor, fresh: torch.Tensor) -> list[torch.Tensor]:
        """The two images of each identity, float (n, C, H, W) in [-1, 1]: the same where the arm has no pairs."""
        share = self.params.perturbation
        makers = list(self.generators) or [self.frozen.generator]
        images = [maker(z) for maker in makers]
        if self.params.mode == "static_pair":
            images.append(makers[0]((1 - share) ** 0.5 * z + share**0.5 * fresh))
        return [images[0], images[-1]]

    def synthetic_views(
        self, images: list[torch.Tensor], batch: list[torch.Tensor], step: int, player: str = "encoder"
    ) -> list[torch.Tensor]:
        """Two views of each of the images, augmented as real ones are, with their gradient: float (n, C, H, W) each."""
        images = self.pixels(images)
        n, own = len(images[0]) * distributed.size(), self.own_rows(len(images[0]))
        views = [image for image in images for _ in self.recipes]
        draw = seeds.generator(self.draws, f"synthetic views of the {player}", step, device=self.ramped.device.type)
        drawn = recipes.draw(self.recipes * len(images), n, tuple(images[0].shape[2:]), draw)
        rows = torch.arange(len(drawn.flip), device=self.ramped.device).view(-1, n)[:, own].flatten()
        return list(differentiable.apply(torch.cat(views), drawn.of(rows)).chunk(len(views)))

    @staticmethod
    def pixels(images: list[torch.Tensor]) -> list[torch.Tensor]:
        """From [-1, 1] to [0, 1]."""
        return [(image + 1) / 2 for image in images]

    @staticmethod
    def own_rows(n: int) -> slice:
        """This process's rows of the whole, of which it has n."""
        return distributed.share(n * distributed.size())

    def draw(self, purpose: str, step: int) -> torch.Generator:
        """Random numbers of one purpose in one step."""
        return seeds.generator(self.seed, f"joint-gan: {purpose}", step, device=self.ramped.device.type)

    # --- snapshots

    def snapshot(self, step: int, progress: float) -> None:
        """Keep the pairs of fixed noise after `step` steps, if that is due."""
        if not self.snapshots.due(progress):
            return
        z, fresh = (self.fixed_noise(name) for name in ("snapshots", "fresh snapshots"))
        with torch.no_grad(), held(self.generators, self.network):
            made = self.pair(z, fresh)
            f = [F.normalize(self.network(images), dim=1) for images in self.pixels(made)]
        self.snapshots.keep(step, made, torch.linalg.vecdot(*f))

    def fixed_noise(self, purpose: str) -> torch.Tensor:
        """Latent rows of the snapshots: float (M, latent)."""
        return game.fixed_noise(self.seed, purpose, self.params.snapshot_images, self.frozen)

    def leave(self, folder: Path, images: np.ndarray) -> list[str]:
        """Write the snapshots; returns the file's name. The images are not looked at."""
        self.snapshots.write(folder, self.fixed_noise("snapshots"), self.params.mode)
        return [game.SNAPSHOTS]


def pictures(made: dict[str, Path]) -> list[tuple[str, np.ndarray]]:
    """The generators' images over time."""
    return game.pictures(made[game.SNAPSHOTS])


def outcomes(rows: list[dict], made: dict[str, Path]) -> dict[str, float]:
    """synthetic: L_CL of synthetic anchors, late, and synthetic_start, in the first row that has it; cosine of the last
    snapshot's pairs; frechet_growth and frechet_most, of generators that learn: the monitor's, at the end and at most.
    """
    synthetic = [row for row in rows if "synthetic" in row]  # the first rows may have real images alone
    growth = [row["generator_growth"] for row in rows if "generator_growth" in row]
    found = {"cosine": game.last_cosine(made[game.SNAPSHOTS])}
    if synthetic:
        found |= {"synthetic": late(synthetic, "synthetic"), "synthetic_start": synthetic[0]["synthetic"]}
    return found | ({"frechet_growth": growth[-1], "frechet_most": max(growth)} if growth else {})


def identities(views: list[torch.Tensor]) -> torch.Tensor:
    """Whose view each row is, of two views of the real images and any number of the synthetic ones: int64 (V,)."""
    real, device = len(views[0]), views[0].device
    return torch.cat([torch.arange(len(view), device=device) + real * (k > 1) for k, view in enumerate(views)])
