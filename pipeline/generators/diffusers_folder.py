"""The folder of a diffusers DDPM, ours or a foreign one: which files are read, and what its configurations may say.

Only JSON is read here, before diffusers builds anything from it.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.core import files
from pipeline.core.errors import UserError

INDEX, UNET, SCHEDULER = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler")
TIMESTEPS, LAYERS, LEVELS, CONFIGURATION = 100_000, 100, 10, 100_000  # upper limits; the last in bytes


@dataclass(frozen=True)
class Folder:
    """The configurations of UNet and scheduler, and the paths of UNET, SCHEDULER and WEIGHTS."""

    unet: dict
    scheduler: dict
    paths: dict[str, Path]


def paths_of(folder: Path) -> dict[str, Path]:
    """The files of a local diffusers DDPM: UNET, SCHEDULER and WEIGHTS -> path. Pipeline and flat layouts are read.

    No other files are ever opened: no pickle, no code.
    """
    found = {}
    for name in (UNET, WEIGHTS, SCHEDULER):
        part, _, file = name.partition("/")
        found[name] = (Path(folder) / part if (Path(folder) / part).is_dir() else Path(folder)) / file
    for path in found.values():
        if not path.exists():
            remedy = "a generator is a folder with config.json, scheduler_config.json and safetensors weights "
            remedy += "(pickled .bin weights are not read; convert them with diffusers)"
            raise UserError("not found", path, remedy)
    return found


def read(folder: Path) -> Folder:
    """The configurations of a folder; UserError if they are not those of an unconditional DDPM of bounded size."""
    paths = paths_of(folder)
    (unet_file, unet), (scheduler_file, noise) = (
        (paths[name], files.read_json(paths[name], CONFIGURATION)) for name in (UNET, SCHEDULER)
    )
    if unet.get("_class_name") != "UNet2DModel":
        raise UserError(f"a {unet.get('_class_name')}, not an unconditional UNet2DModel", unet_file)
    if unet.get("class_embed_type") or unet.get("num_class_embeds"):
        raise UserError("class-conditional; only unconditional UNets are sampled", unet_file)
    if unet.get("out_channels", 3) != unet.get("in_channels", 3):
        raise UserError("predicts variances too; only plain DDPMs are sampled", unet_file)
    if noise.get("_class_name") not in SCHEDULERS:
        raise UserError(f"scheduler {noise.get('_class_name')} is none of {', '.join(SCHEDULERS)}", scheduler_file)
    predicts = noise.get("prediction_type", "epsilon")
    if predicts not in PREDICTIONS:
        raise UserError(f"prediction_type {predicts} is none of {', '.join(PREDICTIONS)}", scheduler_file)
    if noise.get("variance_type", "fixed_small") in ("learned", "learned_range"):
        raise UserError("wants variances of the network; only plain DDPMs are sampled", scheduler_file)
    levels = unet.get("block_out_channels")
    for name, value, most, path in (
        ("num_train_timesteps", noise.get("num_train_timesteps", 1000), TIMESTEPS, scheduler_file),
        ("layers_per_block", unet.get("layers_per_block", 2), LAYERS, unet_file),
        ("levels", len(levels) if isinstance(levels, list) else levels, LEVELS, unet_file),
    ):
        if type(value) is not int or not 1 <= value <= most:  # more would take endless memory or time
            raise UserError(f"{name} is {str(value)[:40]}, not a number from 1 to {most:,}", path)
    return Folder(unet, noise, paths)
