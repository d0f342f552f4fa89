"""Values that are possible alone and impossible together: each rule alone, and that it says what the code says."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

import pipeline
from pipeline.params import reader, rules
from pipeline.params.schema import Params

COMMITTED = reader.parse((Path(pipeline.__file__).parent.parent / "params.yaml").read_text(encoding="utf-8"))[0]
CIFAR = {"dataset.name": "cifar10", "augment.form": "colour"}
FOLDER = {"dataset.name": "folder", "dataset.image_size": 32, "dataset.channels": 1}
STL10 = {"dataset.name": "stl10", "augment.form": "colour"}
STL10 |= {"dataset.validation_size": 1000, "dataset.labelled_size": 4000}
IMPORT = {"generator.source": "import"}
COMMIT = "0123456789abcdef" * 2 + "01234567"
DIGEST = "0" * 64
MOCO, ALL4ONE = {"pretrain.method": "moco"}, {"pretrain.method": "all4one"}
CLSP, ANCHORED = {"pretrain.method": "clsp_simclr"}, {"positives.kind": "anchored"}
UNCLIP = {"positives.kind": "unclip", "positives.weight": None, "positives.guidance": 10.0, "positives.steps": 10}
CONDITIONED = {"positives.kind": "conditioned", "positives.weight": None, "positives.guidance": 1.0}
CLSP_MOCO = {"pretrain.method": "clsp_moco"}
CONTROL = CLSP | {"clsp_simclr.third_view": "augmented"}
DIGITS = {"name": "folder", "path": "data/digits", "train_size": 9, "validation_size": 9, "test_size": 9, "seed": 0}
GAN = {"generator.kind": "gan", "generate.sampler": "direct", "generate.steps": 1}
JOINT = GAN | {"pretrain.method": "joint_gan", "inflation.ratio": 0.0}
SWAV, DINO = {"pretrain.method": "swav"}, {"pretrain.method": "dino"}
LARS = {"pretrain.optimizer": "lars", "pretrain.trust_coefficient": 0.02}
ADAMW = {"pretrain.optimizer": "adamw", "pretrain.beta2": 0.95}
VIT = {"kind": "vit", "width": 24, "blocks": None, "depth": 2, "heads": 3, "patch": 4}
VIT = {f"pretrain.backbone.{name}": value for name, value in VIT.items()}
REPLACED = {"augment.replace": 0.5}
MIXED = VIT | {"pretrain.method": "mixed_ae"}
MAE = MIXED | dict.fromkeys(("mixed_ae.mixing", "mixed_ae.attention", "mixed_ae.segments"), False)
MAE |= {"mixed_ae.contrast": 0.0}


SVHN = DIGITS | {"name": "svhn", "test_size": None}
# The numbers that the table below leans on; the committed file may have others.
BASE = {
    "dataset.name": "fashion-mnist",
    "dataset.image_size": None,
    "dataset.channels": None,
    "dataset.test_size": None,
    "dataset.train_size": 5000,
    "dataset.validation_size": 5000,
    "dataset.labelled_size": 10_000,
    "dataset.spare_size": 0,
    "generator.kind": "ddpm",
    "generator.source": "train",
    "generator.channel_order": None,
    "generator.hub": None,
    "generator.revision": None,
    "generator.sha256": None,
    "ddpm.channels": [16, 48, 64],
    "ddpm.groups": 8,
    "ddpm.timesteps": 1000,
    "ddpm.steps": 1000,
    "ddpm.warmup_steps": 100,
    "ddpm.batch_size": 64,
    "gan.steps": 1000,
    "gan.warmup_steps": 0,
    "gan.batch_size": 64,
    "generate.clip": True,
    "generate.sampler": "dpmsolver++",
    "generate.steps": 10,
    "generate.eta": 0.0,
    "generate.batch_size": 100,
    "generate.shard_size": 500,
    "positives.kind": "none",
    "positives.steps": 25,
    "positives.batch_size": 100,
    "positives.shard_size": 500,
    "positives.weight": 0.1,
    "positives.guidance": None,
    "positives.clip": False,
    "conditioned.channels": [16, 48],
    "conditioned.groups": 8,
    "conditioned.timesteps": 1000,
    "conditioned.steps": 1000,
    "conditioned.warmup_steps": 100,
    "conditioned.batch_size": 64,
    "conditioned.encoder.steps": 800,
    "conditioned.encoder.warmup_steps": 80,
    "conditioned.encoder.batch_size": 128,
    "conditioned.encoder.log_every": 20,
    "conditioned.encoder.evaluate_every": 200,
    "quality.images": 0,
    "augment.replace": 0.0,
    "augment.replaced": "second",
    "inflation.ratio": 1.0,
    "inflation.real_weight": 1.0,
    "inflation.order": "slots",
    "augment.form": "grey",
    "augment.saturation": None,
    "augment.hue": None,
    "augment.grayscale": None,
    "pretrain.method": "simclr",
    "pretrain.backbone.kind": "resnet",
    "pretrain.backbone.width": 8,
    "pretrain.backbone.blocks": [1, 1, 1, 1],
    "pretrain.backbone.depth": None,
    "pretrain.backbone.heads": None,
    "pretrain.backbone.patch": None,
    "pretrain.optimizer": "sgd",
    "pretrain.beta2": None,
    "pretrain.trust_coefficient": None,
    "pretrain.weight_decay": 0.0001,
    "pretrain.steps": 400,
    "pretrain.warmup_steps": 40,
    "pretrain.batch_size": 256,
    "pretrain.log_every": 20,
    "pretrain.evaluate_every": 100,
    "mixed_ae.sources": 4,
    "mixed_ae.mixing": True,
    "mixed_ae.mix": "compose",
    "mixed_ae.contrast": 0.1,
    "mixed_ae.decoder_width": 16,
    "mixed_ae.decoder_heads": 2,
    "joint_gan.synthetic": 0.5,
    "joint_gan.real_steps": 40,
    "joint_gan.margin_start": 0.05,
    "joint_gan.margin_end": 0.5,
    "joint_gan.monitor_images": 512,
    "joint_gan.snapshots": 9,
    "swav.small_size": 16,
    "swav.small_crop_min": 0.1,
    "swav.small_crop_max": 0.5,
    "swav.queue_size": 512,
    "swav.queue_start": 80,
    "swav.freeze_steps": 20,
}


def changed(edits: dict) -> dict:
    """The committed values with BASE and then the edits (dotted key -> value) put over them."""
    values = copy.deepcopy(COMMITTED)
    for dotted, value in (BASE | edits).items():
        *path, name = dotted.split(".")
        section = values
        for part in path:
            section = section[part]
        section[name] = value
    return values


# rule, edits that trip it alone, the key it names, words of its message
TRIPS = [
    ("generator", GAN, None, []),
    ("generator", GAN | {"generator.source": "pretrained"}, "generator.source", ["kind ddpm", "a gan"]),
    ("gan", GAN | FOLDER | {"dataset.image_size": 60}, "generator.kind", ["60 pixels", "15 is odd"]),
    ("gan", GAN | FOLDER | {"dataset.image_size": 56}, None, []),
    ("gan", GAN | CIFAR | {"ddpm.channels": [8, 8, 8, 8, 8, 8]}, None, []),
    ("batches", GAN | {"gan.batch_size": 5001}, "gan.batch_size", ["5001", "train_size 5000"]),
    ("batches", GAN | {"ddpm.batch_size": 5001}, None, []),
    ("generate", {"generator.kind": "gan"}, "generate.sampler", ["direct", "not dpmsolver++"]),
    ("generate", {"generate.sampler": "direct", "generate.steps": 1}, "generate.sampler", ["a ddpm's", "not direct"]),
    ("generate", GAN | {"generate.steps": 2}, "generate.steps", ["must be 1", "not 2"]),
    ("generate", GAN | {"generate.clip": False}, "generate.clip", ["must be true"]),
    ("generate", GAN | {"generate.eta": 0.5}, "generate.eta", ["must be 0 with direct", "not 0.5"]),
    ("positives", GAN | ANCHORED, "positives.kind", ["needs a DDPM", "kind ddpm"]),
    ("training", {"gan.warmup_steps": 1000}, "gan.warmup_steps", ["1000", "gan.steps 1000"]),
    ("joint", JOINT, None, []),
    (
        "joint",
        {"pretrain.method": "joint_gan", "inflation.ratio": 0.0},
        "pretrain.method",
        ["generator.kind gan", "not ddpm and train"],
    ),
    ("joint", JOINT | {"generator.source": "none"}, "pretrain.method", ["source train", "not gan and none"]),
    ("joint", JOINT | {"inflation.ratio": 1.0}, "inflation.ratio", ["must be 0 with joint_gan", "not 1.0"]),
    ("joint", JOINT | {"joint_gan.synthetic": 0.3}, "joint_gan.synthetic", ["0.3 of pretrain.batch_size 256"]),
    ("joint", JOINT | {"joint_gan.synthetic": 0.25}, None, []),
    ("joint", JOINT | {"joint_gan.margin_start": 0.6}, "joint_gan.margin_start", ["0.6", "margin_end 0.5"]),
    ("joint", JOINT | {"joint_gan.monitor_images": 5001}, "joint_gan.monitor_images", ["5001", "5000"]),
    ("joint", JOINT | {"joint_gan.snapshots": 402}, "joint_gan.snapshots", ["402", "steps 400 + 1"]),
    ("beginning", JOINT | {"joint_gan.real_steps": 400}, "joint_gan.real_steps", ["400", "pretrain.steps 400"]),
    ("dataset", {"dataset.train_size": 55_001}, "dataset.train_size", ["55001", "validation_size 5000", "60000"]),
    ("dataset", {"dataset.train_size": 55_000}, None, []),
    ("dataset", CIFAR | {"dataset.train_size": 45_001}, "dataset.train_size", ["45001", "5000", "50000"]),
    ("generator", {"generator.source": "none"}, "inflation.ratio", ["none", "not 1.0"]),
    (
        "generator",
        {"generator.hub": "a/b", "generator.revision": COMMIT},
        "generator.hub",
        ["source train", "not a/b"],
    ),
    (
        "generator",
        {"generator.source": "pretrained", "generator.hub": "a/b", "generator.sha256": DIGEST},
        "generator.revision",
        ["hub a/b", "revision null"],
    ),
    (
        "generator",
        {"generator.source": "pretrained", "generator.hub": "a/b", "generator.revision": COMMIT},
        "generator.sha256",
        ["is needed with hub a/b"],
    ),
    ("generator", {"generator.sha256": DIGEST}, "generator.sha256", ["must be null with source train"]),
    ("generator", {"generator.revision": COMMIT}, "generator.revision", ["hub null", f"revision {COMMIT}"]),
    ("folder", {"dataset.image_size": 32}, "dataset.image_size", ["null for fashion-mnist", "not 32"]),
    ("folder", {"dataset.channels": 1}, "dataset.channels", ["null for fashion-mnist", "not 1"]),
    ("folder", {"dataset.test_size": 100}, "dataset.test_size", ["null for fashion-mnist", "not 100"]),
    ("folder", FOLDER | {"dataset.image_size": None}, "dataset.image_size", ["a number", "not null"]),
    ("folder", FOLDER | {"dataset.channels": None}, "dataset.channels", ["a number", "not null"]),
    ("folder", FOLDER, None, []),
    ("dataset", {"dataset.labelled_size": 55_001}, "dataset.labelled_size", ["55001", "5000 > 60000"]),
    ("dataset", {"dataset.spare_size": 45_000}, None, []),
    ("dataset", {"dataset.spare_size": 45_001}, "dataset.spare_size", ["45001 > 45000 images"]),
    ("dataset", {"dataset.train_size": 55_000, "dataset.spare_size": 2}, "dataset.spare_size", ["2 > 0 images"]),
    ("dataset", STL10, None, []),
    ("dataset", STL10 | {"dataset.labelled_size": 4001}, "dataset.labelled_size", ["1000 > 5000 images with labels"]),
    ("dataset", STL10 | {"dataset.train_size": 104_001}, "dataset.train_size", ["1000 > 105000 images"]),
    ("several", FOLDER | {"dataset.spare_size": 1}, "dataset.spare_size", ["at least 2"]),
    ("quality", {"quality.images": 2501}, "quality.images", ["2 x 2501", "validation_size is 5000"]),
    ("quality", {"quality.images": 0, "dataset.validation_size": 2}, None, []),
    ("several", {"quality.images": 1}, "quality.images", ["at least 2"]),
    ("several", {"dataset.validation_size": 1}, "dataset.validation_size", ["at least 2"]),
    ("several", FOLDER | {"dataset.test_size": 1}, "dataset.test_size", ["at least 2"]),
    ("several", {"pretrain.batch_size": 1}, "pretrain.batch_size", ["at least 2"]),
    ("generator", {"generator.channel_order": "bgr"}, "generator.channel_order", ["importing RGB", "not bgr"]),
    ("generator", IMPORT | {"generator.channel_order": "bgr"}, "generator.channel_order", ["importing RGB"]),
    ("generator", IMPORT | CIFAR | {"generator.channel_order": "bgr"}, None, []),
    ("generate", IMPORT | {"generate.steps": 2000}, None, []),  # nothing is sampled
    ("folder", FOLDER | {"dataset.test_size": 100, "dataset.train_size": 10**6}, None, []),
    ("ddpm", FOLDER | {"dataset.image_size": 30}, "ddpm.channels", ["30 pixels"]),
    ("grey", FOLDER | {"dataset.channels": 3}, "augment.form", ["must be colour", "folder has three channels"]),
    ("ddpm", {"ddpm.channels": [16, 20, 64]}, "ddpm.groups", ["8 does not divide 20"]),
    ("ddpm", {"ddpm.channels": [8, 8, 8, 8]}, "ddpm.channels", ["4 levels", "3 times", "28 pixels"]),
    ("ddpm", CIFAR | {"ddpm.channels": [8] * 6, "dataset.name": "cifar10"}, None, []),  # 32 = 2**5 allows six levels
    ("ddpm", {"ddpm.channels": [8, 8, 8, 8], "generator.source": "pretrained"}, None, []),  # the UNet is another
    ("batches", {"ddpm.batch_size": 5001}, "ddpm.batch_size", ["5001", "train_size 5000"]),
    ("batches", {"ddpm.batch_size": 5000}, None, []),
    ("generate", {"generate.eta": 0.5}, "generate.eta", ["dpmsolver++", "not 0.5"]),
    ("generate", {"generate.eta": 0.5, "generate.sampler": "ddim"}, None, []),
    ("generate", {"generate.shard_size": 550}, "generate.shard_size", ["550", "batch_size 100"]),
    ("generate", {"generate.steps": 1001}, "generate.steps", ["1001", "timesteps 1000"]),
    ("generate", {"generate.steps": 1000}, None, []),
    ("generate", {"generate.steps": 30}, None, []),
    ("generate", {"generate.steps": 30, "generate.sampler": "ddim"}, "generate.steps", ["30", "timesteps 1000"]),
    ("generate", {"generate.steps": 400, "generate.sampler": "ddpm"}, "generate.steps", ["400", "timesteps 1000"]),
    ("generate", {"generate.steps": 25, "generate.sampler": "ddim"}, None, []),
    # real_weight 1, ratio 1: half of the batch of each kind
    ("mixture", {"pretrain.batch_size": 10_000}, None, []),
    ("mixture", {"pretrain.batch_size": 9999, "inflation.real_weight": 1.0003}, "pretrain.batch_size", ["5001 real"]),
    ("mixture", {"inflation.ratio": 0.0, "pretrain.batch_size": 5000}, None, []),
    (
        "mixture",
        {"inflation.ratio": 0.0, "pretrain.batch_size": 5001},
        "pretrain.batch_size",
        ["5001 real"],
    ),
    # 1 real to 9 generated slots, but 50 generated images (ratio 0.01) weigh 50 / (0.001 * 5000 + 50) = 10 / 11
    (
        "mixture",
        {"inflation.ratio": 0.01, "inflation.real_weight": 0.001, "pretrain.batch_size": 66},
        "pretrain.batch_size",
        ["60 generated images", "there are 50", "a batch of 66", "ratio 0.01"],
    ),
    ("mixture", {"inflation.ratio": 0.01, "inflation.real_weight": 0.001, "pretrain.batch_size": 55}, None, []),
    ("mixture", {"inflation.order": "copies", "inflation.real_weight": 1.5}, "inflation.real_weight", ["whole", "1.5"]),
    ("mixture", {"inflation.order": "copies", "pretrain.batch_size": 10_001}, None, []),  # some images twice
    ("queue", MOCO | {"moco.queue_size": 4000}, "moco.queue_size", ["4000", "pretrain.batch_size 256"]),
    ("queue", MOCO | {"moco.queue_size": 4864}, None, []),  # 19 batches; 10,000 draws until an image comes round
    ("queue", MOCO | {"moco.queue_size": 5120}, "moco.queue_size", ["5120", "half of the 10000 draws"]),
    ("queue", MOCO | {"moco.queue_size": 2304, "inflation.ratio": 0.0}, None, []),
    ("queue", MOCO | {"moco.queue_size": 2560, "inflation.ratio": 0.0}, "moco.queue_size", ["half of the 5000 draws"]),
    ("queue", MOCO | {"moco.queue_size": 2560, "inflation.real_weight": 10.0}, None, []),  # 55,000 / 10
    ("queue", MOCO | {"moco.queue_size": 2816, "inflation.real_weight": 10.0}, "moco.queue_size", ["the 5500 draws"]),
    ("queue", MOCO | {"moco.queue_size": 3840, "inflation.real_weight": 0.5}, "moco.queue_size", ["the 7500 draws"]),
    ("queue", {"moco.queue_size": 5121}, None, []),  # another method
    ("queue", {"pretrain.method": "nnclr", "nnclr.queue_size": 5120}, "nnclr.queue_size", ["half of the 10000 draws"]),
    (
        "queue",
        {"pretrain.method": "all4one", "all4one.queue_size": 4000},
        "all4one.queue_size",
        ["4000", "batch_size 256"],
    ),
    (
        "queue",
        ANCHORED | CLSP_MOCO | {"clsp_moco.queue_size": 5120},
        "clsp_moco.queue_size",
        ["half of the 10000 draws"],
    ),
    ("positives", CLSP, "clsp_simclr.third_view", ["candidate needs positives.kind anchored", "augmented"]),
    ("positives", CLSP_MOCO, "clsp_moco.third_view", ["candidate needs positives.kind anchored"]),
    ("positives", CLSP | ANCHORED, None, []),
    ("joint", JOINT | CONDITIONED | REPLACED, None, []),
    ("positives", CLSP | CONDITIONED, None, []),
    ("positives", CONDITIONED | {"generator.source": "none", "inflation.ratio": 0.0}, None, []),
    ("positives", CONDITIONED | {"positives.steps": 30}, "positives.steps", ["divide conditioned.timesteps 1000"]),
    ("positives", CONDITIONED | {"positives.weight": 0.1}, "positives.weight", ["null with kind conditioned"]),
    ("positives", CONDITIONED | {"positives.guidance": None}, "positives.guidance", ["a number with kind conditioned"]),
    ("positives", ANCHORED | {"positives.guidance": 1.0}, "positives.guidance", ["null with kind anchored, not 1.0"]),
    ("positives", ANCHORED | {"positives.weight": None}, "positives.weight", ["a number with kind anchored, not null"]),
    ("positives", CLSP | UNCLIP | {"generator.source": "none", "inflation.ratio": 0.0}, None, []),
    ("positives", UNCLIP | REPLACED | {"conditioned.timesteps": 7}, None, []),
    ("positives", UNCLIP | {"positives.weight": 0.1}, "positives.weight", ["null with kind unclip, not 0.1"]),
    ("positives", UNCLIP | {"positives.guidance": None}, "positives.guidance", ["a number with kind unclip, not null"]),
    ("positives", UNCLIP | {"positives.guidance": 0.5}, "positives.guidance", ["at least 1 with kind unclip", "0.5"]),
    ("positives", UNCLIP | {"positives.clip": True}, "positives.clip", ["false with kind unclip"]),
    ("positives", UNCLIP | {"positives.steps": 30}, "positives.steps", ["a published pipeline's timesteps 1000"]),
    ("positives", REPLACED, "augment.replace", ["0 with positives.kind none, not 0.5"]),
    ("positives", ANCHORED | REPLACED, None, []),
    ("batches", CONDITIONED | {"conditioned.batch_size": 5001}, "conditioned.batch_size", ["5001"]),
    ("batches", CONDITIONED | {"conditioned.encoder.batch_size": 5001}, "conditioned.encoder.batch_size", ["5001"]),
    ("batches", {"conditioned.batch_size": 5001, "conditioned.encoder.batch_size": 5001}, None, []),
    ("ddpm", CONDITIONED | {"conditioned.channels": [8, 8, 8, 8]}, "conditioned.channels", ["4 levels", "28 pixels"]),
    ("ddpm", {"conditioned.channels": [16, 20]}, "conditioned.groups", ["8 does not divide 20 of"]),
    ("training", {"conditioned.warmup_steps": 1000}, "conditioned.warmup_steps", ["1000 >= conditioned.steps"]),
    ("training", {"conditioned.encoder.warmup_steps": 900}, "conditioned.encoder.warmup_steps", ["900 >="]),
    ("evaluation", {"conditioned.encoder.log_every": 30}, "conditioned.encoder.evaluate_every", ["30"]),
    ("optimizer", {"conditioned.encoder.optimizer": "lars"}, "conditioned.encoder.trust_coefficient", ["lars"]),
    ("backbone", {"conditioned.encoder.backbone.depth": 2}, "conditioned.encoder.backbone.depth", ["kind vit"]),
    ("positives", CONTROL, None, []),
    ("positives", CONTROL | {"positives.steps": 30, "inflation.ratio": 0.0, "generator.source": "none"}, None, []),
    ("positives", ANCHORED | IMPORT, "positives.kind", ["anchored needs a DDPM", "train or pretrained"]),
    ("positives", ANCHORED | {"generator.source": "pretrained", "positives.steps": 50}, None, []),
    ("positives", ANCHORED | {"positives.steps": 30}, "positives.steps", ["30 does not divide ddpm.timesteps 1000"]),
    ("positives", ANCHORED | {"positives.steps": 2000}, "positives.steps", ["2000 does not divide"]),
    (
        "positives",
        ANCHORED | {"generator.source": "pretrained", "positives.steps": 40, "ddpm.timesteps": 400},
        None,
        [],
    ),
    (
        "positives",
        ANCHORED | {"positives.shard_size": 250},
        "positives.shard_size",
        ["not a multiple", "batch_size 100"],
    ),
    ("attention", ALL4ONE | {"all4one.output_dim": 100}, "all4one.output_dim", ["multiple of 8"]),
    ("attention", {"all4one.output_dim": 100}, None, []),
    ("queue", SWAV | {"swav.queue_size": 5120}, None, []),  # of no negatives
    ("queue", SWAV | {"swav.queue_size": 0}, None, []),
    ("queue", SWAV | {"swav.queue_size": 384}, "swav.queue_size", ["384", "pretrain.batch_size 256"]),
    ("small_views", SWAV | {"swav.small_size": 29}, "swav.small_size", ["29 pixels > 28"]),
    ("small_views", SWAV | {"swav.small_size": 28, "swav.small_crop_min": 0.5}, None, []),
    ("small_views", DINO | {"dino.small_size": 29}, "dino.small_size", ["29 pixels > 28"]),
    ("small_views", {"swav.small_size": 29}, None, []),
    ("small_views", SWAV | {"swav.small_crop_min": 0.6}, "swav.small_crop_min", ["0.6 > swav.small_crop_max 0.5"]),
    ("beginning", SWAV | {"swav.queue_start": 400}, "swav.queue_start", ["400 >= pretrain.steps 400"]),
    ("beginning", SWAV | {"swav.queue_start": 400, "swav.queue_size": 0}, None, []),
    ("beginning", SWAV | {"swav.freeze_steps": 400}, "swav.freeze_steps", ["400 >= pretrain.steps 400"]),
    ("beginning", DINO | {"dino.freeze_steps": 400}, "dino.freeze_steps", ["400 >= pretrain.steps 400"]),
    ("beginning", DINO | {"dino.teacher_warmup_steps": 401}, "dino.teacher_warmup_steps", ["401 >= pretrain.steps"]),
    ("beginning", {"swav.freeze_steps": 400}, None, []),
    ("training", {"ddpm.warmup_steps": 1000}, "ddpm.warmup_steps", ["1000 >= ddpm.steps 1000"]),
    ("training", {"pretrain.warmup_steps": 401}, "pretrain.warmup_steps", ["401 >= pretrain.steps 400"]),
    ("training", {"pretrain.warmup_steps": 399}, None, []),
    ("evaluation", {"pretrain.evaluate_every": 110}, "pretrain.evaluate_every", ["110", "log_every 20"]),
    ("optimizer", {"pretrain.optimizer": "lars"}, "pretrain.trust_coefficient", ["a number with lars", "not null"]),
    ("optimizer", {"pretrain.trust_coefficient": 0.02}, "pretrain.trust_coefficient", ["null with sgd", "not 0.02"]),
    ("optimizer", LARS | {"pretrain.weight_decay": 0.0}, "pretrain.weight_decay", ["above 0 with lars", "not 0.0"]),
    ("optimizer", LARS, None, []),
    ("optimizer", ADAMW | {"pretrain.weight_decay": 0.0}, None, []),
    ("optimizer", ADAMW | {"pretrain.beta2": None}, "pretrain.beta2", ["a number with adamw", "not null"]),
    ("optimizer", {"pretrain.beta2": 0.95}, "pretrain.beta2", ["null with sgd", "not 0.95"]),
    ("optimizer", LARS | {"pretrain.beta2": 0.95}, "pretrain.beta2", ["null with lars", "not 0.95"]),
    (
        "optimizer",
        ADAMW | {"pretrain.trust_coefficient": 0.02},
        "pretrain.trust_coefficient",
        ["null with adamw", "not 0.02"],
    ),
    ("backbone", VIT, None, []),
    ("backbone", {"pretrain.backbone.blocks": None}, "pretrain.backbone.blocks", ["given with kind resnet", "null"]),
    ("backbone", {"pretrain.backbone.depth": 4}, "pretrain.backbone.depth", ["null with kind resnet", "not 4"]),
    ("backbone", {"pretrain.backbone.heads": 4}, "pretrain.backbone.heads", ["null with kind resnet", "not 4"]),
    ("backbone", {"pretrain.backbone.patch": 4}, "pretrain.backbone.patch", ["null with kind resnet", "not 4"]),
    (
        "backbone",
        VIT | {"pretrain.backbone.blocks": [1, 1, 1, 1]},
        "pretrain.backbone.blocks",
        ["is for kind resnet", "null with kind vit"],
    ),
    ("backbone", VIT | {"pretrain.backbone.depth": None}, "pretrain.backbone.depth", ["given with kind vit"]),
    ("backbone", VIT | {"pretrain.backbone.heads": None}, "pretrain.backbone.heads", ["given with kind vit"]),
    ("backbone", VIT | {"pretrain.backbone.patch": None}, "pretrain.backbone.patch", ["given with kind vit"]),
    ("backbone", VIT | {"pretrain.backbone.patch": 8}, "pretrain.backbone.patch", ["8 does not divide", "28 pixels"]),
    ("backbone", VIT | CIFAR | {"pretrain.backbone.patch": 8}, None, []),
    ("backbone", VIT | {"pretrain.backbone.heads": 5}, "pretrain.backbone.heads", ["5 do not divide width 24"]),
    (
        "backbone",
        VIT | {"pretrain.backbone.width": 18},
        "pretrain.backbone.width",
        ["18 is no multiple of 4"],
    ),
    ("backbone", {"pretrain.backbone.width": 18}, None, []),
    ("backbone", VIT | SWAV | {"swav.small_size": 18}, "swav.small_size", ["18 pixels", "patch 4"]),
    ("backbone", VIT | SWAV | {"swav.small_size": 18, "swav.small_views": 0}, None, []),
    ("backbone", SWAV | {"swav.small_size": 18}, None, []),
    ("mixed_ae", MIXED, None, []),
    ("mixed_ae", MAE, None, []),
    ("mixed_ae", {"pretrain.method": "mixed_ae"}, "pretrain.backbone.kind", ["vit with method mixed_ae", "not resnet"]),
    ("mixed_ae", MIXED | {"compute.compile": True}, "compute.compile", ["must be false with method mixed_ae"]),
    (
        "mixed_ae",
        MIXED | CONDITIONED | REPLACED,
        "augment.replaced",
        ["must be both with method mixed_ae", "not second"],
    ),
    ("mixed_ae", MAE | CONDITIONED | REPLACED, "augment.replaced", ["must be both with method mixed_ae"]),
    ("mixed_ae", MIXED | CONDITIONED | REPLACED | {"augment.replaced": "both"}, None, []),
    ("mixed_ae", CONDITIONED | REPLACED, None, []),
    ("mixed_ae", {"compute.compile": True}, None, []),
    (
        "mixed_ae",
        MIXED | {"pretrain.batch_size": 254},
        "pretrain.batch_size",
        ["254 is not a multiple of mixed_ae.sources 4"],
    ),
    ("mixed_ae", MAE | {"pretrain.batch_size": 254}, None, []),
    ("mixed_ae", MAE | {"mixed_ae.attention": True}, "mixed_ae.attention", ["false without mixing", "not true"]),
    ("mixed_ae", MAE | {"mixed_ae.segments": True}, "mixed_ae.segments", ["false without mixing", "not true"]),
    ("mixed_ae", MAE | {"mixed_ae.contrast": 0.1}, "mixed_ae.contrast", ["0 without mixing", "not 0.1"]),
    ("mixed_ae", MIXED | {"mixed_ae.decoder_heads": 3}, "mixed_ae.decoder_heads", ["3 do not divide", "width 16"]),
    ("mixed_ae", MIXED | {"mixed_ae.decoder_width": 18}, "mixed_ae.decoder_width", ["18 is no multiple of 4"]),
    (
        "mixed_ae",
        MIXED | {"pretrain.backbone.patch": 14},  # four patches
        "mixed_ae.sources",
        ["4 images of 2 patches or more in 4 patches"],
    ),
    ("mixed_ae", MIXED | {"pretrain.backbone.patch": 14, "mixed_ae.contrast": 0.0}, None, []),
    ("mixed_ae", MAE | {"pretrain.backbone.patch": 28}, "mixed_ae.sources", ["4 images of 1 patches or more in 1"]),
    ("optimizer", {"pretrain.weight_decay": 0.0}, None, []),
    ("grey", {"augment.form": "colour"}, "augment.form", ["grey, not colour", "fashion-mnist"]),
    ("grey", {"dataset.name": "cifar10"}, "augment.form", ["colour, not grey", "cifar10"]),
    ("grey", {"augment.saturation": 0.1}, "augment.saturation", ["form grey", "not 0.1"]),
    ("grey", {"augment.hue": 0.1}, "augment.hue", ["form grey", "not 0.1"]),
    ("grey", {"augment.grayscale": 0.1}, "augment.grayscale", ["form grey", "not 0.1"]),
    ("grey", {"augment.hue": 0.0}, None, []),
    ("grey", CIFAR | {"augment.hue": 0.1}, None, []),
    ("transfer", {"transfer.digits": DIGITS}, None, []),
    ("transfer", {"transfer.digits": DIGITS | {"test_size": None}}, None, []),  # it has train/ and test/
    ("transfer", {"transfer.one": DIGITS | {"test_size": 1}}, "transfer.one.test_size", ["at least 2"]),
    ("transfer", {"transfer.one": DIGITS | {"validation_size": 1}}, "transfer.one.validation_size", ["at least 2"]),
    ("transfer", {"transfer.c": DIGITS | {"name": "svhn"}}, "transfer.c.test_size", ["null for svhn", "not 9"]),
    ("transfer", {"transfer.c": SVHN}, None, []),
    ("transfer", {"transfer.c": SVHN | {"train_size": 73_249}}, "transfer.c.train_size", ["73249", "9 > 73257"]),
    ("transfer", {"transfer.c": SVHN | {"name": "stl10", "train_size": 4991}}, None, []),
    (
        "transfer",
        {"transfer.c": SVHN | {"name": "stl10", "train_size": 4992}},
        "transfer.c.train_size",
        ["4992 + validation_size 9 > 5000 images with labels"],
    ),
    ("finetune", {"finetune.labels": [0.1, 1, 0.01]}, None, []),
    ("finetune", {"finetune.labels": [0.1, 0.01, 0.1]}, "finetune.labels.2", ["0.1 stands twice"]),
    ("training", {"finetune.warmup_steps": 10**6}, "finetune.warmup_steps", [">= finetune.steps"]),
    ("several", {"finetune.batch_size": 1}, "finetune.batch_size", ["at least 2"]),
]


@pytest.mark.fault(20)
@pytest.mark.parametrize(("rule", "edits", "key", "words"), TRIPS)
def test_rule_trips_alone_and_names_the_values(rule, edits, key, words):
    params, found = reader.validate(changed(edits))
    assert params is not None  # each value is possible alone
    assert found == list(getattr(rules, rule)(params))  # and no other rule is broken
    assert [".".join(map(str, where)) for where, _ in found] == ([key] if key else [])
    for word in words:
        assert word in found[0][1], found[0][1]


def test_table_above_trips_every_rule():
    assert {rule for rule, _, key, _ in TRIPS if key} == {rule.__name__ for rule in rules.RULES}


def test_committed_parameters_break_no_rule():
    params, found = reader.validate(COMMITTED)
    assert found == []
    for rule in rules.RULES:
        assert list(rule(params)) == []


def test_rule_keeps_what_it_found_before_a_value_that_is_missing():
    # inflation.ratio is read first by the generator's rule, and hue is missing between two keys of the grey rule
    values = changed({"augment.saturation": 0.5})
    del values["augment"]["hue"]
    params, found = reader.validate(values)
    assert params is None
    assert [".".join(where) for where, _ in found] == ["augment.hue", "augment.saturation"]


def test_a_set_is_judged_by_the_rules_though_another_value_is_wrong():
    params, found = reader.validate(changed({"transfer.c": DIGITS | {"name": "svhn", "seed": -1}}))
    assert params is None
    assert [".".join(where) for where, _ in found] == ["transfer.c.seed", "transfer.c.test_size"]


def test_absurd_numbers_are_refused_without_overflow():
    huge = 10**90
    for edits in (
        {"dataset.train_size": huge, "inflation.ratio": 1e308},
        {"pretrain.batch_size": huge, "inflation.real_weight": 5e-324},
        {"inflation.real_weight": 1e308, "pretrain.batch_size": huge},
        {"generate.steps": huge, "ddpm.batch_size": huge},
    ):
        assert reader.validate(changed(edits))[1]


def test_mixture_rule_refuses_exactly_what_the_mixture_refuses():
    from pipeline.core.errors import UserError
    from pipeline.data import mixture

    counts = {True: 0, False: 0}
    for n in (1, 2, 3, 5, 7, 10, 15):
        for ratio in (0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.1):
            for weight in (0.001, 0.1, 0.3, 1.0, 2.0, 10.0):
                for batch in range(1, 20, 3):
                    params = SimpleNamespace(
                        dataset=SimpleNamespace(train_size=n),
                        pretrain=SimpleNamespace(batch_size=batch),
                        inflation=SimpleNamespace(ratio=ratio, real_weight=weight, order="slots"),
                    )
                    said = [message for _, message in rules.mixture(params)]
                    try:
                        mixture.Mixture(n, mixture.generated_count(n, ratio), weight, batch, 0)
                    except UserError as refusal:
                        needed = str(refusal).split(" needs ")[1].split(" and ")[0]  # "3 real images"
                        agreed = any(f" needs {needed};" in message for message in said)
                    else:
                        agreed = not said
                    assert agreed, (n, ratio, weight, batch, said)
                    counts[bool(said)] += 1
    assert min(counts.values()) > 500


def test_every_set_of_the_schema_has_its_size_in_the_rules():
    names = Params.model_fields["dataset"].annotation.model_fields["name"].annotation
    assert set(get_args(names)) == {*rules.SETS, "folder"}
