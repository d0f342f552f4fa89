"""A DDPM of 15 M parameters on CIFAR-10 for as long as there is time; its Frechet distance by steps, and its images.

It leaves in the folder of `--out` 20,000 images as JPEG of quality 95 in archives, and the averaged weights in halves;
both in files below 16 MiB. A rung whose `--data` folder has those weights goes on from them: the average is taken for
the weights, AdamW's moments are lost, and the average moves on as slowly as it had come to. The rate is constant.
"""

import copy
import io
import time
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from bench.gpu.fast import arithmetic_of, published
from bench.gpu.images import cifar10
from bench.gpu.rung import Check, Setting, defaults
from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.engine import loop
from pipeline.evaluation import quality
from pipeline.generators import ddpm, pixels
from pipeline.measures import probes
from pipeline.params.schema import DDPM, Quality

TRAIN, VALIDATION = 45_000, 5_000
MARKS = (0.1, 0.25, 0.5, 1.0)  # shares of the training's time after which the distance is measured
MADE, BATCH = 20_000, 500  # images that come back; at once
LIMIT = 15 * 2**20  # bytes of a file, with room for its header
JUDGING, PACKING = 30, 15  # seconds that are kept for the last checks, beside those of sampling
WEIGHTS = "diffusion-average"


class Work:
    """The training as it stands, and what judges it."""

    def __init__(self, setting: Setting):
        self.setting, self.real, self.compute = setting, cifar10(setting, TRAIN, VALIDATION), arithmetic_of(setting)
        self.params, self.place = section(setting), TemporaryDirectory(prefix="leaven-")
        network, self.before = started(setting, self.params)
        # Steps after those of an earlier rung draw other noise and other batches.
        again = {"warmup_steps": 0} if self.before else {}
        self.params = self.params.model_copy(update={"seed": self.before, **again})
        images, _ = self.real.part(shards.TRAIN)
        self.training = ddpm.Training(self.params, torch.from_numpy(images).to(setting.device), network)
        self.training.average.optimization_step = self.before  # or its first step would replace it
        self.step, self.step_seconds, self.image_seconds, self.mark_seconds, self.trained = 0, 0.0, 0.0, 0.0, 0.0
        unseen, _ = self.real.part(shards.VALIDATION)
        self.n = min(judging(setting).images, len(unseen) // 2)
        self.embed, self.network = quality.features(self.real, judging(setting), self.compute)
        self.unseen = [self.embed(part) for part in (unseen[: self.n], unseen[self.n : 2 * self.n])]

    def train(self, steps: int) -> list[dict]:
        """So many steps more; the log of all."""
        start = time.perf_counter()
        plan = copy.copy(self.training.plan)
        plan.schedule = self.params.model_copy(update={"steps": self.step + steps})
        with self.setting.stopped():
            rows = loop.train("diffusion", self.training.task, plan, self.compute, Path(self.place.name), "diffusion")
        self.setting.wait()
        took = time.perf_counter() - start
        self.step, self.step_seconds, self.trained = self.step + steps, took / steps, self.trained + took
        return rows

    def due(self, share: float) -> int:
        """Steps until this share of the training's time: what is left, less what comes after the training."""
        marks = sum(mark > share for mark in MARKS) + 1
        later = MADE * self.image_seconds + marks * self.mark_seconds + JUDGING + PACKING
        whole = self.trained + max(0.0, self.setting.left() - later)
        return max(1, int((share * whole - self.trained) / self.step_seconds))

    def sample(self, numbers: range) -> np.ndarray:
        """Images with these numbers by the averaged weights, uint8 (n, H, W, C)."""
        model = copy.deepcopy(self.training.unet)
        self.training.average.copy_to(model.parameters())
        model = ddpm.for_sampling(model, self.compute)
        how = defaults().generate.model_copy(update={"steps": 2 if self.setting.toy else 25, "eta": 0.0})
        start, made = time.perf_counter(), []
        for first in range(numbers.start, numbers.stop, BATCH):
            some = range(first, min(first + BATCH, numbers.stop))
            made.append(pixels.to_uint8(ddpm.sample(model, self.training.noise, how, some, 0, "dpmsolver++")))
        self.image_seconds = (time.perf_counter() - start) / len(numbers)
        return np.concatenate(made)


@cache
def work(setting: Setting) -> Work:
    """The one training of a rung."""
    return Work(setting)


def start(setting: Setting) -> dict:
    """The first steps, which tell what a step costs."""
    own, (warm, timed) = work(setting), (1, 1) if setting.toy else (50, 150)
    own.train(warm)
    own.train(timed)
    parameters = sum(p.numel() for p in own.training.unet.parameters())
    return {"parameters": parameters, "steps before": own.before, "seconds a step": own.step_seconds, **own.network}


def mark(share: float) -> Check:
    """The check that trains until this share of the time and measures the distance."""

    def check(setting: Setting) -> dict:
        own = work(setting)
        rows = own.train(1 if setting.toy else own.due(share))
        began = time.perf_counter()
        made = own.embed(own.sample(range(own.n)))
        found = {
            "steps": own.before + own.step,
            "passes": round(own.step * own.params.batch_size / len(own.training.images), 2),
            "loss": rows[-1]["loss"],
            "frechet": probes.frechet(own.unseen[0], made),
            "frechet floor": probes.frechet(*own.unseen),
            "images a second": 1 / own.image_seconds,
            "weights": write_weights(own),
        }
        own.mark_seconds = time.perf_counter() - began
        return found

    check.__name__ = f"trained_{100 * share:g}_%"
    return check


def images(setting: Setting) -> dict:
    """The images that come back."""
    own = work(setting)
    made = own.sample(range(40 if setting.toy else MADE))
    names = {f"diffusion-images-{k}.zip": archive for k, archive in enumerate(archives(made), 1)}
    for name, archive in names.items():
        files.write(setting.out / name, lambda path, archive=archive: path.write_bytes(archive))
    return {"images": len(made), "images a second": 1 / own.image_seconds, **sizes(setting, list(names))}


def judged(setting: Setting) -> dict:
    """All numbers of `quality`."""
    own = work(setting)
    with setting.stopped():
        return quality.judge(own.sample(range(own.n)), "train", own.real, judging(setting), own.compute).metrics


CHECKS = [start, *map(mark, MARKS), images, judged]


# --- what the checks are made of


def section(setting: Setting) -> DDPM:
    """The parameters of the training; at toy sizes those of the other rungs."""
    steady = {"lr": 4e-4, "min_lr": 4e-4, "warmup_steps": 0 if setting.toy else 500, "weight_decay": 0.0}
    own = {"channels": [96, 192, 192], "layers": 2, "groups": 32, "attention": [1], "dropout": 0.0}
    every = {"ema_decay": 0.9995, "log_every": 1 if setting.toy else 100, "checkpoint_every": 1_000_000}
    return published(setting).model_copy(update={**steady, **every, **({} if setting.toy else own)})


def judging(setting: Setting) -> Quality:
    """The parameters of the judges."""
    numbers = {"images": 2500, "steps": 4 if setting.toy else 1000, "inception": None}
    return defaults().quality.model_copy(update=numbers)


def started(setting: Setting, params: DDPM) -> tuple[torch.nn.Module, int]:
    """The UNet with the weights of an earlier rung, or a fresh one; and how many steps it has behind it."""
    network, found, steps = ddpm.unet(params, 32, 3), {}, 0
    parts = sorted(setting.data.glob(f"{WEIGHTS}-*.safetensors")) if setting.data else []
    for path in parts:
        with safe_open(path, "pt") as part:
            facts = part.metadata()
            steps = int(facts["steps"])
            if int(facts["parts"]) != len(parts):
                raise UserError(f"one of {facts['parts']} parts, and {len(parts)} are there", path, "bring all of them")
            found |= {name: part.get_tensor(name).float() for name in part.keys()}  # noqa: SIM118
    if found:
        network.load_state_dict(found)
    return network, steps


def write_weights(own: Work) -> dict:
    """The averaged weights as halves, which are nearer to them than bfloat16 is, in parts; name -> bytes."""
    averaged = zip(own.training.unet.named_parameters(), own.training.average.shadow_params, strict=True)
    parts: list[dict[str, torch.Tensor]] = [{}]
    for (name, _), value in averaged:
        half = value.detach().to("cpu", torch.float16).contiguous()
        if sum(tensor.nbytes for tensor in parts[-1].values()) + half.nbytes > LIMIT:
            parts.append({})
        parts[-1][name] = half
    names = [f"{WEIGHTS}-{k}-of-{len(parts)}.safetensors" for k in range(1, len(parts) + 1)]
    facts = {"steps": str(own.before + own.step), "parts": str(len(parts))}
    for name, part in zip(names, parts, strict=True):
        files.write(own.setting.out / name, lambda path, part=part: save_file(part, path, metadata=facts))
    return sizes(own.setting, names)


def archives(made: np.ndarray) -> list[bytes]:
    """Images (N, H, W, C) as JPEG files in archives, each below the limit."""
    found, buffer = [], io.BytesIO()
    packed = zipfile.ZipFile(buffer, "w")
    for number, image in enumerate(made):
        picture = io.BytesIO()
        Image.fromarray(image).save(picture, "JPEG", quality=95, optimize=True)
        packed.writestr(zipfile.ZipInfo(f"{number:05d}.jpg"), picture.getvalue())
        if buffer.tell() > 0.9 * LIMIT or number + 1 == len(made):  # the archive's directory is still to come
            packed.close()
            found.append(buffer.getvalue())
            buffer = io.BytesIO()
            packed = zipfile.ZipFile(buffer, "w")
    return found


def sizes(setting: Setting, names: list[str]) -> dict[str, int]:
    """The bytes of files in the folder that a rung leaves."""
    return {name: (setting.out / name).stat().st_size for name in names}
