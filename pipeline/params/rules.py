"""Values that are possible alone and impossible together: each rule names both."""

from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from operator import attrgetter

Fault = tuple[tuple, str]
# Height = width, channels and training images of the named sets, known before a byte is read.
SETS = {
    "fashion-mnist": (28, 1, 60_000),
    "cifar10": (32, 3, 50_000),
    "cifar100": (32, 3, 50_000),
    "stl10": (96, 3, 105_000),
    "svhn": (32, 3, 73_257),
    "tiny-imagenet": (64, 3, 100_000),
}
ENCODERS = (("pretrain",), ("conditioned", "encoder"))  # the sections that train one
WITH_LABELS = {"stl10": 5_000}  # of the training images, where not all of them


def broken(p) -> list[Fault]:
    """Every rule that the parameters break, as (path of the key, message). Rules that lack a value are passed."""
    found = []
    for rule in RULES:
        try:
            for fault in rule(p):
                found.append(fault)  # noqa: PERF402  (one by one: a rule that breaks off keeps what it found)
        except (AttributeError, TypeError):  # the schema has already refused a value that the rule needs
            continue
    return found


def shape(dataset) -> tuple[int, int, int | None]:
    """Height = width, channels and training images of the set; None where only its files can tell."""
    return SETS.get(dataset.name) or (dataset.image_size, dataset.channels, None)


def sets(p) -> dict:
    """The sets of `transfer` by their names, of parameters that have faults as well."""
    return p.transfer if isinstance(p.transfer, dict) else vars(p.transfer)


def folder(p) -> Iterator[Fault]:
    """A folder's size and channels are chosen; those of a named set are its own."""
    d = p.dataset
    for name in ("image_size", "channels", "test_size"):
        given = getattr(d, name)
        if d.name != "folder" and given is not None:
            yield ("dataset", name), _its_own(d.name, given)
        if d.name == "folder" and given is None and name != "test_size":
            yield ("dataset", name), "must be a number for a folder of pictures, not null"


def _its_own(name: str, given: int) -> str:
    return f"must be null for {name}, which has its own, not {given}"


def dataset(p) -> Iterator[Fault]:
    """The split fits the set."""
    d = p.dataset
    _, _, images = shape(d)
    known = WITH_LABELS.get(d.name, images)
    alike = " with labels" if d.name in WITH_LABELS else ""
    for name, there, words in (("train_size", images, ""), ("labelled_size", known, alike)):
        wanted = getattr(d, name)
        if images and wanted + d.validation_size > there:
            yield ("dataset", name), f"{wanted} + validation_size {d.validation_size} > {there} images{words}"
    left = images and images - d.validation_size - max(d.train_size, d.labelled_size)  # at most
    if images and 0 <= left < d.spare_size:
        yield ("dataset", "spare_size"), f"{d.spare_size} > {left} images that the other parts leave"


def several(p) -> Iterator[Fault]:
    """One image has no spread: not in a batch, not in a measure, not in an interval."""
    named = (
        "dataset.validation_size",
        "dataset.test_size",
        "dataset.spare_size",
        "quality.images",
        "pretrain.batch_size",
        "finetune.batch_size",
    )
    for section, name in (words.split(".") for words in named):
        if getattr(getattr(p, section), name) == 1:
            yield (section, name), "must be at least 2, not 1"


def generator(p) -> Iterator[Fault]:
    """Where the generator comes from is said once."""
    g = p.generator
    if g.source == "none" and p.inflation.ratio > 0:
        yield ("inflation", "ratio"), f"must be 0 with generator.source none, not {p.inflation.ratio}"
    if g.source != "pretrained" and g.hub is not None:
        yield ("generator", "hub"), f"is for source pretrained and must be null with source {g.source}, not {g.hub}"
    if g.channel_order is not None and (g.source != "import" or shape(p.dataset)[1] == 1):
        what = f"is for importing RGB images and must be null otherwise, not {g.channel_order}"
        yield ("generator", "channel_order"), what
    if (g.hub is None) != (g.revision is None):
        both = f"hub {g.hub or 'null'} and revision {g.revision or 'null'}"
        yield ("generator", "revision"), f"{both} go together: a repository and a commit of it (40 hex digits)"
    if g.source == "pretrained" and g.hub is not None and g.sha256 is None:
        yield ("generator", "sha256"), f"is needed with hub {g.hub}: that of its weights, which the hub shows"
    if g.sha256 is not None and g.source != "pretrained":
        yield ("generator", "sha256"), f"is for source pretrained and must be null with source {g.source}"
    if g.source == "pretrained" and g.kind != "ddpm":
        yield ("generator", "source"), f"pretrained is for kind ddpm; a {g.kind} is trained here, by train"


