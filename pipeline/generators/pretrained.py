"""A DDPM that was trained elsewhere, from a local folder or the Hugging Face hub; checked before use."""

from pathlib import Path
from types import SimpleNamespace

from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from pipeline.core import files, hub
from pipeline.core.errors import UserError, out_of_memory
from pipeline.generators import ddpm, diffusers_folder
from pipeline.params.schema import Generator


def load(params: Generator, size: tuple[int, int], channels: int) -> dict[str, Path]:
    """The files of a pretrained generator that fits images of `size` (H, W) and `channels`: name -> path.

    If `params.sha256` is given, the digest of the weights must be equal to it; they are not read before.
    """
    folder = Path(params.path) if params.hub is None else from_hub(params.hub, params.revision)
    where = params.hub or params.path
    found = diffusers_folder.paths_of(folder)
    weights = found[diffusers_folder.WEIGHTS]
    if params.sha256 not in (None, digest := files.sha256(weights)):
        raise UserError(f"its sha256 is {digest}, not generator.sha256", weights, "get it again, or state this one")
    try:
        model, noise = ddpm.load(folder)
    except (TypeError, ValueError, AttributeError) as fault:  # a list where a number should be, and the like
        raise UserError(f"its configuration does not describe a DDPM: {fault}", folder) from fault
    ddpm.fit_to(size, channels, model, where)
    try_out(model, noise, where)
    return found


def try_out(model: UNet2DModel, noise: DDPMScheduler, where: str) -> None:
    """Sample one image in one step: some configurations can be built, but not sampled from."""
    try:
        ddpm.sample(model, noise, SimpleNamespace(steps=1, eta=0.0, clip=True), range(1), 0, "ddpm")
    except Exception as fault:  # a foreign configuration can raise anything inside diffusers
        if out_of_memory(fault):
            raise
        # a UserError tells of values that are not finite, of which only the model can be the reason here
        what = getattr(fault, "what", f"diffusers cannot sample with it: {str(fault)[:200]}")
        raise UserError(what, where, "use another model, or get it again") from fault


def from_hub(repository: str, revision: str) -> Path:
    """The folder of a hub repository at a commit, from the local cache or the network: JSON and safetensors only."""
    parts = (diffusers_folder.INDEX, diffusers_folder.UNET, diffusers_folder.SCHEDULER, diffusers_folder.WEIGHTS)
    wanted = [*parts, *(Path(name).name for name in parts)]  # in both layouts
    remedy = "download the repository elsewhere and name its folder in generator.path (hub: null)"
    return hub.snapshot(repository, revision, wanted, "generator", remedy, diffusers_folder.whole)
