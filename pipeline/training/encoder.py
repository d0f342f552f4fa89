"""An encoder pretrained by a method on real and generated images, from the store or made."""

import dataclasses
import hashlib
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from pipeline.augment import recipes
from pipeline.core import files, seeds, store
from pipeline.core.errors import UserError
from pipeline.core.progress import log
from pipeline.data import mixture, shards
from pipeline.engine import distributed, loop
from pipeline.generators import cards
from pipeline.measures import probes
from pipeline.methods import Given, View, module
from pipeline.networks import backbones, heads
from pipeline.params.schema import Augment, Compute, Inflation, Pretrain
from pipeline.params.types import Section


def pretrain(
    params: Pretrain,
    own: Section,
    augmentation: Augment,
    mixing: Inflation,
    real: shards.RealSet,
    generated: list[np.ndarray],
    positives: list[np.ndarray],
    generator: Path | None,
    compute: Compute,
) -> tuple[dict[str, Path], list[dict], dict]:
    """Pretrain with `params.method`, whose own parameters are `own`, on the train images and the generated ones.

    generated, positives: uint8 (N, H, W, C) each, parts of a set. positives holds as many candidates for each train
    image, candidate by candidate; a method without a view of them does not look at them. generator: the folder of the
    generator stage, for methods that want one.
    Returns (name -> file of the encoder's folder, the log's rows, facts: what the mixture really drew, how many views
    and passes of the backbone that made); of several processes, only the first gets files, rows and all facts.
    """
    images, labels = real.part(shards.TRAIN)
    validation = real.part(shards.VALIDATION)
    parts = [[part] for part in (images, labels, *validation)] + [generated]
    n_generated = sum(map(len, generated))
    encoder = backbones.build(params.backbone, *backbones.statistics(images), params.seed, images.shape[1])
    kind, beside, origin = module(params.method), [], None
    if wanted := getattr(kind, "GENERATOR", None):
        card = cards.of_generator(generator)
        if (card["kind"], card["source"]) != (wanted, "train"):
            fault = f"is a {card['kind']} of source {card['source']}, and {params.method} wants a trained {wanted}"
            raise UserError(fault, generator, "run `dvc repro generator`")
        beside, origin = [Given(generator, images, augmentation)], card["files"]
    method = kind.build(own, encoder, params.seed, *beside)
    candidates, replaced = 0, replacing(augmentation, method.views)
    if replaced or any(view.source == "positive" for view in method.views):
        parts.append(positives)
        candidates = sum(map(len, positives)) // len(images)
        if not candidates:
            place = "data/generated/positives"
            who = "augment.replace" if replaced else params.method
            raise UserError(f"is empty, and {who} wants positives", place, "set positives.kind")
    fingerprint = store.fingerprint(
        params=params.model_dump(),
        own=own.model_dump(),
        augment=augmentation.model_dump(),
        mixing=[mixing.real_weight, mixing.order, mixing.seed],
        images=[_digest(part) for part in parts],
        generator=origin,
        code=store.code("training/encoder", f"methods/{params.method}"),
        arithmetic=loop.arithmetic(compute),
        versions=backbones.versions(),
        processes=distributed.size(),
    )
    walk = mixture.mixture(len(images), n_generated, mixing, params.batch_size)
    facts = mixture_facts(walk, params.steps)
    log(
        f"real share beta = {facts['beta']:.4f}: {facts['real_drawn']:,} draws of {len(images):,} real images "
        f"({facts['real_passes']:.1f} passes), {facts['generated_drawn']:,} of {n_generated:,} generated ones"
    )
    with distributed.work("encoder", fingerprint) as folder:
        if not distributed.agreed(distributed.first() and (folder / "manifest.json").exists()):
            method.to(compute.device)
            if compute.compile:
                encoder.backbone.compile()
            distributed.synchronise(method)
            bank = shards.ImageBank(images, [*generated, *positives] if candidates else generated, compute.device)
            recipes = [recipe(augmentation, view) for view in method.views]

            def batch(step: int) -> list[torch.Tensor]:
                draw = seeds.generator(augmentation.seed, "views", step, device=compute.device)
                rows, own = walk.rows(step), distributed.share(params.batch_size)
                whose = {"anchor": rows}
                there = len(images), n_generated, candidates, augmentation.seed, step
                if candidates:
                    whose["positive"] = mixture.positives(rows, *there)
                seen = {source: bank[found[own]] for source, found in whose.items()}
                each = [seen[view.source] for view in method.views]
                for k in replaced:
                    each[k] = bank[mixture.replaced(rows, augmentation.replace, *there, k)[own]]
                return recipes.views(each, recipes, draw, (params.batch_size, own))

            task = loop.Task(
                phases=method.phases(),
                batch=batch,
                objects={"method": method},
                before_step=method.before_step,
                after_step=method.after_step,
                evaluate=lambda step: online(encoder, (images, labels), validation, compute),
            )
            plan = loop.Optimisation(
                params, build=lambda groups, lr: optimiser(params, groups, lr), evaluate_every=params.evaluate_every
            )
            method.train()
            rows = loop.train(f"pretraining ({params.method})", task, plan, compute, folder, fingerprint)
            if distributed.first():
                made_by = {"method": params.method, "augment": augmentation.model_dump(), "fingerprint": fingerprint}
                drawn = params.steps * params.batch_size
                passes = round(params.batch_size * forwards(method, images, params.steps))
                made_by |= {"views": drawn * len(method.views), "forwards": passes}
                made_by["candidates"] = candidates
                backbones.save(encoder, folder, **made_by, **facts)
                files.write_json(folder / "rows.json", {"rows": rows})
                kept = method.leave(folder, validation[0]) if hasattr(method, "leave") else []
                names = ["encoder.safetensors", "card.json", "rows.json", *kept]
                shards.seal(folder, names, {"fingerprint": fingerprint})
                (folder / "checkpoint.pt").unlink()
        if not distributed.first():
            return {}, [], facts
        names = shards.verify(folder)["files"]
        rows, card = (files.read_json(folder / f"{name}.json") for name in ("rows", "card"))
        facts |= {name: card[name] for name in ("views", "forwards")}
        return {name: folder / name for name in names if name != "rows.json"}, rows["rows"], facts