def trained(p) -> Iterator[tuple[str, object]]:
    """The generators that are trained here: the names of their sections, and these."""
    if p.generator.source == "train":
        yield p.generator.kind, getattr(p, p.generator.kind)
    if p.positives.kind == "conditioned":
        yield "conditioned", p.conditioned


def ddpm(p) -> Iterator[Fault]:
    """The UNet's levels fit its normalisation and the image."""
    for name in ("ddpm", "conditioned"):
        own = getattr(p, name)
        for channels in own.channels:
            if channels % own.groups:
                yield (name, "groups"), f"{own.groups} does not divide {channels} of {name}.channels"
    size, _, _ = shape(p.dataset)
    for name, own in ((name, own) for name, own in trained(p) if name != "gan"):
        halvings = len(own.channels) - 1
        if size % 2**halvings:
            what = f"{len(own.channels)} levels halve {halvings} times; {size} pixels do not allow it"
            yield (name, "channels"), what


def gan(p) -> Iterator[Fault]:
    """The image's side is halved until it has at most seven pixels, which the generator begins with."""
    side, _, _ = shape(p.dataset)
    if p.generator.kind != "gan" or p.generator.source != "train":
        return
    size = side
    while side > 7 and not side % 2:
        side //= 2
    if side > 7:
        yield ("generator", "kind"), f"gan halves {size} pixels to 7 or fewer, and {side} is odd"


def generate(p) -> Iterator[Fault]:
    """The sampler has use for what it is given, and batches tile shards."""
    g = p.generate
    if (g.sampler == "direct") != (p.generator.kind == "gan"):
        wanted = "direct for a gan, which has no other" if p.generator.kind == "gan" else "one of a ddpm's"
        yield ("generate", "sampler"), f"must be {wanted}, not {g.sampler}"
    if g.sampler == "direct":
        if g.steps != 1:
            yield ("generate", "steps"), f"must be 1 with sampler direct, one pass of the generator, not {g.steps}"
        if not g.clip:
            yield ("generate", "clip"), "must be true with sampler direct: a GAN's images are in range as they are"
    if g.eta != 0 and g.sampler != "ddim":
        yield ("generate", "eta"), f"is for the ddim sampler and must be 0 with {g.sampler}, not {g.eta}"
    if g.shard_size % g.batch_size:
        yield ("generate", "shard_size"), f"{g.shard_size} is not a multiple of generate.batch_size {g.batch_size}"
    if p.generator.source not in ("train", "pretrained") or p.generator.kind != "ddpm":
        return
    trained_here = p.generator.source == "train"
    timesteps = p.ddpm.timesteps if trained_here else 1000  # what published DDPMs have
    name = "ddpm.timesteps" if trained_here else "a published DDPM's timesteps"
    if g.steps > timesteps:
        yield ("generate", "steps"), f"{g.steps} > {name} {timesteps}"
    elif g.sampler in ("ddpm", "ddim") and timesteps % g.steps:  # diffusers rounds the stride, not the grid
        yield ("generate", "steps"), f"{g.steps} does not divide {name} {timesteps}, as sampler {g.sampler} needs"


