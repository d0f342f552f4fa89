"""An encoder pretrained by a method on real and generated images, from the store or made."""

import collections
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from pipeline import methods
from pipeline.core import files, sources, weights
from pipeline.core.errors import UserError
from pipeline.core.progress import log
from pipeline.data import mixture, shards
from pipeline.data.bank import ImageBank
from pipeline.engine import arithmetic, distributed, loop
from pipeline.generators import cards
from pipeline.measures import geometry, probes
from pipeline.networks import backbones, heads
from pipeline.params.schema import Augment, Compute, Inflation, Pretrain
from pipeline.params.types import Section
from pipeline.training import online_head, stored
from pipeline.training.batches import Batches, Images, replaced_views


@dataclass(frozen=True)
class Setting:
    """The sections of params.yaml that decide a pretraining; method: the section of `pretrain.method`."""

    pretrain: Pretrain
    method: Section
    augment: Augment
    inflation: Inflation
    start: Path | None = None  # a safetensors file with the encoder's first weights


def pretrain(
    setting: Setting,
    images: Images,
    generator: Path | None,
    compute: Compute,
    follow: loop.Follow = lambda rows: None,
) -> tuple[dict[str, Path], list[dict], dict]:
    """Pretrain an encoder on train images, generated images and positives, or take it from the store.

    generator: the folder of the generator stage, for methods that want one. follow: sees the log as it grows. Only
    methods with views of positives use those. Returns (name -> file of the encoder's folder, the log's rows, facts: how
    many images the mixture drew, how many views and passes of the backbone that made). Only the first of several
    processes gets files and rows.
    """
    params, real = setting.pretrain, images.real
    train, validation = real.part(shards.TRAIN), real.part(shards.VALIDATION)
    n_generated = sum(map(len, images.generated))

    # The method around its encoder
    size = train[0].shape[1]
    encoder = backbones.build(params.backbone, *backbones.statistics(train[0]), params.seed, size, setting.start)
    given, origin = _given(setting, train[0], generator)
    method = methods.load(params.method).build(setting.method, encoder, params.seed, *given)
    candidates = _candidates(setting, method, images)
    positives = images.positives if candidates else []
    head = _online_head(params, method, real)

    # The batches
    drawn = setting.inflation, params.batch_size, params.steps, images.weights
    draw = mixture.mixture(len(train[0]), n_generated, *drawn)
    facts = mixture_facts(draw, params.steps)
    log(
        f"real share beta = {facts['beta']:.4f}: {facts['real_drawn']:,} draws of {facts['n_real']:,} real images "
        f"({facts['real_passes']:.1f} passes), {facts['generated_drawn']:,} of {n_generated:,} generated ones"
    )
    facts["views"] = params.steps * params.batch_size * len(method.views)
    facts["forwards"] = round(params.batch_size * forwards(method, train[0], params.steps))

    # Which images take part is known by their digest; who chose them may differ, and does not belong on the card.
    mixing = setting.inflation.model_dump(exclude={"ratio", "score", "select"})

    def train_in(folder: Path, fingerprint: str) -> tuple[list[str], list[dict]]:
        method.to(compute.device)
        if compute.compile:
            encoder.backbone.compile()
        distributed.synchronise(method)
        bank = ImageBank(train[0], [*images.generated, *positives], compute.device)
        batches = Batches(draw, bank, candidates, method.views, setting.augment)
        phases, objects = phases_of(method, params.decay_vectors), {"method": method}
        if head is not None:
            answers = torch.from_numpy(train[1])
            phases[-1] = head.beside(phases[-1], lambda step: batches.labels(step, answers), params.online_head)
            objects["head"] = head.to(compute.device)
        task = loop.Task(
            phases=phases,
            batch=batches,
            objects=objects,
            before_step=method.before_step,
            after_step=method.after_step,
            evaluate=lambda step: validate(encoder, head, train, validation, compute),
        )
        plan = loop.Optimisation(
            params,
            lambda groups, lr: optimiser(params, groups, lr),
            evaluate_every=params.evaluate_every,
            parts=params.accumulate,
        )
        method.train()
        rows = loop.train(f"pretraining ({params.method})", task, plan, compute, folder, fingerprint, follow)
        if not distributed.first():
            return [], rows
        names = ["encoder.safetensors", "card.json"]
        made_by = {"method": params.method, "augment": setting.augment.model_dump(), "fingerprint": fingerprint}
        made_by |= {"data": real.source, "resize": real.resize, "generated": images.source}
        made_by |= {"mixture": mixing}
        if head is not None:
            weights.save(folder / heads.ONLINE, head.layer)
            names.append(heads.ONLINE)
            made_by["online_sha256"] = files.sha256(folder / heads.ONLINE)
        backbones.save(encoder, folder, **made_by, candidates=candidates, **facts)
        shown = validation[0] if len(validation[0]) else train[0]
        return [*names, *method.save_artifacts(folder, shown)], rows

    decided = {
        "params": params.model_dump(),
        "start": encoder.card.get("start"),
        "data": [real.source, real.resize],
        "method": setting.method.model_dump(),
        "augment": setting.augment.model_dump(),
        "mixing": mixing,
        "weights": None if images.weights is None else stored.digest(images.weights),
        "images": [stored.digest(part) for part in (*train, *validation)],
        "made": [stored.digest(*parts) for parts in (images.generated, positives)],
        "source": images.source,
        "generator": origin,
        "classes": None if head is None else len(real.classes),
        "code": sources.digest("training/encoder", f"methods/{params.method}"),
        "arithmetic": arithmetic.facts(compute),
        "versions": backbones.versions(),
    }
    made, rows = stored.trained("encoder", decided, train_in)
    return made, rows, facts


