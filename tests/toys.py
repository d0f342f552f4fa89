"""Small parameters and data that several test files use."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import torch

from pipeline.data import shards
from pipeline.networks import backbones
from pipeline.params.schema import DDPM, GAN, Baseline, Compute, Pretrain
from pipeline.positives import Inputs

NO_BASELINE = Baseline(
    source="none", path="data/weights", **dict.fromkeys(("hub", "revision", "sha256", "name", "size"))
)
COMPUTE = Compute(device="cpu", precision="fp32", threads=1, compile=False)
_DDPM = {
    "channels": [4, 8],
    "layers": 1,
    "groups": 2,
    "attention": [],
    "dropout": 0.0,
    "timesteps": 1000,
    "beta_schedule": "linear",
    "prediction": "epsilon",
    "timestep_sampling": "uniform",
    "logit_mean": None,
    "logit_std": None,
    "flip": False,
    "steps": 4,
    "batch_size": 6,
    "lr": 0.001,
    "min_lr": 0.0,
    "warmup_steps": 1,
    "warmup_lr": None,
    "weight_decay": 0.0,
    "grad_clip": 1.0,
    "ema_decay": 0.9,
    "log_every": 2,
    "checkpoint_every": 3,
    "seed": 0,
}


def forked(work: Callable[..., None], *arguments: object) -> multiprocessing.Process:
    """A process of its own that does the work, to be signalled or to kill itself; as a fork it imports nothing."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def ddpm_params(**changes) -> DDPM:
    """A diffusion model that takes no time, with changes."""
    return DDPM(**_DDPM | changes)


_GAN = {
    "latent": 6,
    "generator_channels": 4,
    "discriminator_channels": 5,
    "discriminator_steps": 2,
    "steps": 5,
    "batch_size": 6,
    "lr": 0.001,
    "min_lr": 0.0,
    "warmup_steps": 1,
    "warmup_lr": None,
    "weight_decay": 0.0,
    "ema_decay": 0.5,
    "log_every": 2,
    "checkpoint_every": 3,
    "seed": 0,
}


def gan_params(**changes) -> GAN:
    """An adversarial network that takes no time, with changes."""
    return GAN(**_GAN | changes)


_PRETRAIN = {
    "method": "simclr",
    "backbone": backbones.resnet(4, [1, 1, 1, 1]),
    "optimizer": "sgd",
    "momentum": 0.9,
    "beta2": None,
    "trust_coefficient": None,
    "trust_clip": None,
    "decay_vectors": False,
    "accumulate": 1,
    "online_head": None,
    "steps": 5,
    "batch_size": 6,
    "lr": 0.1,
    "min_lr": 0.0,
    "warmup_steps": 1,
    "warmup_lr": None,
    "weight_decay": 0.01,
    "log_every": 2,
    "checkpoint_every": 2,
    "evaluate_every": 4,
    "seed": 0,
}


def pretrain_params(**changes) -> Pretrain:
    """SimCLR on a ResNet that takes no time, with changes."""
    return Pretrain(**_PRETRAIN | changes)


def counted(monkeypatch, owner: type, name: str):
    """The steps whose loss, a method of the class, was computed: `seen`; `crash` stops before one of them."""
    loss = getattr(owner, name)

    def counting(self, batch, step):
        if step == counting.crash:
            raise KeyboardInterrupt
        counting.seen.append(step)
        return loss(self, batch, step)

    counting.seen, counting.crash = [], None
    monkeypatch.setattr(owner, name, counting)
    return counting


def contents(made: dict[str, Path]) -> dict[str, bytes]:
    """Name -> bytes of files."""
    return {name: path.read_bytes() for name, path in made.items()}


def clusters(n: int, dim: int, classes: int, seed: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around one centre a class: float64 (n, dim), and their labels."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, n)
    x = np.random.default_rng(99).normal(size=(classes, dim))[y] + spread * random.normal(size=(n, dim))
    return torch.from_numpy(x), torch.from_numpy(y)


def unclip(folder: Path, seed: int = 0) -> Path:
    """A random pipeline of Stable Diffusion's unCLIP for 16 pixels, of the smallest parts, saved as diffusers does."""
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    words = ["!", "<|startoftext|>", "<|endoftext|>"]
    spoken = folder / "spoken"
    spoken.mkdir(parents=True)
    (spoken / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (spoken / "merges.txt").write_text("#version: 0.2\n")
    (spoken / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 4, "pad_token": "!"}))
    small = {"intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        hidden_size=8, vocab_size=3, max_position_embeddings=4, bos_token_id=1, eos_token_id=2, pad_token_id=0, **small
    )
    vision = CLIPVisionConfig(hidden_size=8, image_size=8, patch_size=4, projection_dim=6, **small)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = {
            "feature_extractor": CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
            "image_encoder": CLIPVisionModelWithProjection(vision),
            "image_normalizer": StableUnCLIPImageNormalizer(6),
            "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
            "tokenizer": CLIPTokenizer.from_pretrained(spoken, local_files_only=True),
            "text_encoder": CLIPTextModel(text),
            "unet": UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(4, 8),
                layers_per_block=1,
                norm_num_groups=2,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                attention_head_dim=(2, 4),
                cross_attention_dim=8,
                class_embed_type="projection",
                projection_class_embeddings_input_dim=12,
            ),
            "scheduler": DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction"),
            "vae": AutoencoderKL(
                block_out_channels=(4, 4),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                norm_num_groups=2,
            ),
        }
        with torch.no_grad():  # fresh ones say little of what they are told
            for parameter in parts["unet"].parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
            for parameter in parts["image_encoder"].parameters():
                parameter.add_(torch.randn_like(parameter))
    StableUnCLIPImg2ImgPipeline(**parts).save_pretrained(folder / "pipeline", safe_serialization=True)
    return folder / "pipeline"


def inputs(images: np.ndarray, generator: Path = Path("no generator"), real=None, **sections) -> Inputs:
    """What a kind of positives is given: train images, named 100 and so on where `real` is None, and sections."""
    n = len(images)
    if real is None:
        split, labels = np.full(n, shards.TRAIN, np.uint8), np.zeros(n, np.int64)
        real = shards.RealSet(images, labels, split, 100 + np.arange(n), ("a",), "toy", n)
    return Inputs(SimpleNamespace(compute=COMPUTE, **sections), real, images, generator)


def positives(made: dict[str, Path]) -> tuple[np.ndarray, list[int], list[int]]:
    """What shards of positives hold, in order: images, the name of each one's anchor, which of its versions it is."""
    images, anchors, versions = [], [], []
    for name in sorted(made):
        with h5py.File(made[name]) as file:
            images.append(file["images"][:])
            anchors += file["anchor_index"][:].tolist()
            versions += file["candidate"][:].tolist()
    return np.concatenate(images), anchors, versions