def positives(p) -> Iterator[Fault]:
    """Positives are sampled by a diffusion model, on DDIM's whole grid, and who wants them has them."""
    s, method = p.positives, p.pretrain.method
    if s.kind == "none":
        if getattr(getattr(p, method), "third_view", None) == "candidate":
            what = "candidate needs positives.kind anchored, conditioned or unclip, not none; the control is augmented"
            yield (method, "third_view"), what
        if p.augment.replace > 0:
            yield ("augment", "replace"), f"must be 0 with positives.kind none, not {p.augment.replace}"
        return
    anchored = s.kind == "anchored"
    if anchored and (p.generator.source not in ("train", "pretrained") or p.generator.kind != "ddpm"):
        what = f"{s.kind} needs a DDPM: generator.kind ddpm, source train or pretrained"
        yield ("positives", "kind"), what
    for name, own in (("weight", anchored), ("guidance", not anchored)):
        given = getattr(s, name)
        if own != (given is not None):
            wanted = "a number" if own else "null"
            yield ("positives", name), f"must be {wanted} with kind {s.kind}, not {'null' if given is None else given}"
    if s.shard_size % s.batch_size:
        yield ("positives", "shard_size"), f"{s.shard_size} is not a multiple of positives.batch_size {s.batch_size}"
    if s.kind == "unclip":
        if s.guidance is not None and s.guidance < 1:
            yield ("positives", "guidance"), f"must be at least 1 with kind unclip, which has no less, not {s.guidance}"
        if s.clip:
            yield ("positives", "clip"), "must be false with kind unclip: latents have no range"
    published = 1000
    name, timesteps = {
        "conditioned": ("conditioned.timesteps", p.conditioned.timesteps),
        "unclip": ("a published pipeline's timesteps", published),
        "anchored": ("ddpm.timesteps", p.ddpm.timesteps)
        if p.generator.source == "train"
        else ("a published DDPM's timesteps", published),
    }[s.kind]
    if timesteps % s.steps:  # more than these do not divide them either
        yield ("positives", "steps"), f"{s.steps} does not divide {name} {timesteps}"


def quality(p) -> Iterator[Fault]:
    """Generated images are judged beside two halves of the validation images, as many in each."""
    n, there = p.quality.images, p.dataset.validation_size
    if 2 * n > there:
        yield (
            ("quality", "images"),
            f"{n} generated images want 2 x {n} of validation; dataset.validation_size is {there}",
        )


def mixture(p) -> Iterator[Fault]:
    """No batch needs more images of a kind than there are; in the exact arithmetic of pipeline.inflation."""
    if p.inflation.order == "copies":
        if p.inflation.real_weight % 1:
            what = f"must be whole with inflation.order copies, not {p.inflation.real_weight}"
            yield ("inflation", "real_weight"), what
        return
    n, batch = p.dataset.train_size, p.pretrain.batch_size
    generated = int(Fraction(str(p.inflation.ratio)) * n + Fraction(1, 2))
    weight = Fraction(str(p.inflation.real_weight)) * n
    beta = weight / (weight + generated)
    for kind, share, there in (("real", beta, n), ("generated", 1 - beta, generated)):
        needed = ceil(share * batch)
        if needed > there:
            yield (
                ("pretrain", "batch_size"),
                f"a batch of {batch} at inflation.ratio {p.inflation.ratio} needs {needed} {kind} images; "
                f"there are {there}",
            )


def queue(p) -> Iterator[Fault]:
    """A method's queue is whole batches, and at most half of a pass.

    Passes are independent permutations: an anchor meets an old key of its own with probability c^2 / 2, c the queue as
    a share of the pass. At one half that is one anchor in eight. SwAV's holds no negatives and no neighbours.
    """
    method, batch = p.pretrain.method, p.pretrain.batch_size
    size = getattr(getattr(p, method), "queue_size", None)
    if size is None:
        return
    if size % batch:
        yield (method, "queue_size"), f"{size} is not a multiple of pretrain.batch_size {batch}"
    if method == "swav":
        return
    n, weight = p.dataset.train_size, Fraction(str(p.inflation.real_weight))
    generated = int(Fraction(str(p.inflation.ratio)) * n + Fraction(1, 2))
    draws = (weight * n + generated) / weight  # until every real image was drawn once
    if generated:
        draws = min(draws, weight * n + generated)  # every generated one
    if 2 * size > draws:
        yield (
            (method, "queue_size"),
            f"{size} is more than half of the {int(draws)} draws in which images come round: "
            "more than one anchor in eight would meet an old key of its own in it",
        )


def attention(p) -> Iterator[Fault]:
    """The heads of attention share the features out."""
    if p.pretrain.method == "all4one" and p.all4one.output_dim % 8:
        yield ("all4one", "output_dim"), f"{p.all4one.output_dim} is not a multiple of 8, the heads of attention"


def small_views(p) -> Iterator[Fault]:
    """Small views are no larger than the image, and their crops lie between a least and a most."""
    method, (size, _, _) = p.pretrain.method, shape(p.dataset)
    own = getattr(p, method)
    if not getattr(own, "small_views", 0):
        return
    if own.small_size > size:
        yield (method, "small_size"), f"{own.small_size} pixels > {size} of the image"
    if own.small_crop_min > own.small_crop_max:
        yield (method, "small_crop_min"), f"{own.small_crop_min} > {method}.small_crop_max {own.small_crop_max}"


