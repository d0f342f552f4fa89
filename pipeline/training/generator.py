"""A trained or loaded generator, as a folder of files: the store's for training, a checked copy for a loaded one."""

import hashlib
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from pipeline.core import files, sources, store
from pipeline.core.errors import UserError
from pipeline.engine import arithmetic, distributed, loop
from pipeline.generators import module
from pipeline.params.schema import Compute, Generator, Training


def train(
    makes: ModuleType, own: Training, images: np.ndarray, compute: Compute, *given: np.ndarray
) -> tuple[dict[str, Path], list]:
    """Train a generator of module `makes` with its `own` parameters on uint8 images (N, H, W, C).

    given: what else its training is told of each image. Returns (name -> file of its folder, the log's rows), of
    several processes to the first alone; resumes, or finds the work done.
    """
    name = makes.__name__.removeprefix("pipeline.").replace(".", "/")
    parts = [np.ascontiguousarray(part) for part in (images, *given)]
    decided = {
        "kind": name,
        "params": own.model_dump(),
        "images": [[list(part.shape), hashlib.sha256(part).hexdigest()] for part in parts],
        "code": sources.digest(name),
        "arithmetic": arithmetic.facts(compute),
        "processes": distributed.size(),
    }

    def train_in(folder: Path, fingerprint: str) -> list[str]:
        training = makes.Training(own, *(torch.from_numpy(part).to(compute.device) for part in parts))
        what = f"training {name.rpartition('/')[2]}"
        rows = loop.train(what, training.task, training.plan, compute, folder, fingerprint)
        if not distributed.first():
            return []
        names = training.save(folder)
        files.write_json(folder / "rows.json", {"rows": rows})
        return [*names, "rows.json"]

    folder = store.once("generator", decided, train_in, distributed)
    if not distributed.first():
        return {}, []
    names = files.read_json(folder / store.MANIFEST)["files"]
    rows = files.read_json(folder / "rows.json")["rows"]
    return {name: folder / name for name in names if name != "rows.json"}, rows


def pretrained(params: Generator, size: tuple[int, int], channels: int) -> dict[str, Path]:
    """The files of a pretrained generator that fits images of `size` (H, W) and `channels`: name -> path.

    Its weights must have the digest `params.sha256`, if that is given, before they are read.
    """
    kind = module(params.kind)
    folder = Path(params.path) if params.hub is None else from_hub(params.hub, params.revision)
    found = kind.pretrained_files(folder)
    (weights,) = (path for path in found.values() if path.suffix == ".safetensors")
    if params.sha256 not in (None, digest := files.sha256(weights)):
        raise UserError(f"its sha256 is {digest}, not generator.sha256", weights, "get it again, or state this one")
    try:
        model, noise = kind.load(folder)
    except (TypeError, ValueError, AttributeError) as fault:  # a list where a number should be, and the like
        raise UserError(f"its configuration is none of such a model: {fault}", folder) from fault
    kind.fit_to(size, channels, model, params.hub or params.path)
    try:
        kind.try_out(model, noise, params.hub or params.path)
    except UserError as fault:  # of samples that are not finite too, which here are the model's fault alone
        raise UserError(fault.what, params.hub or params.path, "use another model, or get it again") from fault
    return found


def from_hub(repository: str, revision: str) -> Path:
    """A hub repository at a commit: configs and safetensors only, from the local cache or the network."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError

    names = ("config.json", "scheduler_config.json", "model_index.json", "diffusion_pytorch_model.safetensors")
    wanted = [f"{folder}{name}" for folder in ("", "unet/", "scheduler/") for name in names]
    asked = {"revision": revision, "allow_patterns": wanted}
    try:
        return Path(huggingface_hub.snapshot_download(repository, local_files_only=True, **asked))
    except HFValidationError as fault:
        raise UserError(f"not a repository's name: {repository}", "params.yaml: generator.hub") from fault
    except LocalEntryNotFoundError:
        pass
    try:
        # One question first: without a network the download alone would ask again for half a minute.
        huggingface_hub.model_info(repository, revision=revision, timeout=5)
        return Path(huggingface_hub.snapshot_download(repository, etag_timeout=5, **asked))
    except HfHubHTTPError as fault:
        raise UserError(f"the hub refuses: {fault}", f"{repository}@{revision}") from fault
    except (LocalEntryNotFoundError, HTTPError, OSError) as fault:
        raise UserError(
            "not in the local cache, and the hub cannot be reached",
            f"{repository}@{revision}",
            "download the repository elsewhere and name its folder in generator.path (hub: null)",
        ) from fault
