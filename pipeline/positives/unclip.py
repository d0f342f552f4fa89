"""Versions of an image, sampled by Stable Diffusion's unCLIP, which is told CLIP's embedding of it. USES OUTSIDE DATA.

The arm of GenSSL (Ayromlou et al., AAAI 2025, arXiv 2403.05966) whose generator saw other images: diffusers'
`StableUnCLIPImg2ImgPipeline` with an empty prompt, by DDIM from a terminal SNR of zero (Lin et al. 2023, arXiv
2305.08891). It comes from a local folder, of which the files of `files_of` are read and no other: no pickle, no code.
"""

import hashlib
import importlib
import importlib.util
import math
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from pipeline.core import files, seeds, sources
from pipeline.core.errors import DIVERGED, UserError
from pipeline.generators import ddpm, sampling
from pipeline.params.schema import Compute, Positives, UnCLIP

KIND = "StableUnCLIPImg2ImgPipeline"
LADDER = (1.0, 10.0)  # guidances that a picture compares: none, and the pipeline's own default
LAYERS, LEVELS, CONFIGURATION = 100, 10, 10_000_000  # at most, in what is loaded; the last in bytes, vocabularies too
_INDEX = "model_index.json"
_DIFFUSERS = ("config.json", ddpm.UNET_WEIGHTS)
_TRANSFORMERS = ("config.json", "model.safetensors")
_PARTS = {  # the pipeline's parts, whatever its index calls them: package, class, files
    "feature_extractor": ("transformers", "CLIPImageProcessor", ("preprocessor_config.json",)),
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection", _TRANSFORMERS),
    "image_normalizer": (
        "diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer",
        "StableUnCLIPImageNormalizer",
        _DIFFUSERS,
    ),
    "image_noising_scheduler": ("diffusers", "DDPMScheduler", ("scheduler_config.json",)),
    "tokenizer": ("transformers", "CLIPTokenizer", ("tokenizer_config.json",)),
    "text_encoder": ("transformers", "CLIPTextModel", _TRANSFORMERS),
    "unet": ("diffusers", "UNet2DConditionModel", _DIFFUSERS),
    "scheduler": ("diffusers", "DDIMScheduler", ("scheduler_config.json",)),
    "vae": ("diffusers", "AutoencoderKL", _DIFFUSERS),
}
_VOCABULARY = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either; the older layout has the second


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a saved pipeline that are read: name in the folder -> path. UserError where one is not there."""
    folder = Path(folder)
    names = [_INDEX, *(f"{part}/{name}" for part, (_, _, own) in _PARTS.items() for name in own)]
    spoken = [[f"tokenizer/{name}" for name in own] for own in _VOCABULARY]
    names += next((own for own in spoken if all((folder / name).is_file() for name in own)), spoken[0])
    for name in names:
        path = folder / name
        if not path.is_file():
            remedy = f"a saved {KIND} is wanted, with safetensors weights (pickled .bin weights are not read)"
            raise UserError("not found", path, remedy)
        if path.suffix != ".safetensors" and path.stat().st_size > CONFIGURATION:
            raise UserError(f"more than {CONFIGURATION:,} bytes", path)
    return {name: folder / name for name in names}


def load(own: UnCLIP, compute: Compute):
    """The pipeline of a local folder, for sampling, on its device and in its precision.

    Its scheduler is DDIM with trailing timesteps and a terminal SNR of zero, as GenSSL has it. What is not such a
    pipeline, or does not fit together, is a UserError.
    """
    from diffusers import DDIMScheduler, StableUnCLIPImg2ImgPipeline
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    found, folder = files_of(own.path), Path(own.path)
    kind = files.read_json(found[_INDEX], CONFIGURATION).get("_class_name")
    if kind != KIND:
        raise UserError(f"a {kind}, not a {KIND}", found[_INDEX])
    with tempfile.TemporaryDirectory(prefix="unclip-") as place:
        for name, path in found.items():  # so that the libraries can open no other file
            link = Path(place) / name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(path.resolve())
        parts = {name: _part(name, Path(place) / name, folder / name, compute) for name in _PARTS}
    noise, where = parts["scheduler"].config, found["scheduler/scheduler_config.json"]
    if noise.prediction_type == "epsilon":
        raise UserError("predicts epsilon, of which nothing follows at a terminal SNR of zero", where)
    try:
        ddim = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}
        parts["scheduler"] = DDIMScheduler.from_config(noise, **ddim)
        pipe = StableUnCLIPImg2ImgPipeline(**parts)
    except Exception as fault:  # a foreign configuration may provoke anything inside diffusers
        raise UserError(f"diffusers makes nothing of it: {_line(fault)}", folder) from fault
    pipe.set_progress_bar_config(disable=True)
    _try_out(pipe, folder)
    if compute.compile:
        pipe.unet.compile()
    return pipe


def _part(name: str, place: Path, where: Path, compute: Compute):
    """One part of the pipeline, which fits its weights; `where` is its folder to whoever reads an error."""
    package, kind_name, own = _PARTS[name]
    kind, given = getattr(importlib.import_module(package), kind_name), {}
    weights = [file for file in own if file.endswith(".safetensors")]
    try:
        if weights:
            config = files.read_json(where / own[0], CONFIGURATION)
            _bounded(config, where / own[0])
            _compare(kind, config, place / weights[0], where / weights[0])
            given = {"output_loading_info": True}
        found = kind.from_pretrained(place, local_files_only=True, use_safetensors=True, **given)
    except UserError:
        raise
    except Exception as fault:  # a foreign configuration may provoke anything inside the libraries
        reason = _line(fault).replace(str(place), str(where))
        raise UserError(f"no {kind_name}: {reason}", where, "get it again") from fault
    if not weights:
        return found
    model, info = found
    missing = sorted(info["missing_keys"])
    if missing:
        what = f"its weights lack {', '.join(missing[:3])}{f' and {len(missing) - 3} more' if missing[3:] else ''}"
        raise UserError(what, where / weights[0], "get it again")
    precision = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    # As in ddpm.py: diffusers' own warns of fp32 layers, of which it has none.
    return torch.nn.Module.to(model.eval().requires_grad_(False), compute.device, precision)


def _bounded(config: dict, where: Path) -> None:
    """Refuse what would take time without end before a library makes anything of it."""
    for name, value in config.items():
        if "layers" in name:
            numbers = value if isinstance(value, list) else [value]
            if any(type(number) is int and number > LAYERS for number in numbers) or len(numbers) > LEVELS:
                raise UserError(f"{name} is {str(value)[:40]}, more than {LAYERS}", where)
        if name == "block_out_channels" and len(value) > LEVELS:
            raise UserError(f"{name} has {len(value)} levels, more than {LEVELS}", where)
        if name in ("quantization_config", "auto_map"):  # which may ask for other packages, or for code
            raise UserError(f"has a {name}; plain weights alone are read", where)


def _compare(kind: type, config: dict, path: Path, where: Path) -> None:
    """Refuse a configuration that asks for more numbers than its weights hold, before it takes memory for them."""
    try:
        with safe_open(path, "pt") as file:
            there = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118, no dict
    except (OSError, SafetensorError) as fault:
        raise UserError(f"its weights are not readable: {_line(fault)}", where, "get it again") from fault
    with torch.device("meta"):
        empty = kind.from_config(config) if hasattr(kind, "from_config") else kind(kind.config_class.from_dict(config))
    wanted = sum(tensor.numel() for tensor in empty.parameters())
    if wanted > there:
        raise UserError(f"holds {there:,} numbers, its configuration wants {wanted:,}", where, "get it again")


def _try_out(pipe, where: Path) -> None:
    """One step for one image, as small as can be: parts that are well alone may not fit one another."""
    side = 8 * pipe.vae_scale_factor
    try:
        picture, draw = [Image.new("RGB", (side, side))], [seeds.generator(0, "try-out")]
        pipe(picture, height=side, width=side, num_inference_steps=1, generator=draw, output_type="pt")
    except Exception as fault:  # a foreign configuration may provoke anything inside the libraries
        raise UserError(f"its parts do not fit together: {_line(fault)}", where, "get it again") from fault


def _line(fault: Exception) -> str:
    return str(fault).strip().partition("\n")[0][:200] or type(fault).__name__


def sampler(
    params: Positives, own: UnCLIP, images: np.ndarray, compute: Compute
) -> Callable[[range, float], np.ndarray]:
    """numbers, guidance -> their images: number v n + a is version v of image a of n, uint8 (len, H, W, C).

    images: uint8 (n, H, W, C), grey or RGB, which CLIP's own processor brings to CLIP's size. What the pipeline makes
    is resized to H = W (antialiased bicubic), and of grey images it is the ITU-R 601 luma, as in pictures.py.
    """
    pipe = load(own, compute)
    scheduler, noising = pipe.scheduler.config, pipe.image_noising_scheduler.config
    if scheduler.num_train_timesteps % params.steps:
        fault = f"{params.steps} does not divide the {scheduler.num_train_timesteps} timesteps of the pipeline"
        raise UserError(fault, "params.yaml: positives.steps", "choose a divisor")
    if own.noise_level >= noising.num_train_timesteps:
        fault = f"{own.noise_level} is none of the {noising.num_train_timesteps} levels of the pipeline"
        raise UserError(fault, "params.yaml: unclip.noise_level", "lower it")
    if own.size is not None and own.size % pipe.vae_scale_factor:
        fault = f"{own.size} is no multiple of {pipe.vae_scale_factor}, a latent's pixels"
        raise UserError(fault, "params.yaml: unclip.size", "choose a multiple")
    size, channels = images.shape[1], images.shape[3]
    seed = seeds.key(params.seed, "unclip")  # other noise than the inflation set's at the same seed

    def batch(numbers: range, guidance: float) -> np.ndarray:
        given = [Image.fromarray(images[n % len(images)].squeeze()).convert("RGB") for n in numbers]
        x = pipe(
            given,
            height=own.size,
            width=own.size,
            num_inference_steps=params.steps,
            guidance_scale=guidance,
            eta=params.eta,
            generator=[seeds.generator(seed, "sample", n) for n in numbers],
            noise_level=own.noise_level,
            output_type="pt",
        ).images.float()  # (len, 3, S, S) in [0, 1]
        if not torch.isfinite(x).all():
            remedy = "sample with precision fp32, or use another pipeline"
            raise UserError("makes images with values that are not finite", own.path, remedy, DIVERGED)
        if channels == 1:
            x = (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        return ddpm.to_uint8(2 * x - 1, size)

    return batch


def fill(
    params: Positives, own: UnCLIP, images: np.ndarray, names: np.ndarray, compute: Compute
) -> tuple[dict[str, Path], str]:
    """`params.candidates` versions of each image, version by version, as whole shards in the store.

    images: uint8 (n, H, W, C); names: int64 (n,), what a shard calls each of them (`anchor_index`). More versions add
    shards. Returns (shard name -> file, fingerprint of the set).
    """
    if importlib.util.find_spec("transformers") is None:
        remedy = "pip install transformers"
        raise UserError("unclip wants transformers, which is not installed", "params.yaml: positives.kind", remedy)
    decided = {
        "pipeline": {name: files.sha256(path) for name, path in files_of(own.path).items()},
        "unclip": own.model_dump(exclude={"path"}),
        "anchors": [list(images.shape), hashlib.sha256(images).hexdigest(), hashlib.sha256(names).hexdigest()],
        "code": sources.digest("positives/unclip"),
        "packages": {name: version(name) for name in ("transformers", "tokenizers")},
    }
    what = f"unCLIP sampling ({params.steps} steps, guidance {params.guidance:g})"

    def start() -> Callable[[range], np.ndarray]:
        batch = sampler(params, own, images, compute)
        return lambda numbers: batch(numbers, params.guidance)

    return sampling.sample_positives(what, params, decided, names, compute, start)