def joint(p) -> Iterator[Fault]:
    """The game starts from a GAN of the data, generated identities are whole, and there are as many snapshots as steps.

    Its synthetic images are made while the encoder learns: the discriminator takes what the mixture draws for real.
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
    if own.snapshots > p.pretrain.steps + 1:
        yield ("joint_gan", "snapshots"), f"{own.snapshots} > pretrain.steps {p.pretrain.steps} + 1"


def beginning(p) -> Iterator[Fault]:
    """What a method does differently at first ends before the training does."""
    method, steps = p.pretrain.method, p.pretrain.steps
    own = getattr(p, method)
    for name in ("queue_start", "freeze_steps", "teacher_warmup_steps", "real_steps"):
        last = getattr(own, name, 0)
        if last >= steps and (name != "queue_start" or own.queue_size):
            yield (method, name), f"{last} >= pretrain.steps {steps}"


def batches(p) -> Iterator[Fault]:
    """A batch of a generator's training, and of a condition's encoder, fits the train images."""
    sections = [((name,), own) for name, own in trained(p)]
    if p.positives.kind == "conditioned":
        sections.append((("conditioned", "encoder"), p.conditioned.encoder))
    for path, own in sections:
        if own.batch_size > p.dataset.train_size:
            yield (*path, "batch_size"), f"{own.batch_size} > dataset.train_size {p.dataset.train_size}"


def transfer(p) -> Iterator[Fault]:
    """Each set has its own test part or is told how many images that are, and its split fits it."""
    for key, d in sets(p).items():
        if d.name != "folder" and d.test_size is not None:
            yield ("transfer", key, "test_size"), _its_own(d.name, d.test_size)
        for name in ("validation_size", "test_size"):
            if getattr(d, name) == 1:
                yield ("transfer", key, name), "must be at least 2, not 1"
        there = WITH_LABELS.get(d.name) or SETS.get(d.name, (None, None, None))[2]
        if there and d.train_size + d.validation_size > there:
            what = f"{d.train_size} + validation_size {d.validation_size} > {there} images with labels"
            yield ("transfer", key, "train_size"), what


def finetune(p) -> Iterator[Fault]:
    """A share of the labels is one stage."""
    for i, share in enumerate(p.finetune.labels):
        if share in p.finetune.labels[:i]:
            yield ("finetune", "labels", i), f"{share:g} stands twice in finetune.labels"


def training(p) -> Iterator[Fault]:
    """Warm-up ends before the training does."""
    for path in (("ddpm",), ("gan",), ("conditioned",), ("conditioned", "encoder"), ("pretrain",), ("finetune",)):
        section = attrgetter(".".join(path))(p)
        if section.warmup_steps >= section.steps:
            yield (*path, "warmup_steps"), f"{section.warmup_steps} >= {'.'.join(path)}.steps {section.steps}"


def evaluation(p) -> Iterator[Fault]:
    """A measurement joins a row of the log."""
    for path in ENCODERS:
        t = attrgetter(".".join(path))(p)
        if t.evaluate_every % t.log_every:
            what = f"{t.evaluate_every} is not a multiple of {'.'.join(path)}.log_every {t.log_every}"
            yield (*path, "evaluate_every"), what


def backbone(p) -> Iterator[Fault]:
    """A backbone has what its kind wants and nothing of the other's, and patches tile what a ViT is shown."""
    size, _, _ = shape(p.dataset)
    for path in ENCODERS:
        for name, fault in unfit(attrgetter(".".join(path))(p).backbone, size):
            yield (*path, "backbone", name), fault
    b, own = p.pretrain.backbone, getattr(p, p.pretrain.method)
    if b.kind == "vit" and getattr(own, "small_views", 0) and own.small_size % b.patch:
        what = f"{own.small_size} pixels are no whole patches of pretrain.backbone.patch {b.patch}"
        yield (p.pretrain.method, "small_size"), what


OF_KIND = {"resnet": ("blocks",), "vit": ("depth", "heads", "patch")}


def unfit(b, size: int) -> Iterator[tuple[str, str]]:
    """(field, fault) of a backbone for images of `size` pixels a side."""
    for kind, names in OF_KIND.items():
        for name in names:
            given = getattr(b, name)
            if kind == b.kind and given is None:
                yield name, f"must be given with kind {kind}, not null"
            if kind != b.kind and given is not None:
                yield name, f"is for kind {kind} and must be null with kind {b.kind}, not {given}"
    if b.kind == "resnet":
        return
    if b.patch is not None and size % b.patch:
        yield "patch", f"{b.patch} does not divide the image's {size} pixels"
    if b.heads is not None and b.width % b.heads:
        yield "heads", f"{b.heads} do not divide width {b.width}"
    if b.width % 4:
        yield "width", f"{b.width} is no multiple of 4, the parts of a position's code"


