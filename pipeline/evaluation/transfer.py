"""Another data set for a frozen encoder: its images as the encoder's own were, and the linear evaluation on them.

What a set's images go through is pictures.py's rule. A set whose images the encoder has seen is no transfer.
"""

import dataclasses

import numpy as np
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.progress import bar
from pipeline.data import datasets, shards
from pipeline.evaluation import linear_eval
from pipeline.networks import backbones
from pipeline.params.schema import Compute, Dataset, LinearEval, TransferSet

BUDGETS = ("train",)


def load(params: TransferSet, size: int, channels: int) -> shards.RealSet:
    """The set at the encoder's size and channels; `labelled_rows` are the images to learn from."""
    pictured = {"image_size": size, "channels": channels} if params.name == "folder" else {}
    asked = {"image_size": None, "channels": None, **params.model_dump(), **pictured}
    real = datasets.load(Dataset(**asked, labelled_size=params.train_size, spare_size=0))
    return dataclasses.replace(real, images=fitted(real.images, size, channels))


def fitted(images: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Square uint8 images (N, H, H, 1 or 3) -> (N, size, size, channels): luma or grey thrice, antialiased bicubic."""
    if images.shape[1:] == (size, size, channels):
        return images
    found = np.empty((len(images), size, size, channels), np.uint8)
    with bar("resizing images", len(images), "image") as progress:
        for image, place in zip(images, found, strict=True):
            picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
            plain = picture.convert("L" if channels == 1 else "RGB")
            resized = plain.resize((size, size), Image.Resampling.BICUBIC)
            place[:] = np.asarray(resized).reshape(size, size, channels)
            progress.update()
    return found


def judge(
    key: str, encoder: backbones.Encoder, real: shards.RealSet, params: LinearEval, compute: Compute
) -> tuple[dict[str, float], dict]:
    """Metrics of the set named `key`, and its protocol. Of `params`, l2, clsp_lr and seed count."""
    channels = len(encoder.card["mean"])
    if channels != real.images.shape[3]:
        what = f"takes {channels} channels, the parameters' data have {real.images.shape[3]}"
        raise UserError(what, "data/encoder", "run `dvc repro pretrain`")
    rows = {"train": real.labelled_rows(), **linear_eval.held_out(real)}
    lacking = [name for name, found in rows.items() if not len(found)]
    if lacking:
        what = f"no image of {', '.join(lacking)} has a label"
        raise UserError(what, f"params.yaml: transfer.{key}", "put the pictures into class folders")
    with bar(f"transfer to {key}", len(BUDGETS) + linear_eval.YARDSTICKS, "measure") as progress:
        found = linear_eval.compare(encoder, real, rows, BUDGETS, params, compute, progress)
    return found.metrics, found.protocol | {"set": real.source, "classes": len(real.classes)}
