"""SimCLR pretraining: ours against a plain lightly script, and against that script as a user gets it.

python -m bench pretrain

Both train the same ResNet by SGD on 32 x 32 x 3 images, with equal batches, temperature and head. lightly's way:
SimCLRTransform in a DataLoader of two workers, its projection head and NTXentLoss; first in our precision and memory
format, then as a user gets it: fp32, contiguous.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler

from bench import pairs
from bench.views import Pictures, images
from pipeline.core import seeds
from pipeline.data import mixture
from pipeline.data.bank import ImageBank
from pipeline.engine import loop
from pipeline.evaluation.quality import plain
from pipeline.methods import losses, simclr
from pipeline.networks import backbones
from pipeline.params.methods import SimCLR
from pipeline.params.schema import Compute
from pipeline.training import encoder as training
from pipeline.training.batches import Batches

BATCH, WORKERS, RATE, TEMPERATURE = 128, 2, 0.05, 0.2
HEAD = SimCLR(hidden_dim=512, output_dim=128, temperature=TEMPERATURE, views_together=True)
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
MADE_EQUAL = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0, "lr": RATE, "warmup_steps": 1}
"""Steps of one timing, by the network's width: a few seconds each."""
STEPS = {16: 48, 32: 24}


def encoder(width: int) -> backbones.Encoder:
    """The default preset's ResNet (one block a stage) at a width, for RGB images."""
    return backbones.build(backbones.resnet(width, [1, 1, 1, 1]), MEAN, STD, 0)


class Ours:
    """The real loop, checkpoint and log included, a fresh run each time."""

    def __init__(self, pixels: np.ndarray, width: int, compute: Compute):
        self.width, self.compute = width, compute
        drawn = mixture.Mixture(len(pixels), 0, 1.0, BATCH, 0)
        self.batch = Batches(drawn, ImageBank(pixels, [], "cpu"), 0, simclr.SimCLR.views, plain(3, strength=2.0))
        steps = STEPS[width]
        self.schedule = pairs.setting().pretrain.model_copy(
            update=MADE_EQUAL | {"steps": steps, "log_every": steps, "checkpoint_every": steps}
        )

    def __call__(self) -> None:
        method = simclr.SimCLR.build(HEAD, encoder(self.width), 0).train()
        task = loop.Task(method.phases(), self.batch, {"method": method})
        schedule = self.schedule
        plan = loop.Optimisation(schedule, lambda groups, lr: training.optimiser(schedule, groups, lr))
        with tempfile.TemporaryDirectory() as folder:
            loop.train("bench", task, plan, self.compute, Path(folder), "bench")


class Script:
    """What lightly's tutorial on SimCLR does, in our precision and memory format; with compute None as it comes."""

    def __init__(self, pixels: np.ndarray, width: int, compute: Compute | None):
        self.width, self.plain = width, compute is None
        self.half = compute is not None and compute.precision == "bf16"
        pictures = Pictures(pixels)
        drawn = RandomSampler(pictures, num_samples=STEPS[width] * BATCH)  # no worker may run on into our turn
        self.loader = DataLoader(pictures, BATCH, sampler=drawn, num_workers=WORKERS, persistent_workers=True)

    def __call__(self) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        backbone = encoder(self.width)
        if self.plain:
            backbone.to(memory_format=torch.contiguous_format)
        head = SimCLRProjectionHead(backbone.width, HEAD.hidden_dim, HEAD.output_dim, batch_norm=False)
        criterion = NTXentLoss(temperature=TEMPERATURE)
        model = torch.nn.Sequential(backbone, head)
        optimiser = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
        for one, two in self.loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
                z = [model(view) for view in (one, two)]
            loss = criterion(*(x.float() for x in z))
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            loss.item()


def same_loss() -> None:
    """lightly's loss and ours agree on the same embeddings."""
    from lightly.loss import NTXentLoss

    one, two = (torch.randn(BATCH, 128, generator=seeds.generator(0, "bench z", k)) for k in (0, 1))
    mine = losses.nt_xent(torch.nn.functional.normalize(torch.cat([one, two]), dim=1), TEMPERATURE)["loss"]
    if abs(float(mine) - float(NTXentLoss(temperature=TEMPERATURE)(one, two))) > 1e-4:
        raise SystemExit("pretrain: losses differ: not the same work")


def rows() -> list[pairs.Row]:
    """Both scripts, at two widths."""
    compute = pairs.setting().compute
    same_loss()
    pixels, found = images(), []
    for width, target in ((32, 1.1), (16, 1.25)):
        note = f"width {width}, {STEPS[width]} steps of {BATCH}, 32 x 32 x 3, {compute.precision}"
        with pairs.apart(Script, pixels, width, compute) as theirs:
            ours = Ours(pixels, width, compute)
            found.append(pairs.compare(f"pretrain, width {width}", ours, theirs, target, note=note))
    note = f"width 32, {STEPS[32]} steps of {BATCH}; theirs fp32, contiguous"
    with pairs.apart(Script, pixels, 32, None) as theirs:
        found.append(pairs.compare("pretrain_shipped", Ours(pixels, 32, compute), theirs, 3, note=note))
    return found