def mixed_ae(p) -> Iterator[Fault]:
    """MixedAE wants a ViT, whole groups in a batch, and patches enough; without mixing nothing of it is used.

    It has one view, so that no view but the first is none.
    """
    if p.pretrain.method != "mixed_ae":
        return
    own, b, batch, (size, _, _) = p.mixed_ae, p.pretrain.backbone, p.pretrain.batch_size, shape(p.dataset)
    if b.kind != "vit":
        yield ("pretrain", "backbone", "kind"), f"must be vit with method mixed_ae, not {b.kind}"
    if p.compute.compile:
        yield ("compute", "compile"), "must be false with method mixed_ae, whose forward pass is not the one compiled"
    if p.augment.replace > 0 and p.augment.replaced == "second":
        yield ("augment", "replaced"), "must be both with method mixed_ae, which has no second view, not second"
    if own.mixing and batch % own.sources:
        yield ("pretrain", "batch_size"), f"{batch} is not a multiple of mixed_ae.sources {own.sources}"
    for name in () if own.mixing else ("attention", "segments", "contrast"):
        given = getattr(own, name)
        if given:
            wanted = "false" if given is True else 0
            yield ("mixed_ae", name), f"must be {wanted} without mixing, not {str(given).lower()}"
    if own.mix == "full" and not own.mixing:
        yield ("mixed_ae", "mix"), "must be compose without mixing, not full"
    if own.decoder_width % own.decoder_heads:
        yield ("mixed_ae", "decoder_heads"), f"{own.decoder_heads} do not divide decoder_width {own.decoder_width}"
    if own.decoder_width % 4:
        yield ("mixed_ae", "decoder_width"), f"{own.decoder_width} is no multiple of 4, the parts of a position's code"
    if b.kind == "vit" and size % b.patch == 0:
        patches, least = (size // b.patch) ** 2, 2 if own.contrast else 1  # a positive is another patch
        if patches < least * own.sources:
            what = f"{own.sources} images of {least} patches or more in {patches} patches"
            yield ("mixed_ae", "sources"), what


OPTIONS = {"trust_coefficient": "lars", "beta2": "adamw"}  # of one optimiser each


def optimizer(p) -> Iterator[Fault]:
    """LARS has its coefficient and a decay (timm's adapts decayed parameters only), AdamW its second moment's beta."""
    for path in ENCODERS:
        t = attrgetter(".".join(path))(p)
        for name, owner in OPTIONS.items():
            value = getattr(t, name)
            if (t.optimizer == owner) != (value is not None):
                wanted = f"a number with {owner}" if t.optimizer == owner else f"null with {t.optimizer}"
                yield (*path, name), f"must be {wanted}, not {'null' if value is None else value}"
        if t.optimizer == "lars" and t.weight_decay == 0:
            what = f"must be above 0 with lars, which scales the steps of decayed weights alone, not {t.weight_decay}"
            yield (*path, "weight_decay"), what


def grey(p) -> Iterator[Fault]:
    """One channel has no saturation, no hue, nothing to make grey."""
    a, (_, channels, _) = p.augment, shape(p.dataset)
    if channels == 1 and a.form != "grey":
        yield (
            ("augment", "form"),
            f"must be grey, not {a.form}: {p.dataset.name} has one channel, without saturation, hue or grayscale",
        )
    if channels == 3 and a.form == "grey":
        yield ("augment", "form"), f"must be colour, not {a.form}: {p.dataset.name} has three channels"
    for name in ("saturation", "hue", "grayscale"):
        if a.form == "grey" and getattr(a, name):
            yield ("augment", name), f"must be null or 0 with form grey, not {getattr(a, name)}"


RULES = (
    folder,
    dataset,
    several,
    generator,
    ddpm,
    batches,
    gan,
    generate,
    positives,
    quality,
    mixture,
    queue,
    attention,
    small_views,
    joint,
    beginning,
    training,
    evaluation,
    backbone,
    mixed_ae,
    optimizer,
    grey,
    transfer,
    finetune,
)