def _digest(parts: list[np.ndarray]) -> list:
    """Shape and sha256 of the array that the parts make together, without making it."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part))
    return [sum(map(len, parts)), *(parts[0].shape[1:] if parts else ()), digest.hexdigest()]


def recipe(augmentation: Augment, view: View) -> recipes.Recipe:
    """What a method's view goes through."""
    if view.recipe is None:
        return recipes.PLAIN
    least, most = view.crop or (None, 1.0)
    numbers = augmentation if least is None else augmentation.model_copy(update={"crop_min": least})
    return dataclasses.replace(recipes.recipe(numbers, view.recipe), crop_max=most, size=view.size)


def replacing(augmentation: Augment, views: tuple[View, ...]) -> list[int]:
    """Which of a method's views may show a positive in the image's place, where `augment.replace` is above 0.

    A part of the augmentation: what a method wants as it is, for a real image, stays that image.
    """
    if augmentation.replace == 0:
        return []
    first = {"second": 1, "both": 0}[augmentation.replaced]
    augmented = [k for k, view in enumerate(views) if view.source == "anchor" and view.recipe is not None]
    return [k for k in augmented if k >= first]


def forwards(method: torch.nn.Module, images: np.ndarray, steps: int) -> float:
    """Passes of the backbone in `steps` steps for each image (N, H, W, C) of a batch; a smaller view counts by its
    pixels."""
    pixels = images.shape[1] * images.shape[2]
    sizes = [1.0 if view.size is None else view.size**2 / pixels for view in method.views]

    def of_a_step(passes: tuple[float, ...]) -> float:
        return sum(map(math.prod, zip(passes, sizes, strict=True)))

    if callable(method.passes):
        return sum(of_a_step(method.passes(step)) for step in range(steps))
    return steps * of_a_step(method.passes)


def mixture_facts(mixture: mixture.Mixture | mixture.Copies, steps: int) -> dict:
    """What a run of `steps` draws: the real share, how many images there are and are drawn, passes over the real."""
    real = mixture.real_before(steps)
    return {
        "beta": float(mixture.beta),
        "n_real": mixture.n_real,
        "n_generated": mixture.n_generated,
        "real_drawn": real,
        "generated_drawn": steps * mixture.batch_size - real,
        "real_passes": float(Fraction(real, mixture.n_real)),
    }


def optimiser(params: Pretrain, groups: list[dict], lr: float) -> torch.optim.Optimizer:
    """SGD with momentum, AdamW, or LARS (You et al. 2017) with the clipped trust ratio, of timm."""
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=params.momentum, fused=True)
    if params.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(params.momentum, params.beta2), fused=True)
    from timm.optim import Lars

    return Lars(groups, lr=lr, momentum=params.momentum, trust_coeff=params.trust_coefficient, trust_clip=True)


def online(encoder: backbones.Encoder, train: shards.Part, validation: shards.Part, compute: Compute) -> dict:
    """Top-1 of weighted kNN on the validation images, in percent, or RankMe where there are no labels; and the spread.

    The neighbours are train images that have a label.
    """
    images, labels = train
    known = labels >= 0
    if not known.any() or validation[1].min() < 0:
        seen = probes.features(encoder, images, compute)
        judged = {"rankme": probes.rankme(seen)}
    else:
        x = probes.features(encoder, np.concatenate([images[known], validation[0]]), compute)
        bank, seen = x.split([int(known.sum()), len(validation[0])])
        votes = probes.knn(bank, torch.from_numpy(labels[known]), seen)
        judged = {"validation_knn": probes.accuracy(votes, validation[1])}
    spread = float(heads.spread(seen))
    if spread < heads.COLLAPSED:
        log(f"COLLAPSED: features of all images are alike, their spread is {spread:.2f} (an untrained encoder's: 0.1)")
    return judged | {"feature_spread": spread}
