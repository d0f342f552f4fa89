"""Rules of the method that is trained; sections of other methods are not judged. (methods.py has the sections.)"""

from fractions import Fraction

from pipeline.params.data import kept, real_shares, side
from pipeline.params.methods import METHODS
from pipeline.params.parts import Apart, Queue
from pipeline.params.positives import KINDS
from pipeline.params.types import Faults, told


def chosen(p) -> tuple[str, object]:
    """The method's name and its section."""
    return p.pretrain.method, getattr(p, p.pretrain.method)


def queue(p) -> Faults:
    """A queue is whole batches."""
    (method, own), batch = chosen(p), p.pretrain.batch_size
    size = getattr(own, "queue_size", 0)
    if size % batch:
        yield (method, "queue_size"), f"{size} is not a multiple of pretrain.batch_size {batch}"


def own_key_in_queue(p) -> float:
    """How likely an anchor meets an old key of its own image in a queue of negatives or neighbours (not SwAV's).

    Passes are independent permutations, the queue is c of them long: c^2 / 2 up to one, 1 - (2 - c)^2 / 2 up to two.
    """
    method, own = chosen(p)
    if not issubclass(METHODS[method], Queue):
        return 0.0
    n, made, shares = p.dataset.train_size, kept(p), real_shares(p)
    draws = n / max(shares)  # until every real image was drawn once, where they are drawn most often
    if min(shares) < 1:
        draws = min(draws, made / (1 - min(shares)))  # every generated one
    c = own.queue_size / draws
    return float(c**2 / 2 if c <= 1 else 1 - max(2 - c, 0) ** 2 / 2)


def long_queue(p) -> str:
    """A warning where that is more than one anchor in eight; "" otherwise."""
    method, own = chosen(p)
    chance = own_key_in_queue(p)
    if chance <= 1 / 8:
        return ""
    what = f"{method}.queue_size {own.queue_size} is long for so few images"
    return f"warning: {what}: {100 * chance:.0f} % of the anchors meet an old key of their own image in the queue"


def parted(p) -> str:
    """A warning where a batch in parts is not the same step as the batch at once; "" otherwise."""
    method, trained = p.pretrain.method, {"pretrain": p.pretrain}
    apart = issubclass(METHODS[method], Apart) or (method == "mixed_ae" and not p.mixed_ae.mixing)
    if apart and p.pretrain.backbone.kind == "vit":
        trained = {}
    if p.positives.kind == "conditioned":
        trained["conditioned.encoder"] = p.conditioned.encoder  # SimCLR
    said = [
        f"{name}.accumulate {given.accumulate} is not the step of the whole batch: statistics, negatives and codes are "
        f"of {given.batch_size // given.accumulate} images"
        for name, given in trained.items()
        if given.accumulate > 1
    ]
    return f"warning: {'; '.join(said)}" if said else ""


def warnings(p) -> list[str]:
    """What may surprise, though it runs."""
    return [said for warn in (long_queue, parted) if (said := warn(p))]


def third_view(p) -> Faults:
    """A view of a positive needs positives."""
    method, own = chosen(p)
    if p.positives.kind == "none" and getattr(own, "third_view", None) == "candidate":
        what = f"candidate needs positives.kind {' or '.join(KINDS)}, not none; the control is augmented"
        yield (method, "third_view"), what


def small_views(p) -> Faults:
    """Small views are no larger than the image, whole patches of a ViT, and their crops have a least and a most."""
    (method, own), size = chosen(p), side(p)
    if not getattr(own, "small_views", 0):
        return
    if own.small_size > size:
        yield (method, "small_size"), f"{own.small_size} pixels > {size} of the image"
    if own.small_crop_min > own.small_crop_max:
        yield (method, "small_crop_min"), f"{own.small_crop_min} > {method}.small_crop_max {own.small_crop_max}"
    b = p.pretrain.backbone
    if b.kind == "vit" and b.patch is not None and own.small_size % b.patch:
        what = f"{own.small_size} pixels are no whole patches of pretrain.backbone.patch {b.patch}"
        yield (method, "small_size"), what


def beginning(p) -> Faults:
    """What a method does differently at first ends before the training does."""
    (method, own), steps = chosen(p), p.pretrain.steps
    for name in ("queue_start", "freeze_steps", "teacher_warmup_steps", "real_steps"):
        last = getattr(own, name, 0)
        if last >= steps and (name != "queue_start" or own.queue_size):
            yield (method, name), f"{last} >= pretrain.steps {steps}"
    seen = (steps - 1) * p.pretrain.batch_size
    if hasattr(own, "queue_start") and own.queue_size > seen:
        yield (method, "queue_size"), f"{own.queue_size} > the {seen} images before the last step, so it is never full"


def attention(p) -> Faults:
    """All4One's heads of attention share the features out, and see the five nearest of its queue."""
    if p.pretrain.method == "all4one" and p.all4one.output_dim % 8:
        yield ("all4one", "output_dim"), f"{p.all4one.output_dim} is not a multiple of 8, the heads of attention"
    if p.pretrain.method == "all4one" and p.all4one.queue_size < 5:
        yield ("all4one", "queue_size"), f"must be at least 5, its nearest neighbours, not {p.all4one.queue_size}"


