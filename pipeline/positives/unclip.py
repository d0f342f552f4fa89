"""Variants of an image: sampled by Stable Diffusion's unCLIP, conditioned on CLIP's embedding of it. USES OUTSIDE DATA.

The arm of GenSSL (Ayromlou et al., AAAI 2025, arXiv 2403.05966) whose generator has seen other images: diffusers'
`StableUnCLIPImg2ImgPipeline` with an empty prompt, by DDIM from a terminal SNR of zero (Lin et al. 2023, arXiv
2305.08891). It is loaded from a local folder. Only the files of `files_of` are read: no pickle, no code.
"""

import importlib
import math
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from pipeline.core import access, files, seeds
from pipeline.core.errors import DIVERGED, UserError, out_of_memory
from pipeline.generators import ddpm, diffusers_folder
from pipeline.params.schema import Compute, UnCLIP
from pipeline.positives import Batch, Inputs, Kind, Sampler

PIPELINE = "StableUnCLIPImg2ImgPipeline"
LAYERS, LEVELS, CONFIGURATION = 100, 10, 10_000_000  # upper limits for a folder; the last in bytes, of vocabularies too
_INDEX = "model_index.json"
_DIFFUSERS = ("config.json", Path(diffusers_folder.WEIGHTS).name)
_TRANSFORMERS = ("config.json", "model.safetensors")
_PARTS = {  # part -> package, class, files; the classes that the folder's index names are not used
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
_VOCABULARY = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either; the second is the older layout


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a saved pipeline that are read: name in the folder -> path. UserError if one is missing."""
    folder = Path(folder)
    names = [_INDEX, *(f"{part}/{name}" for part, (_, _, wanted) in _PARTS.items() for name in wanted)]
    layouts = [[f"tokenizer/{name}" for name in layout] for layout in _VOCABULARY]
    names += next((layout for layout in layouts if all((folder / name).is_file() for name in layout)), layouts[0])
    for name in names:
        path = folder / name
        if not path.is_file():
            remedy = f"a saved {PIPELINE} is wanted, with safetensors weights (pickled .bin weights are not read)"
            raise UserError("not found", path, remedy)
        if path.suffix != ".safetensors" and path.stat().st_size > CONFIGURATION:
            raise UserError(f"more than {CONFIGURATION:,} bytes", path)
    return {name: folder / name for name in names}


def load(params: UnCLIP, compute: Compute):
    """The pipeline of a local folder, ready to sample on its device and in its precision.

    The scheduler is DDIM with trailing timesteps and a terminal SNR of zero, as in GenSSL. UserError if the folder
    holds no such pipeline or its parts do not fit together.
    """
    from diffusers import DDIMScheduler, StableUnCLIPImg2ImgPipeline
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    found, folder = files_of(params.path), Path(params.path)
    kind = files.read_json(found[_INDEX], CONFIGURATION, "get it again").get("_class_name")
    if kind != PIPELINE:
        raise UserError(f"a {kind}, not a {PIPELINE}", found[_INDEX])
    with tempfile.TemporaryDirectory(prefix="unclip-") as place:
        for name, path in found.items():  # links, so that the libraries cannot open any other file
            link = Path(place) / name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(path.resolve())
        parts = {name: _part(name, Path(place) / name, folder / name, compute) for name in _PARTS}
    noise, where = parts["scheduler"].config, found["scheduler/scheduler_config.json"]
    if noise.prediction_type == "epsilon":
        raise UserError("predicts epsilon, from which no image follows at a terminal SNR of zero", where)
    with access.reading(folder, "diffusers makes nothing of it", "get it again", Exception):  # of any kind, inside it
        ddim = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}
        parts["scheduler"] = DDIMScheduler.from_config(noise, **ddim)
        pipe = StableUnCLIPImg2ImgPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    _try_out(pipe, folder)
    if compute.compile:
        pipe.unet.compile()
    return pipe


def _part(name: str, place: Path, where: Path, compute: Compute):
    """One part of the pipeline, its weights checked and loaded from `place`; errors name its real folder, `where`."""
    package, kind_name, names = _PARTS[name]
    kind, given = getattr(importlib.import_module(package), kind_name), {}
    weights = [file for file in names if file.endswith(".safetensors")]
    try:
        if weights:
            config = files.read_json(where / names[0], CONFIGURATION, "get it again")
            _bounded(config, where / names[0])
            _compare(kind, config, place / weights[0], where / weights[0])
            given = {"output_loading_info": True}
        found = kind.from_pretrained(place, local_files_only=True, use_safetensors=True, **given)
    except UserError:
        raise
    except Exception as fault:  # a foreign configuration can raise anything inside the libraries
        if out_of_memory(fault):
            raise
        reason = str(fault).strip().partition("\n")[0][:200].replace(str(place), str(where)) or type(fault).__name__
        own = UserError(f"no {kind_name}: {reason}", where, "get it again")
        raise access.of_the_system(fault, where, "read") or own from fault
    if not weights:
        return found
    model, info = found
    missing = sorted(info["missing_keys"])
    if missing:
        what = f"its weights lack {', '.join(missing[:3])}{f' and {len(missing) - 3} more' if missing[3:] else ''}"
        raise UserError(what, where / weights[0], "get it again")
    precision = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    # Not diffusers' `to`: it warns about fp32 layers, of which there are none (as in ddpm.py).
    return torch.nn.Module.to(model.eval().requires_grad_(False), compute.device, precision)


def _bounded(config: dict, where: Path) -> None:
    """Refuse a configuration that would take a library endless time, or more than weights."""
    for name, value in config.items():
        if "layers" in name:
            numbers = value if isinstance(value, list) else [value]
            if any(type(number) is int and number > LAYERS for number in numbers) or len(numbers) > LEVELS:
                raise UserError(f"{name} is {str(value)[:40]}, more than {LAYERS}", where)
        if name == "block_out_channels" and len(value) > LEVELS:
            raise UserError(f"{name} has {len(value)} levels, more than {LEVELS}", where)
        if name in ("quantization_config", "auto_map"):  # they may ask for other packages, or for code
            raise UserError(f"has a {name}; plain weights alone are read", where)


def _compare(kind: type, config: dict, path: Path, where: Path) -> None:
    """Refuse a configuration that asks for more numbers than its weights hold, before memory is taken for them."""
    unreadable = access.reading(where, "its weights are not readable", "get it again", SafetensorError)
    with unreadable, safe_open(path, "pt") as file:
        there = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118, no dict
    with torch.device("meta"):
        empty = kind.from_config(config) if hasattr(kind, "from_config") else kind(kind.config_class.from_dict(config))
    wanted = sum(tensor.numel() for tensor in empty.parameters())
    if wanted > there:
        raise UserError(f"holds {there:,} numbers, its configuration wants {wanted:,}", where, "get it again")


def _try_out(pipe, where: Path) -> None:
    """Sample one small image in one step: parts that are valid alone may not fit together."""
    side = 8 * pipe.vae_scale_factor
    with access.reading(where, "its parts do not fit together", "get it again", Exception):  # from anywhere inside
        picture, draw = [Image.new("RGB", (side, side))], [seeds.generator(0, "try-out")]
        pipe(picture, height=side, width=side, num_inference_steps=1, generator=draw, output_type="pt")


def prepare(inputs: Inputs) -> Sampler:
    """Of the pipeline in the folder `unclip.path`."""
    params = inputs.params.unclip
    decided = {
        "pipeline": {name: files.sha256(path) for name, path in files_of(params.path).items()},
        "unclip": params.model_dump(exclude={"path"}),
        "packages": {name: version(name) for name in ("transformers", "tokenizers")},
    }
    return Sampler(decided, lambda: start(inputs))


def start(inputs: Inputs) -> Batch:
    """numbers, guidance -> images. Inputs are grey or RGB; CLIP's processor resizes them to CLIP's size.

    What the pipeline makes is resized to H = W (antialiased bicubic). Of grey images it is the ITU-R 601 luma, as in
    pictures.py.
    """
    params, pipeline, images = inputs.params.positives, inputs.params.unclip, inputs.images
    pipe = load(pipeline, inputs.params.compute)
    timesteps = pipe.scheduler.config.num_train_timesteps
    levels = pipe.image_noising_scheduler.config.num_train_timesteps
    if timesteps % params.steps:
        fault = f"{params.steps} does not divide the {timesteps} timesteps of the pipeline"
        raise UserError(fault, "params.yaml: positives.steps", "choose a divisor")
    if pipeline.noise_level >= levels:
        fault = f"{pipeline.noise_level} is not one of the {levels} levels of the pipeline"
        raise UserError(fault, "params.yaml: unclip.noise_level", "lower it")
    if pipeline.size is not None and pipeline.size % pipe.vae_scale_factor:
        fault = f"{pipeline.size} is not a multiple of {pipe.vae_scale_factor}, the pixels of a latent"
        raise UserError(fault, "params.yaml: unclip.size", "choose a multiple")
    seed = seeds.key(params.seed, "unclip")  # not the inflation set's noise at the same seed

    def batch(numbers: range, guidance: float) -> np.ndarray:
        x = pipe(
            [Image.fromarray(images[n % len(images)].squeeze()).convert("RGB") for n in numbers],
            height=pipeline.size,
            width=pipeline.size,
            num_inference_steps=params.steps,
            guidance_scale=guidance,
            eta=params.eta,
            generator=[seeds.generator(seed, "sample", n) for n in numbers],
            noise_level=pipeline.noise_level,
            output_type="pt",
        ).images.float()  # (len, 3, S, S) in [0, 1]
        if not torch.isfinite(x).all():
            remedy = "sample with precision fp32, or use another pipeline"
            raise UserError("makes images with values that are not finite", pipeline.path, remedy, DIVERGED)
        if images.shape[3] == 1:
            x = (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        return ddpm.to_uint8(2 * x - 1, images.shape[1])

    return batch


KIND = Kind(prepare, ladder=(1.0, 10.0), outside_data=True)  # no guidance, and the pipeline's default
