"""Values that are possible alone and impossible together: each rule alone, and that it says what the code says."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import pipeline
from pipeline.core.shares import rounded
from pipeline.params import judge, method_rules, reader
from pipeline.params.data import mixture as mixture_rule
from pipeline.params.schema import RULES, Params

COMMITTED = reader.parse((Path(pipeline.__file__).parent.parent / "params.yaml").read_text(encoding="utf-8"))[0]
CIFAR = {"dataset.name": "cifar10", "augment.form": "colour"}
FOLDER = {"dataset.name": "folder", "dataset.image_size": 32, "dataset.channels": 1, "dataset.resize": "crop"}
STL10 = {"dataset.name": "stl10", "augment.form": "colour"}
STL10 |= {"dataset.validation_size": 1000, "dataset.labelled_size": 4000}
IMPORT = {"generator.source": "import"}
FEW_KEPT = {"inflation.select": 0.02, "inflation.score": "coverage"}
WEIGHED = {"inflation.score": "density_ratio", "inflation.weighting": "density_ratio"}
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
LARS = {"pretrain.optimizer": "lars", "pretrain.trust_coefficient": 0.02, "pretrain.trust_clip": True}
ADAMW = {"pretrain.optimizer": "adamw", "pretrain.beta2": 0.95}
VIT = {"kind": "vit", "width": 24, "stem": None, "block": None, "blocks": None, "depth": 2, "heads": 3, "patch": 4}
VIT = {f"pretrain.backbone.{name}": value for name, value in VIT.items()}
TIMM = dict.fromkeys(VIT) | {"pretrain.backbone.kind": "timm", "pretrain.backbone.name": "resnet18"}
TIMM |= {"pretrain.backbone.width": None}
HUB = {"source": "hub", "hub": "timm/resnet18.a1_in1k", "revision": "a" * 40, "sha256": "b" * 64}
HUB = {f"start.{name}": value for name, value in HUB.items()}
BASELINE = {"source": "file", "path": "w.safetensors", "name": "resnet18"}
BASELINE = {f"linear_eval.baseline.{name}": value for name, value in BASELINE.items()}
REPLACED = {"augment.replace": 0.5}
OFFLINE = {"linear_eval.offline": "lars", "linear_eval.offline_lr": 0.2, "linear_eval.offline_epochs": 100}
MIXED = VIT | {"pretrain.method": "mixed_ae"}
MAE = MIXED | dict.fromkeys(("mixed_ae.mixing", "mixed_ae.attention", "mixed_ae.segments"), False)
MAE |= {"mixed_ae.contrast": 0.0}


SVHN = DIGITS | {"name": "svhn", "test_size": None}
# The numbers that the table below leans on; the committed file may have others.
BASE = {
    "dataset.name": "fashion-mnist",
    "dataset.image_size": None,
    "dataset.channels": None,
    "dataset.resize": None,
    "dataset.labels": None,
    "dataset.label_column": None,
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
    "ddpm.timestep_sampling": "logit_normal",
    "ddpm.logit_mean": -1.5,
    "ddpm.logit_std": 1.0,
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
    "start.source": "none",
    "linear_eval.baseline.source": "none",
    "linear_eval.baseline.name": None,
    "linear_eval.baseline.size": None,
    "pretrain.backbone.kind": "resnet",
    "pretrain.backbone.name": None,
    "pretrain.backbone.width": 8,
    "pretrain.backbone.blocks": [1, 1, 1, 1],
    "pretrain.backbone.depth": None,
    "pretrain.backbone.heads": None,
    "pretrain.backbone.patch": None,
    "pretrain.optimizer": "sgd",
    "pretrain.beta2": None,
    "pretrain.trust_coefficient": None,
    "pretrain.weight_decay": 0.0001,
    "pretrain.lr": 0.2,
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


# edits that trip one rule, the key that it names, words of its message; None and nothing: they trip none
TRIPS = [
    (GAN, None, []),
    (GAN | {"generator.source": "pretrained"}, "generator.source", ["kind ddpm", "a gan"]),
    (GAN | FOLDER | {"dataset.image_size": 60}, "generator.kind", ["60 pixels", "15 is odd"]),
    (GAN | FOLDER | {"dataset.image_size": 56}, None, []),
    (GAN | CIFAR | {"ddpm.channels": [8, 8, 8, 8, 8, 8]}, None, []),
    (GAN | {"gan.batch_size": 5001}, "gan.batch_size", ["5001", "train_size 5000"]),
    (GAN | {"ddpm.batch_size": 5001}, None, []),
    ({"generator.kind": "gan"}, "generate.sampler", ["direct", "not dpmsolver++"]),
    ({"generate.sampler": "direct", "generate.steps": 1}, "generate.sampler", ["a ddpm's", "not direct"]),
    (GAN | {"generate.steps": 2}, "generate.steps", ["must be 1", "not 2"]),
    (GAN | {"generate.clip": False}, "generate.clip", ["must be true"]),
    (GAN | {"generate.eta": 0.5}, "generate.eta", ["must be 0 with direct", "not 0.5"]),
    (GAN | ANCHORED, "positives.kind", ["needs a DDPM", "kind ddpm"]),
    ({"gan.warmup_steps": 1000}, "gan.warmup_steps", ["1000 >= steps 1000"]),
    (JOINT, None, []),
    (
        {"pretrain.method": "joint_gan", "inflation.ratio": 0.0},
        "pretrain.method",
        ["generator.kind gan", "not ddpm and train"],
    ),
    (JOINT | {"generator.source": "none"}, "pretrain.method", ["source train", "not gan and none"]),
    (JOINT | {"inflation.ratio": 1.0}, "inflation.ratio", ["must be 0 with joint_gan", "not 1.0"]),
    (JOINT | {"joint_gan.synthetic": 0.3}, "joint_gan.synthetic", ["0.3 of pretrain.batch_size 256"]),
    (JOINT | {"joint_gan.synthetic": 0.25}, None, []),
    (JOINT | {"joint_gan.margin_start": 0.6}, "joint_gan.margin_start", ["0.6", "margin_end 0.5"]),
    (JOINT | {"joint_gan.monitor_images": 5001}, "joint_gan.monitor_images", ["5001", "5000"]),
    (JOINT | {"joint_gan.snapshots": 402}, "joint_gan.snapshots", ["402", "steps 400 + 1"]),
    (JOINT | {"joint_gan.real_steps": 400}, "joint_gan.real_steps", ["400", "pretrain.steps 400"]),
    ({"dataset.train_size": 55_001}, "dataset.train_size", ["55001", "validation_size 5000", "60000"]),
    ({"dataset.train_size": 55_000}, None, []),
    (CIFAR | {"dataset.train_size": 45_001}, "dataset.train_size", ["45001", "5000", "50000"]),
    ({"generator.source": "none"}, "inflation.ratio", ["none", "not 1.0"]),
    ({"inflation.select": 0.5}, "inflation.select", ["1 with inflation.score none", "0.5"]),
    ({"inflation.select": 0.5, "inflation.score": "coverage"}, None, []),
    ({"inflation.weighting": "density_ratio"}, "inflation.weighting", ["density_ratio", "not none"]),
    (WEIGHED | {"inflation.score": "coverage"}, "inflation.weighting", ["not coverage"]),
    (WEIGHED, None, []),
    (WEIGHED | {"inflation.order": "copies"}, "inflation.weighting", ["uniform with order copies"]),
    ({"inflation.final_real_share": 0.5, "inflation.order": "copies"}, "inflation.final_real_share", ["null"]),
    (FEW_KEPT | {"inflation.final_real_share": 0.0}, "pretrain.batch_size", ["256 generated", "are 100"]),
    (FEW_KEPT, None, []),
    ({"inflation.select": 0.00005, "inflation.score": "coverage"}, "inflation.select", ["5e-05 of 5000", "is none"]),
    ({"inflation.ratio": 0.0002, "inflation.score": "density_ratio"}, "inflation.score", ["two", "5000 and 1"]),
    ({"inflation.final_real_share": 1.0}, None, []),
    ({"generator.source": "real", "dataset.ceiling_size": 5000}, None, []),
    ({"generator.source": "real", "dataset.ceiling_size": 4999}, "dataset.ceiling_size", ["4999 < 5000 real images"]),
    ({"generator.source": "real", "inflation.ratio": 0.0}, None, []),
    (
        {"generator.hub": "a/b", "generator.revision": COMMIT},
        "generator.hub",
        ["source train", "not a/b"],
    ),
    (
        {"generator.source": "pretrained", "generator.hub": "a/b", "generator.sha256": DIGEST},
        "generator.revision",
        ["hub a/b", "revision null"],
    ),
    (
        {"generator.source": "pretrained", "generator.hub": "a/b", "generator.revision": COMMIT},
        "generator.sha256",
        ["is needed with hub a/b"],
    ),
    ({"generator.sha256": DIGEST}, "generator.sha256", ["must be null with source train"]),
    ({"generator.revision": COMMIT}, "generator.revision", ["hub null", f"revision {COMMIT}"]),
    ({"dataset.image_size": 32}, "dataset.image_size", ["null for fashion-mnist", "not 32"]),
    ({"dataset.channels": 1}, "dataset.channels", ["null for fashion-mnist", "not 1"]),
    ({"dataset.test_size": 100}, "dataset.test_size", ["null for fashion-mnist", "not 100"]),
    (FOLDER | {"dataset.image_size": None}, "dataset.image_size", ["a number", "not null"]),
    (FOLDER | {"dataset.channels": None}, "dataset.channels", ["1 or 3", "not null"]),
    (FOLDER | {"dataset.resize": None}, "dataset.resize", ["crop, pad or stretch", "not null"]),
    ({"dataset.resize": "pad"}, "dataset.resize", ["null for fashion-mnist", "not pad"]),
    (FOLDER | {"dataset.label_column": "kind"}, "dataset.label_column", ["'kind' is a column of", "is null"]),
    (FOLDER | {"dataset.label_column": "kind", "dataset.labels": "labels.csv"}, None, []),
    (FOLDER | {"dataset.labels": "../labels.csv"}, "dataset.labels", ["../labels.csv lies outside the folder"]),
    (FOLDER | {"dataset.path": "/data/mine", "dataset.labels": "/data/mine/a/../a.csv"}, None, []),
    (FOLDER | {"dataset.labels": "/tables/a.csv"}, "dataset.labels", ["/tables/a.csv lies outside the folder"]),
    (FOLDER | {"dataset.path": "data/"}, "dataset.path", ["data/ is where the pipeline writes"]),
    (FOLDER | {"dataset.path": "."}, "dataset.path", [". is where the pipeline writes"]),
    (FOLDER, None, []),
    ({"dataset.labelled_size": 55_001}, "dataset.labelled_size", ["55001", "5000 > 60000"]),
    ({"dataset.spare_size": 45_000}, None, []),
    ({"dataset.spare_size": 45_001}, "dataset.spare_size", ["45001 > 45000 images"]),
    ({"dataset.train_size": 55_000, "dataset.spare_size": 2}, "dataset.spare_size", ["2 > 0 images"]),
    ({"dataset.ceiling_size": 45_001}, "dataset.ceiling_size", ["45001 > 45000 images"]),
    ({"dataset.spare_size": 5, "dataset.ceiling_size": 44_996}, "dataset.ceiling_size", ["44996 > 44995 images"]),
    (STL10, None, []),
    (STL10 | {"dataset.labelled_size": 4001}, "dataset.labelled_size", ["1000 > 5000 images with labels"]),
    (STL10 | {"dataset.train_size": 104_001}, "dataset.train_size", ["1000 > 105000 images"]),
    (FOLDER | {"dataset.spare_size": 1}, "dataset.spare_size", ["at least 2"]),
    ({"dataset.validation_size": 1, "quality.images": 0}, "dataset.validation_size", ["0 or at least 2", "not 1"]),
    ({"dataset.validation_size": 0, "dataset.train_size": 60_000, "quality.images": 0}, None, []),
    ({"transfer.one": DIGITS | {"validation_size": 1}}, "transfer.one.validation_size", ["0 or at least 2", "not 1"]),
    ({"transfer.one": DIGITS | {"validation_size": 0}}, None, []),
    ({"quality.images": 2501}, "quality.images", ["2 x 2501", "validation_size is 5000"]),
    ({"quality.images": 0, "dataset.validation_size": 2}, None, []),
    ({"quality.images": 1}, "quality.images", ["at least 2"]),
    ({"generator.channel_order": "bgr"}, "generator.channel_order", ["importing RGB", "not bgr"]),
    (IMPORT | {"generator.channel_order": "bgr"}, "generator.channel_order", ["importing RGB"]),
    (IMPORT | CIFAR | {"generator.channel_order": "bgr"}, None, []),
    (IMPORT | {"generate.steps": 2000}, None, []),  # nothing is sampled
    (FOLDER | {"dataset.test_size": 100, "dataset.train_size": 10**6}, None, []),
    (FOLDER | {"dataset.image_size": 30}, "ddpm.channels", ["30 pixels"]),
    (FOLDER | {"dataset.channels": 3}, "augment.form", ["must be colour", "folder has three channels"]),
    ({"ddpm.channels": [16, 20, 64]}, "ddpm.groups", ["8 does not divide 20 of channels"]),
    ({"ddpm.attention": [0, 3]}, "ddpm.attention.1", ["no level 3", "0 to 2"]),
    ({"ddpm.attention": [-3]}, None, []),
    (
        {"ddpm.timestep_sampling": "uniform", "ddpm.logit_std": None},
        "ddpm.logit_mean",
        ["null with timestep_sampling uniform", "not -1.5"],
    ),
    ({"ddpm.logit_std": None}, "ddpm.logit_std", ["a number with timestep_sampling logit_normal", "not null"]),
    ({"ddpm.channels": [8, 8, 8, 8]}, "ddpm.channels", ["4 levels", "3 times", "28 pixels"]),
    (CIFAR | {"ddpm.channels": [8] * 6, "dataset.name": "cifar10"}, None, []),  # 32 = 2**5 allows six levels
    ({"ddpm.channels": [8, 8, 8, 8], "generator.source": "pretrained"}, None, []),  # the UNet is another
    ({"ddpm.batch_size": 5001}, "ddpm.batch_size", ["5001", "train_size 5000"]),
    ({"ddpm.batch_size": 5000}, None, []),
    ({"generate.eta": 0.5}, "generate.eta", ["dpmsolver++", "not 0.5"]),
    ({"generate.eta": 0.5, "generate.sampler": "ddim"}, None, []),
    ({"generate.shard_size": 550}, "generate.shard_size", ["550", "batch_size 100"]),
    ({"generate.steps": 1001}, "generate.steps", ["1001", "timesteps 1000"]),
    ({"generate.steps": 1000}, None, []),
    ({"generate.steps": 30}, None, []),
    ({"generate.steps": 30, "generate.sampler": "ddim"}, "generate.steps", ["30", "timesteps 1000"]),
    ({"generate.steps": 400, "generate.sampler": "ddpm"}, "generate.steps", ["400", "timesteps 1000"]),
    ({"generate.steps": 25, "generate.sampler": "ddim"}, None, []),
    # real_weight 1, ratio 1: half of the batch of each kind
    ({"pretrain.batch_size": 10_000}, None, []),
    ({"pretrain.batch_size": 9999, "inflation.real_weight": 1.0003}, "pretrain.batch_size", ["5001 real"]),
    ({"inflation.ratio": 0.0, "pretrain.batch_size": 5000}, None, []),
    (
        {"inflation.ratio": 0.0, "pretrain.batch_size": 5001},
        "pretrain.batch_size",
        ["5001 real"],
    ),
    # 1 real to 9 generated slots, but 50 generated images (ratio 0.01) weigh 50 / (0.001 * 5000 + 50) = 10 / 11
    (
        {"inflation.ratio": 0.01, "inflation.real_weight": 0.001, "pretrain.batch_size": 66},
        "pretrain.batch_size",
        ["60 generated images", "there are 50", "a batch of 66", "ratio 0.01"],
    ),
    ({"inflation.ratio": 0.01, "inflation.real_weight": 0.001, "pretrain.batch_size": 55}, None, []),
    ({"inflation.order": "copies", "inflation.real_weight": 1.5}, "inflation.real_weight", ["whole", "1.5"]),
    ({"inflation.order": "copies", "pretrain.batch_size": 10_001}, None, []),  # some images twice
    (MOCO | {"moco.queue_size": 4000}, "moco.queue_size", ["4000", "pretrain.batch_size 256"]),
    (MOCO | {"moco.queue_size": 25_600}, None, []),  # long: a warning
    ({"moco.queue_size": 5121}, None, []),  # another method
    (
        {"pretrain.method": "all4one", "all4one.queue_size": 4000},
        "all4one.queue_size",
        ["4000", "batch_size 256"],
    ),
    (CLSP, "clsp_simclr.third_view", ["candidate needs positives.kind anchored", "augmented"]),
    (CLSP_MOCO, "clsp_moco.third_view", ["candidate needs positives.kind anchored"]),
    (CLSP | ANCHORED, None, []),
    (JOINT | CONDITIONED | REPLACED, None, []),
    (CLSP | CONDITIONED, None, []),
    (CONDITIONED | {"generator.source": "none", "inflation.ratio": 0.0}, None, []),
    (CONDITIONED | {"positives.steps": 30}, "positives.steps", ["divide conditioned.timesteps 1000"]),
    (CONDITIONED | {"positives.weight": 0.1}, "positives.weight", ["null with kind conditioned"]),
    (CONDITIONED | {"positives.guidance": None}, "positives.guidance", ["a number with kind conditioned"]),
    (ANCHORED | {"positives.guidance": 1.0}, "positives.guidance", ["null with kind anchored, not 1.0"]),
    (ANCHORED | {"positives.weight": None}, "positives.weight", ["a number with kind anchored, not null"]),
    (CLSP | UNCLIP | {"generator.source": "none", "inflation.ratio": 0.0}, None, []),
    (UNCLIP | REPLACED | {"conditioned.timesteps": 7}, None, []),
    (UNCLIP | {"positives.weight": 0.1}, "positives.weight", ["null with kind unclip, not 0.1"]),
    (UNCLIP | {"positives.guidance": None}, "positives.guidance", ["a number with kind unclip, not null"]),
    (UNCLIP | {"positives.guidance": 0.5}, "positives.guidance", ["at least 1 with kind unclip", "0.5"]),
    (UNCLIP | {"positives.clip": True}, "positives.clip", ["false with kind unclip"]),
    (UNCLIP | {"positives.steps": 30}, "positives.steps", ["a published pipeline's timesteps 1000"]),
    (REPLACED, "augment.replace", ["0 with positives.kind none, not 0.5"]),
    (ANCHORED | REPLACED, None, []),
    (CONDITIONED | {"conditioned.batch_size": 5001}, "conditioned.batch_size", ["5001"]),
    (CONDITIONED | {"conditioned.encoder.batch_size": 5001}, "conditioned.encoder.batch_size", ["5001"]),
    ({"conditioned.batch_size": 5001, "conditioned.encoder.batch_size": 5001}, None, []),
    (CONDITIONED | {"conditioned.channels": [8, 8, 8, 8]}, "conditioned.channels", ["4 levels", "28 pixels"]),
    ({"conditioned.channels": [16, 20]}, "conditioned.groups", ["8 does not divide 20 of"]),
    ({"conditioned.warmup_steps": 1000}, "conditioned.warmup_steps", ["1000 >= steps 1000"]),
    ({"conditioned.encoder.warmup_steps": 900}, "conditioned.encoder.warmup_steps", ["900 >="]),
    ({"conditioned.encoder.log_every": 30}, "conditioned.encoder.evaluate_every", ["30"]),
    (
        {"conditioned.encoder.optimizer": "lars", "conditioned.encoder.trust_clip": True},
        "conditioned.encoder.trust_coefficient",
        ["lars"],
    ),
    ({"conditioned.encoder.backbone.depth": 2}, "conditioned.encoder.backbone.depth", ["kind vit"]),
    (CONTROL, None, []),
    (CONTROL | {"positives.steps": 30, "inflation.ratio": 0.0, "generator.source": "none"}, None, []),
    (ANCHORED | IMPORT, "positives.kind", ["anchored needs a DDPM", "train or pretrained"]),
    (ANCHORED | {"generator.source": "pretrained", "positives.steps": 50}, None, []),
    (ANCHORED | {"positives.steps": 30}, "positives.steps", ["30 does not divide ddpm.timesteps 1000"]),
    (ANCHORED | {"positives.steps": 2000}, "positives.steps", ["2000 does not divide"]),
    (
        ANCHORED | {"generator.source": "pretrained", "positives.steps": 40, "ddpm.timesteps": 400},
        None,
        [],
    ),
    (
        ANCHORED | {"positives.shard_size": 250},
        "positives.shard_size",
        ["not a multiple", "batch_size 100"],
    ),
    (ALL4ONE | {"all4one.output_dim": 100}, "all4one.output_dim", ["multiple of 8"]),
    ({"all4one.output_dim": 100}, None, []),
    (SWAV | {"swav.queue_size": 5120}, None, []),  # of no negatives
    (SWAV | {"swav.queue_size": 0}, None, []),
    (SWAV | {"swav.queue_size": 102_400}, "swav.queue_size", ["102400 > the 102144 images before the last step"]),
    (SWAV | {"swav.queue_size": 101_888}, None, []),
    (ALL4ONE | {"all4one.queue_size": 4, "pretrain.batch_size": 4}, "all4one.queue_size", ["at least 5"]),
    (GAN | {"gan.discriminator_steps": 1001}, "gan.discriminator_steps", ["1001 > steps 1000"]),
    (JOINT | {"joint_gan.mode": "both", "joint_gan.every": 361}, "joint_gan.every", ["361 > 360 steps after"]),
    (JOINT | {"joint_gan.mode": "both", "joint_gan.every": 360}, None, []),
    (JOINT | {"joint_gan.mode": "static", "joint_gan.every": 361}, None, []),
    (SWAV | {"swav.queue_size": 384}, "swav.queue_size", ["384", "pretrain.batch_size 256"]),
    (SWAV | {"swav.small_size": 29}, "swav.small_size", ["29 pixels > 28"]),
    (SWAV | {"swav.small_size": 28, "swav.small_crop_min": 0.5}, None, []),
    (DINO | {"dino.small_size": 29}, "dino.small_size", ["29 pixels > 28"]),
    ({"swav.small_size": 29}, None, []),
    (SWAV | {"swav.small_crop_min": 0.6}, "swav.small_crop_min", ["0.6 > swav.small_crop_max 0.5"]),
    (SWAV | {"swav.queue_start": 400}, "swav.queue_start", ["400 >= pretrain.steps 400"]),
    (SWAV | {"swav.queue_start": 400, "swav.queue_size": 0}, None, []),
    (SWAV | {"swav.freeze_steps": 400}, "swav.freeze_steps", ["400 >= pretrain.steps 400"]),
    (DINO | {"dino.freeze_steps": 400}, "dino.freeze_steps", ["400 >= pretrain.steps 400"]),
    (DINO | {"dino.teacher_warmup_steps": 401}, "dino.teacher_warmup_steps", ["401 >= pretrain.steps"]),
    ({"swav.freeze_steps": 400}, None, []),
    ({"ddpm.warmup_steps": 1000}, "ddpm.warmup_steps", ["1000 >= steps 1000"]),
    ({"pretrain.warmup_steps": 401}, "pretrain.warmup_steps", ["401 >= steps 400"]),
    ({"pretrain.warmup_steps": 399}, None, []),
    ({"pretrain.evaluate_every": 110}, "pretrain.evaluate_every", ["110", "log_every 20"]),
    (
        {"pretrain.optimizer": "lars", "pretrain.trust_clip": True},
        "pretrain.trust_coefficient",
        ["a number with lars", "not null"],
    ),
    ({"pretrain.trust_coefficient": 0.02}, "pretrain.trust_coefficient", ["null with sgd", "not 0.02"]),
    (LARS | {"pretrain.weight_decay": 0.0}, None, []),
    ({"pretrain.accumulate": 2}, None, []),
    ({"pretrain.accumulate": 3}, "pretrain.accumulate", ["3 does not divide batch_size 256"]),
    ({"pretrain.accumulate": 256}, "pretrain.accumulate", ["256 leaves 1 image of batch_size 256"]),
    ({"pretrain.accumulate": 128}, None, []),
    (JOINT | {"pretrain.accumulate": 2}, "pretrain.accumulate", ["must be 1 with joint_gan", "not 2"]),
    (MIXED | {"pretrain.accumulate": 64}, None, []),
    (MIXED | {"pretrain.accumulate": 128}, "pretrain.accumulate", ["128 parts", "mixed_ae.sources 4"]),
    (MIXED | {"pretrain.online_head": 0.25}, "pretrain.online_head", ["null with method mixed_ae", "not 0.25"]),
    ({"pretrain.online_head": 0.25}, None, []),
    ({"pretrain.backbone.block": "bottleneck", "pretrain.backbone.stem": "7x7"}, None, []),
    (
        {"linear_eval.offline": "sgd", "linear_eval.offline_epochs": 9},
        "linear_eval.offline_lr",
        ["a number with offline sgd", "not null"],
    ),
    ({"linear_eval.offline_epochs": 9}, "linear_eval.offline_epochs", ["null without offline", "not 9"]),
    (OFFLINE, None, []),
    (OFFLINE | {"linear_eval.offline_lr": None}, "linear_eval.offline_lr", ["a number with offline lars"]),
    (LARS, None, []),
    (LARS | {"pretrain.trust_clip": None}, "pretrain.trust_clip", ["true or false with lars", "not null"]),
    ({"pretrain.trust_clip": False}, "pretrain.trust_clip", ["null with sgd", "not false"]),
    (LARS | {"pretrain.decay_vectors": True}, None, []),
    ({"pretrain.min_lr": 0.3}, "pretrain.min_lr", ["0.3 > lr 0.2"]),
    ({"pretrain.min_lr": 0.2}, None, []),
    ({"pretrain.warmup_lr": 0.3}, "pretrain.warmup_lr", ["0.3 > lr 0.2"]),
    ({"pretrain.warmup_lr": 0.1, "pretrain.warmup_steps": 0}, "pretrain.warmup_lr", ["null with warmup_steps 0"]),
    (ADAMW | {"pretrain.weight_decay": 0.0}, None, []),
    (ADAMW | {"pretrain.beta2": None}, "pretrain.beta2", ["a number with adamw", "not null"]),
    ({"pretrain.beta2": 0.95}, "pretrain.beta2", ["null with sgd", "not 0.95"]),
    (LARS | {"pretrain.beta2": 0.95}, "pretrain.beta2", ["null with lars", "not 0.95"]),
    (
        ADAMW | {"pretrain.trust_coefficient": 0.02},
        "pretrain.trust_coefficient",
        ["null with adamw", "not 0.02"],
    ),
    (VIT, None, []),
    ({"pretrain.backbone.blocks": None}, "pretrain.backbone.blocks", ["given with kind resnet", "null"]),
    ({"pretrain.backbone.depth": 4}, "pretrain.backbone.depth", ["null with kind resnet", "not 4"]),
    ({"pretrain.backbone.heads": 4}, "pretrain.backbone.heads", ["null with kind resnet", "not 4"]),
    ({"pretrain.backbone.patch": 4}, "pretrain.backbone.patch", ["null with kind resnet", "not 4"]),
    (
        VIT | {"pretrain.backbone.blocks": [1, 1, 1, 1]},
        "pretrain.backbone.blocks",
        ["is for kind resnet", "null with kind vit"],
    ),
    (VIT | {"pretrain.backbone.depth": None}, "pretrain.backbone.depth", ["given with kind vit"]),
    (VIT | {"pretrain.backbone.heads": None}, "pretrain.backbone.heads", ["given with kind vit"]),
    (VIT | {"pretrain.backbone.patch": None}, "pretrain.backbone.patch", ["given with kind vit"]),
    (VIT | {"pretrain.backbone.patch": 8}, "pretrain.backbone.patch", ["8 does not divide", "28 pixels"]),
    (
        {key.replace("pretrain", "conditioned.encoder"): value for key, value in VIT.items()}
        | {"conditioned.encoder.backbone.patch": 8},
        "conditioned.encoder.backbone.patch",
        ["8 does not divide", "28 pixels"],
    ),
    (VIT | CIFAR | {"pretrain.backbone.patch": 8}, None, []),
    (VIT | {"pretrain.backbone.heads": 5}, "pretrain.backbone.heads", ["5 do not divide width 24"]),
    (
        VIT | {"pretrain.backbone.width": 18},
        "pretrain.backbone.width",
        ["18 is no multiple of 4"],
    ),
    ({"pretrain.backbone.width": 18}, None, []),
    (TIMM, None, []),
    (TIMM | {"pretrain.backbone.name": None}, "pretrain.backbone.name", ["given with kind timm"]),
    (TIMM | {"pretrain.backbone.width": 64}, "pretrain.backbone.width", ["kind resnet or vit", "null with kind timm"]),
    ({"pretrain.backbone.name": "resnet18"}, "pretrain.backbone.name", ["is for kind timm", "null with kind resnet"]),
    ({"pretrain.backbone.width": None}, "pretrain.backbone.width", ["given with kind resnet"]),
    (TIMM | {"pretrain.method": "mixed_ae"}, "pretrain.backbone.kind", ["vit with method mixed_ae", "not timm"]),
    ({"start.source": "file", "start.path": "w.safetensors"}, None, []),
    ({"start.source": "file", "start.path": "w.pth"}, "start.path", [".safetensors", "not w.pth"]),
    (
        {"start.source": "file", "start.path": "w.safetensors", "start.hub": "a/b"},
        "start.hub",
        ["null with source file"],
    ),
    ({"start.sha256": "0" * 64}, "start.sha256", ["null with source none"]),
    (HUB, None, []),
    (HUB | {"start.sha256": None}, "start.sha256", ["given with source hub"]),
    (HUB | {"start.revision": None}, "start.revision", ["given with source hub"]),
    (BASELINE, None, []),
    (BASELINE | {"linear_eval.baseline.name": None}, "linear_eval.baseline.name", ["given with source file"]),
    ({"linear_eval.baseline.name": "resnet18"}, "linear_eval.baseline.name", ["null with source none"]),
    ({"linear_eval.baseline.size": 224}, "linear_eval.baseline.size", ["null with source none", "not 224"]),
    (VIT | SWAV | {"swav.small_size": 18}, "swav.small_size", ["18 pixels", "patch 4"]),
    (VIT | SWAV | {"swav.small_size": 18, "swav.small_views": 0}, None, []),
    (SWAV | {"swav.small_size": 18}, None, []),
    (MIXED, None, []),
    (MAE, None, []),
    ({"pretrain.method": "mixed_ae"}, "pretrain.backbone.kind", ["vit with method mixed_ae", "not resnet"]),
    (MIXED | {"compute.compile": True}, "compute.compile", ["must be false with method mixed_ae"]),
    (
        MIXED | CONDITIONED | REPLACED,
        "augment.replaced",
        ["must be both with method mixed_ae", "not second"],
    ),
    (MAE | CONDITIONED | REPLACED, "augment.replaced", ["must be both with method mixed_ae"]),
    (MIXED | CONDITIONED | REPLACED | {"augment.replaced": "both"}, None, []),
    (CONDITIONED | REPLACED, None, []),
    ({"compute.compile": True}, None, []),
    (
        MIXED | {"pretrain.batch_size": 254},
        "pretrain.batch_size",
        ["254 is not a multiple of mixed_ae.sources 4"],
    ),
    (MAE | {"pretrain.batch_size": 254}, None, []),
    (MAE | {"mixed_ae.attention": True}, "mixed_ae.attention", ["false without mixing", "not true"]),
    (MAE | {"mixed_ae.segments": True}, "mixed_ae.segments", ["false without mixing", "not true"]),
    (MAE | {"mixed_ae.contrast": 0.1}, "mixed_ae.contrast", ["0 without mixing", "not 0.1"]),
    (MIXED | {"mixed_ae.decoder_heads": 3}, "mixed_ae.decoder_heads", ["3 do not divide", "width 16"]),
    (MIXED | {"mixed_ae.decoder_width": 18}, "mixed_ae.decoder_width", ["18 is no multiple of 4"]),
    (
        MIXED | {"pretrain.backbone.patch": 14},  # four patches
        "mixed_ae.sources",
        ["4 images of 2 patches or more in 4 patches"],
    ),
    (MIXED | {"pretrain.backbone.patch": 14, "mixed_ae.contrast": 0.0}, None, []),
    (MAE | {"pretrain.backbone.patch": 28}, "mixed_ae.sources", ["4 images of 1 patches or more in 1"]),
    ({"pretrain.weight_decay": 0.0}, None, []),
    ({"augment.form": "colour"}, "augment.form", ["grey, not colour", "fashion-mnist"]),
    ({"dataset.name": "cifar10"}, "augment.form", ["colour, not grey", "cifar10"]),
    ({"augment.saturation": 0.1}, "augment.saturation", ["form grey", "not 0.1"]),
    ({"augment.hue": 0.1}, "augment.hue", ["form grey", "not 0.1"]),
    ({"augment.grayscale": 0.1}, "augment.grayscale", ["form grey", "not 0.1"]),
    ({"augment.hue": 0.0}, None, []),
    (CIFAR | {"augment.hue": 0.1}, None, []),
    ({"transfer.digits": DIGITS}, None, []),
    ({"transfer.digits": DIGITS | {"test_size": None}}, None, []),  # it has train/ and test/
    ({"transfer.c": DIGITS | {"name": "svhn"}}, "transfer.c.test_size", ["null for svhn", "not 9"]),
    ({"transfer.c": SVHN}, None, []),
    ({"transfer.c": SVHN | {"train_size": 73_249}}, "transfer.c.train_size", ["73249", "9 > 73257"]),
    ({"transfer.c": SVHN | {"name": "stl10", "train_size": 4991}}, None, []),
    (
        {"transfer.c": SVHN | {"name": "stl10", "train_size": 4992}},
        "transfer.c.train_size",
        ["4992 + validation_size 9 > 5000 images with labels"],
    ),
    ({"finetune.labels": [0.1, 1, 0.01]}, None, []),
    ({"finetune.labels": [0.1, 0.01, 0.1]}, "finetune.labels.2", ["0.1 stands twice"]),
    ({"finetune.warmup_steps": 10**6}, "finetune.warmup_steps", [">= steps 300"]),
]


# values that are never possible
ALONE = [
    ({"finetune.batch_size": 1}, "finetune.batch_size", ["at least 2"]),
    (FOLDER | {"dataset.test_size": 1}, "dataset.test_size", ["at least 2"]),
    ({"pretrain.batch_size": 1}, "pretrain.batch_size", ["at least 2"]),
    ({"transfer.one": DIGITS | {"test_size": 1}}, "transfer.one.test_size", ["at least 2"]),
]


@pytest.mark.fault(20)
@pytest.mark.parametrize(("edits", "key", "words"), TRIPS)
def test_rule_trips_alone_and_names_the_values(edits, key, words):
    params, found = reader.validate(changed(edits))
    assert params is not None  # each value is possible alone
    assert [".".join(map(str, where)) for where, _ in found] == ([key] if key else [])
    for word in words:
        assert word in found[0][1], found[0][1]


@pytest.mark.parametrize(("edits", "key", "words"), ALONE)
def test_one_image_has_no_spread(edits, key, words):
    params, found = reader.validate(changed(edits))
    assert params is None
    assert [".".join(map(str, where)) for where, _ in found] == [key]
    assert all(word in found[0][1] for word in words)


def every_rule(params) -> list[tuple]:
    """Each rule with what it is asked about."""
    of_sections = [(check, section) for _, section in judge.sections(params) for check in section.rules()]
    return of_sections + [(check, params) for check in RULES]


def named(check) -> str:
    return f"{check.__module__}.{check.__qualname__}"


def test_table_above_trips_every_rule():
    tripped = set()
    for edits, key, _ in TRIPS:
        if key:
            params, _ = reader.validate(changed(edits))
            tripped |= {named(check) for check, asked in every_rule(params) if list(judge.right(check, asked))}
    with_set, _ = reader.validate(changed({"transfer.digits": DIGITS}))
    assert tripped == {named(check) for check, _ in every_rule(with_set)}


def test_committed_parameters_break_no_rule():
    assert reader.validate(COMMITTED)[1] == []


def test_rule_keeps_what_it_found_before_a_value_that_is_missing():
    # inflation.ratio is read first by the generator's rule, and hue is missing between two keys of the grey rule
    values = changed({"augment.saturation": 0.5})
    del values["augment"]["hue"]
    params, found = reader.validate(values)
    assert params is None
    assert [".".join(where) for where, _ in found] == ["augment.hue", "augment.saturation"]


@pytest.mark.parametrize("broken", [lambda p: iter(p.inflation.raito), lambda p: iter([len(p.inflation.ratio)])])
@pytest.mark.parametrize("edits", [{}, {"augment.hue": "much"}])
def test_a_bug_in_a_rule_is_let_out_whether_or_not_other_values_are_wrong(broken, edits, monkeypatch):
    monkeypatch.setattr(judge, "RULES", (broken,))
    with pytest.raises((AttributeError, TypeError)):
        reader.validate(changed(edits))


def test_a_rule_is_passed_over_where_the_value_it_asks_for_is_wrong_or_missing(monkeypatch):
    def asks(p):
        yield ("inflation", "ratio"), f"judged {p.inflation.ratio} {p.dataset.train_size}"

    monkeypatch.setattr(judge, "RULES", (asks,))
    for edits in ({"inflation.ratio": "much"}, {"dataset.train_size": None}, {"inflation": 3}, {"dataset": []}):
        faults = dict(reader.validate(changed_sections(edits))[1])
        assert not any("judged" in what for what in faults.values())
    assert "judged 1.0 5000" in reader.validate(changed({"augment.hue": "much"}))[1][-1][1]


def changed_sections(edits: dict) -> dict:
    """As `changed`; an edit may be of a whole section."""
    values = changed({key: value for key, value in edits.items() if "." in key})
    return values | {key: value for key, value in edits.items() if "." not in key}


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
                    made = rounded(ratio, n)
                    asked = {"ratio": ratio, "real_weight": weight, "score": "coverage"}
                    asked |= {"final_real_share": (None, 0.0, 0.3, 1.0)[batch % 4], "select": (1.0, 0.6)[n % 2]}
                    inflation = mixture.alone(0).model_copy(update=asked)
                    params = SimpleNamespace(
                        dataset=SimpleNamespace(train_size=n),
                        pretrain=SimpleNamespace(batch_size=batch),
                        inflation=inflation,
                    )
                    said = [message for _, message in mixture_rule(params)]
                    kept = (10 * made + 5) // 10 if n % 2 == 0 else (6 * made + 5) // 10
                    try:
                        mixture.mixture(n, kept, inflation, batch, 10)
                    except UserError as refusal:
                        needed = str(refusal).split(" needs ")[1].split(" and ")[0]  # "3 real images"
                        agreed = any(f" needs {needed};" in message for message in said)
                    else:
                        agreed = not said
                    assert agreed, (n, ratio, weight, batch, said)
                    counts[bool(said)] += 1
    assert min(counts.values()) > 500


@pytest.mark.parametrize("queue", [20, 50, 100, 130, 200, 230])
def test_the_chance_of_an_own_key_in_the_queue_is_that_of_independent_passes(queue):
    """100 images, pass by pass: how many anchors of the last pass have a key of their image among the last ones."""
    random, met, n = np.random.default_rng(0), 0, 100
    for _ in range(400):
        drawn = np.concatenate([random.permutation(n) for _ in range(4)])
        met += sum(drawn[i] in drawn[i - queue : i] for i in range(3 * n, 4 * n))
    edits = MOCO | {"moco.queue_size": queue, "pretrain.batch_size": 1, "dataset.train_size": n, "inflation.ratio": 0.0}
    params = judge.partial(Params, changed(edits), set())
    assert method_rules.own_key_in_queue(params) == pytest.approx(met / 400 / n, abs=0.01)


@pytest.mark.parametrize(
    ("edits", "chance"),
    [
        (MOCO | {"moco.queue_size": 4864}, None),  # 10,000 draws until an image comes round
        (MOCO | {"moco.queue_size": 5120}, "13 %"),
        (MOCO | {"moco.queue_size": 2560, "inflation.ratio": 0.0}, "13 %"),
        (MOCO | {"moco.queue_size": 2560, "inflation.real_weight": 10.0}, None),  # 55,000 / 10
        (MOCO | {"moco.queue_size": 2816, "inflation.real_weight": 10.0}, "13 %"),
        (MOCO | {"moco.queue_size": 3840, "inflation.real_weight": 0.5}, "13 %"),  # 7,500 until a generated one does
        ({"pretrain.method": "nnclr", "nnclr.queue_size": 15_104}, "88 %"),
        (SWAV | {"swav.queue_size": 51_200}, None),  # of no negatives
        ({"moco.queue_size": 51_200}, None),  # another method
    ],
)
def test_a_queue_in_which_more_than_one_anchor_in_eight_meets_itself_is_warned_of(edits, chance):
    params, _ = reader.validate(changed(edits))
    said = method_rules.long_queue(params)
    assert (f": {chance} of the anchors meet an old key" in said) if chance else said == ""


TWO = {"pretrain.accumulate": 2}


@pytest.mark.parametrize(
    ("edits", "parted"),
    [
        ({}, False),
        (VIT, False),
        (TWO, True),
        (TWO | MOCO, True),  # batch normalisation is of a part
        (TWO | VIT, True),  # negatives are
        (TWO | VIT | SWAV, True),  # codes are
        (TWO | VIT | ALL4ONE, True),
        (TWO | VIT | CLSP | ANCHORED, True),
        (TWO | VIT | MOCO, False),
        (TWO | VIT | CLSP_MOCO | ANCHORED, False),
        (TWO | VIT | DINO, False),
        (TWO | MAE, False),
        (TWO | MIXED, True),
        ({"conditioned.encoder.accumulate": 2}, False),  # which nobody trains
    ],
)
def test_parts_of_a_batch_that_are_another_step_than_the_batch_at_once_are_warned_of(edits, parted):
    params, _ = reader.validate(changed(edits))
    said = method_rules.warnings(params)
    assert len(said) == parted
    assert all("pretrain.accumulate 2 is not the step of the whole batch" in one for one in said)
    assert all("negatives and codes are of 128 images" in one for one in said)


def test_parts_of_a_conditions_encoder_are_warned_of_too():
    params, _ = reader.validate(changed(CONDITIONED | {"conditioned.encoder.accumulate": 4}))
    (said,) = method_rules.warnings(params)
    assert "conditioned.encoder.accumulate 4 is not the step of the whole batch" in said
    both, _ = reader.validate(changed(CONDITIONED | TWO | {"conditioned.encoder.accumulate": 4}))
    (said,) = method_rules.warnings(both)
    assert said.count("accumulate") == 2
