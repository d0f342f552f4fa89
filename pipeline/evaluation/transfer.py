"""Another data set for a frozen encoder: its images as the encoder's own were, and the linear evaluation on them.

What a set's images go through is pictures.py's rule. A set whose images the encoder has seen is no transfer.
"""

import dataclasses

from pipeline.core.errors import UserError
from pipeline.core.progress import bar, log
from pipeline.data import datasets, folders, pictures, shards
from pipeline.evaluation import linear_eval
from pipeline.networks import backbones
from pipeline.params.schema import Compute, LinearEval, TransferSet

BUDGETS = ("train",)


def load(params: TransferSet, size: int, channels: int) -> shards.RealSet:
    """The set at the encoder's size and channels; `labelled_rows` are the images to learn from."""
    asked = params.dataset(size, channels)
    if params.name == "folder":
        log(f"{params.path}: {folders.read(asked).told()}")
    real = datasets.load(asked)
    return dataclasses.replace(real, images=pictures.resized(real.images, size, channels))


def judge(
    key: str, encoder: backbones.Encoder, real: shards.RealSet, params: LinearEval, compute: Compute
) -> tuple[dict[str, float], dict]:
    """Metrics of the set named `key`, and its protocol. Of `params`, l2, clsp_lr and seed count."""
    backbones.refuse_other_channels(encoder, real.images.shape[3])
    rows = {"train": real.labelled_rows(), **linear_eval.held_out(real)}
    nothing = linear_eval.untold(real, rows)
    if nothing:
        raise UserError(nothing, f"params.yaml: transfer.{key}", "put the pictures into folders of two classes or more")
    with bar(f"transfer to {key}", len(BUDGETS) + linear_eval.YARDSTICKS, "measure") as progress:
        found = linear_eval.compare(encoder, real, rows, BUDGETS, params, compute, progress)
    return found.metrics, found.protocol | {"set": real.source, "classes": len(real.classes)}
