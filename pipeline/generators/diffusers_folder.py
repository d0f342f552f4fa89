"""The folder of a diffusers DDPM, ours or a foreign one: which files are read, and what its configurations may say.

Only JSON is read here, before diffusers builds anything from it.
"""

from pathlib import Path

from pipeline.core import files
from pipeline.core.errors import UserError

INDEX, UNET, SCHEDULER = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
PREDICTIONS = ("epsilon", "sample", "v_prediction")
LEARNED = ("learned", "learned_range")  # variances
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler")
TIMESTEPS, LAYERS, LEVELS, CONFIGURATION = 100_000, 100, 10, 100_000  # upper limits; the last in bytes


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


def whole(folder: Path) -> bool:
    """Whether all files of a DDPM are there."""
    try:
        return bool(paths_of(folder))
    except UserError:
        return False


def read(folder: Path) -> tuple[dict[str, Path], dict[str, dict]]:
    """The paths of UNET, SCHEDULER and WEIGHTS, and the configurations of the first two.

    UserError if they are not those of an unconditional DDPM of bounded size.
    """
    paths = paths_of(folder)
    again = "make or get it again"
    configurations = {name: files.read_json(paths[name], CONFIGURATION, again) for name in (UNET, SCHEDULER)}
    unet, noise = configurations[UNET], configurations[SCHEDULER]
    kind, scheduler = unet.get("_class_name"), noise.get("_class_name")
    predicts, variance = noise.get("prediction_type", "epsilon"), noise.get("variance_type", "fixed_small")
    conditional = unet.get("class_embed_type") or unet.get("num_class_embeds")
    variances = unet.get("out_channels", 3) != unet.get("in_channels", 3)
    for name, refused, what in (
        (UNET, kind != "UNet2DModel", f"a {kind}, not an unconditional UNet2DModel"),
        (UNET, conditional, "class-conditional; only unconditional UNets are sampled"),
        (UNET, variances, "predicts variances too; only plain DDPMs are sampled"),
        (SCHEDULER, scheduler not in SCHEDULERS, f"scheduler {scheduler} is none of {', '.join(SCHEDULERS)}"),
        (SCHEDULER, predicts not in PREDICTIONS, f"prediction_type {predicts} is none of {', '.join(PREDICTIONS)}"),
        (SCHEDULER, variance in LEARNED, "wants variances of the network; only plain DDPMs are sampled"),
    ):
        if refused:
            raise UserError(what, paths[name])
    levels = unet.get("block_out_channels")
    for name, value, most, where in (
        ("num_train_timesteps", noise.get("num_train_timesteps", 1000), TIMESTEPS, SCHEDULER),
        ("layers_per_block", unet.get("layers_per_block", 2), LAYERS, UNET),
        ("levels", len(levels) if isinstance(levels, list) else levels, LEVELS, UNET),
    ):
        if type(value) is not int or not 1 <= value <= most:  # more would take endless memory or time
            raise UserError(f"{name} is {str(value)[:40]}, not a number from 1 to {most:,}", paths[where])
    return paths, configurations