def mixed_ae(p) -> Faults:
    """MixedAE trains a ViT on one view, which must be one that is replaced, if any is."""
    if p.pretrain.method != "mixed_ae":
        return
    if p.pretrain.backbone.kind != "vit":
        kind = p.pretrain.backbone.kind
        yield ("pretrain", "backbone", "kind"), f"must be vit with method mixed_ae, not {kind}"
    if p.compute.compile:
        yield ("compute", "compile"), "must be false with method mixed_ae, whose forward pass is not the one compiled"
    if p.augment.replace > 0 and p.augment.replaced == "second":
        yield ("augment", "replaced"), "must be both with method mixed_ae, which has no second view, not second"
    if p.pretrain.online_head is not None:
        what = f"whose encoder sees no whole image, not {p.pretrain.online_head}"
        yield ("pretrain", "online_head"), f"must be null with method mixed_ae, {what}"


def mixing(p) -> Faults:
    """Groups of images are whole and have patches enough; without mixing nothing of it is used."""
    if p.pretrain.method != "mixed_ae":
        return
    own, batch = p.mixed_ae, p.pretrain.batch_size
    if own.mixing and batch % own.sources:
        yield ("pretrain", "batch_size"), f"{batch} is not a multiple of mixed_ae.sources {own.sources}"
    elif own.mixing and batch % (own.sources * p.pretrain.accumulate):
        parts = f"{p.pretrain.accumulate} parts of pretrain.batch_size {batch}"
        yield ("pretrain", "accumulate"), f"{parts} are no whole groups of mixed_ae.sources {own.sources}"
    for name in () if own.mixing else ("attention", "segments", "contrast"):
        given = getattr(own, name)
        if given:
            wanted = "false" if given is True else 0
            yield ("mixed_ae", name), f"must be {wanted} without mixing, not {told(given)}"
    if own.mix == "full" and not own.mixing:
        yield ("mixed_ae", "mix"), "must be compose without mixing, not full"
    b, size = p.pretrain.backbone, side(p)
    if b.kind == "vit" and b.patch is not None and size % b.patch == 0:
        patches, least = (size // b.patch) ** 2, 2 if own.contrast else 1  # a positive is another patch
        if patches < least * own.sources:
            what = f"{own.sources} images of {least} patches or more in {patches} patches"
            yield ("mixed_ae", "sources"), what


def decoder(p) -> Faults:
    """Heads share the decoder's width out, and a position's code has four parts."""
    if p.pretrain.method != "mixed_ae":
        return
    width, heads = p.mixed_ae.decoder_width, p.mixed_ae.decoder_heads
    if width % heads:
        yield ("mixed_ae", "decoder_heads"), f"{heads} do not divide decoder_width {width}"
    if width % 4:
        yield ("mixed_ae", "decoder_width"), f"{width} is no multiple of 4, the parts of a position's code"


def joint(p) -> Faults:
    """The game starts from a GAN of the data, without other images: its discriminator takes all that it sees for real.

    Generated identities are whole, and there are as many snapshots as steps.
    """
    if p.pretrain.method != "joint_gan":
        return
    own, g = p.joint_gan, p.generator
    if g.kind != "gan" or g.source != "train":
        what = f"joint_gan needs generator.kind gan and source train, not {g.kind} and {g.source}"
        yield ("pretrain", "method"), what
    if p.inflation.ratio > 0:
        what = f"must be 0 with joint_gan, which makes its images as it trains, not {p.inflation.ratio}"
        yield ("inflation", "ratio"), what
    identities = Fraction(str(own.synthetic)) * p.pretrain.batch_size
    if identities.denominator != 1:
        what = f"{own.synthetic} of pretrain.batch_size {p.pretrain.batch_size} is not a whole number of images"
        yield ("joint_gan", "synthetic"), what
    if own.margin_start > own.margin_end:
        yield ("joint_gan", "margin_start"), f"{own.margin_start} > joint_gan.margin_end {own.margin_end}"
    if own.monitor_images > p.dataset.train_size:
        yield ("joint_gan", "monitor_images"), f"{own.monitor_images} > dataset.train_size {p.dataset.train_size}"
    if p.pretrain.accumulate > 1:
        what = f"must be 1 with joint_gan, whose players share a batch, not {p.pretrain.accumulate}"
        yield ("pretrain", "accumulate"), what
    left = p.pretrain.steps - own.real_steps
    if own.mode in ("hard", "pair", "both") and 0 < left < own.every:
        yield ("joint_gan", "every"), f"{own.every} > {left} steps after joint_gan.real_steps: no generator would learn"
    if own.snapshots > p.pretrain.steps + 1:
        yield ("joint_gan", "snapshots"), f"{own.snapshots} > pretrain.steps {p.pretrain.steps} + 1"


RULES = (queue, third_view, small_views, beginning, attention, mixed_ae, mixing, decoder, joint)