def _given(setting: Setting, train: np.ndarray, generator: Path | None) -> tuple[list[methods.Given], dict | None]:
    """What a method with a generator gets in addition, and the digests of the generator; nothing for other methods."""
    wanted = methods.load(setting.pretrain.method).GENERATOR
    if wanted is None:
        return [], None
    card = cards.of_generator(generator)
    kind, source = card["kind"], card["source"]
    if (kind, source) != (wanted, "train"):
        fault = f"is a {kind} of source {source}, and {setting.pretrain.method} wants a trained {wanted}"
        raise UserError(fault, generator, "run `dvc repro generator`")
    return [methods.Given(generator, train, setting.augment)], card["files"]


def _online_head(params: Pretrain, method: methods.Method, real: shards.RealSet) -> online_head.OnlineHead | None:
    """The layer that learns labels beside, if one is asked for."""
    if params.online_head is None:
        return None
    if not len(real.with_labels(real.rows(shards.TRAIN))):
        raise UserError("no train image has a label", "params.yaml: pretrain.online_head", "set it to null")
    return online_head.OnlineHead(method.encoder, method.views, len(real.classes), params.seed)


def phases_of(method: methods.Method, decay_vectors: bool) -> list[loop.Phase]:
    """What a step of the method optimises; decay_vectors: biases and normalisation are decayed and adapted, too."""
    if not decay_vectors:
        return method.phases()
    alike = {"decay": True, "adapt": True}
    return [replace(p, groups=[replace(group, **alike) for group in p.groups]) for p in method.phases()]


def _candidates(setting: Setting, method: methods.Method, images: Images) -> int:
    """The number of positives of each train image that views choose among; 0 if no view shows positives."""
    replaced = replaced_views(setting.augment, method.views)
    if not replaced and all(view.source != "positive" for view in method.views):
        return 0
    candidates = sum(map(len, images.positives)) // len(images.real.rows(shards.TRAIN))
    if not candidates:
        who = "augment.replace" if replaced else setting.pretrain.method
        raise UserError(f"is empty, and {who} wants positives", "data/generated/positives", "set positives.kind")
    return candidates


def forwards(method: methods.Method, images: np.ndarray, steps: int) -> float:
    """Passes of the backbone in `steps` steps for each image (N, H, W, C) of a batch; views count by their pixels."""
    pixels = images.shape[1] * images.shape[2]
    sizes = [1.0 if view.size is None else view.size**2 / pixels for view in method.views]
    counts = collections.Counter(method.passes(step) for step in range(steps))
    return sum(n * sum(map(math.prod, zip(passes, sizes, strict=True))) for passes, n in counts.items())


def mixture_facts(mixture: mixture.Mixture | mixture.Copies, steps: int) -> dict:
    """What a run of `steps` draws: the real share, how many images there are and are drawn, passes over the real."""
    real = mixture.real_before(steps)
    return {
        "beta": float(mixture.share),
        "n_real": mixture.n_real,
        "n_generated": mixture.n_generated,
        "real_drawn": real,
        "generated_drawn": steps * mixture.batch_size - real,
        "real_passes": float(Fraction(real, mixture.n_real)),
    }


def optimiser(params: Pretrain, groups: list[dict], lr: float) -> torch.optim.Optimizer:
    """SGD with momentum, AdamW, or LARS (You et al. 2017), of timm."""
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=params.momentum, fused=True)
    if params.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(params.momentum, params.beta2), fused=True)
    from timm.optim import Lars

    trust = {"trust_coeff": params.trust_coefficient, "trust_clip": params.trust_clip}
    return Lars(groups, lr=lr, momentum=params.momentum, **trust)


def validate(
    encoder: backbones.Encoder,
    head: online_head.OnlineHead | None,
    train: shards.Part,
    validation: shards.Part,
    compute: Compute,
) -> dict:
    """Top-1 of weighted kNN on validation images, in percent, that of the online head if there is one, and the spread.

    The neighbours are train images that have a label. Without validation labels: RankMe of the train images instead.
    """
    images, labels = train
    known = labels >= 0
    if not known.any() or validation[1].min(initial=0) < 0 or not len(validation[1]):
        seen = probes.features(encoder, images, compute)
        judged = {"rankme": geometry.rankme(seen)}
    else:
        x = probes.features(encoder, np.concatenate([images[known], validation[0]]), compute)
        bank, seen = x.split([int(known.sum()), len(validation[0])])
        votes = probes.knn(bank, torch.from_numpy(labels[known]), seen)
        judged = {"validation_knn": probes.accuracy(votes, validation[1])}
        if head is not None:
            judged["validation_online"] = probes.accuracy(head.predict(seen), validation[1])
    spread = float(heads.spread(seen))
    if spread < heads.COLLAPSED:
        log(f"COLLAPSED: features of all images are alike, their spread is {spread:.2f} (an untrained encoder's: 0.1)")
    return judged | {"feature_spread": spread}
