"""Which images of a set are for training, for the probe, for choosing, for judging generated images.

The split depends on the seed and the labels alone. Validation images are taken first, so they do not depend on
`train_size`. Train images are a prefix of one stratified order, so that a larger set contains a smaller one. If only
some images have labels (STL-10), validation and the probe's images are taken from those.
"""

import numpy as np

from pipeline.core import seeds
from pipeline.core.errors import UserError, UserErrors
from pipeline.data.shards import LABELLED, SPARE, TRAIN, VALIDATION
from pipeline.params.schema import Dataset


def split(
    params: Dataset, labels: np.ndarray, alone: np.ndarray | None = None
) -> tuple[list[tuple[int, np.ndarray]], np.ndarray]:
    """(code of `split`, rows of the training images) of the parts of given sizes, and the rows that are left, in order.

    labels: int64 (N,), -1 = none. alone: bool (N,), which images may be validation, spare or ceiling ones; None: all.
    """
    alone = np.ones(len(labels), bool) if alone is None else alone
    order = stratified_order(labels, params.seed)
    known = order[labels[order] >= 0] if (labels >= 0).any() else order
    validation = known[alone[known]][: params.validation_size]
    beyond = params.beyond(len(order), len(known))
    faults = [UserError(f"{name} {what}", params.path, "lower it") for name, what in beyond]
    if len(validation) < params.validation_size:
        what = f"validation_size {params.validation_size} > {len(validation)} images without a copy"
        faults.append(UserError(what, params.path, "lower it, or remove the copies"))
    if faults:
        raise UserErrors(faults)
    pool, known = (rows[~np.isin(rows, validation)] for rows in (order, known))
    labelled = known[: params.labelled_size]
    train = np.concatenate([labelled, pool[~np.isin(pool, labelled)]])[: params.train_size]  # few labels come first
    labelled = labelled[~np.isin(labelled, train)]
    left = pool[~np.isin(pool, np.concatenate([train, labelled])) & alone[pool]]
    if params.spare_size > len(left):
        what = f"spare_size {params.spare_size} > {len(left)} images left"
        raise UserError(f"{what}{'' if alone.all() else ' that have no copy'}", params.path, "lower it")
    spare, left = left[: params.spare_size], left[params.spare_size :]
    return [(TRAIN, train), (LABELLED, labelled), (VALIDATION, validation), (SPARE, spare)], left


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """A seeded order of all rows; every prefix holds the classes in proportion (to within an image or two).

    labels: int64 (N,). Returns int64 (N,): row j of a class of n_c images gets rank (j + 1/2) / n_c; ties by chance.
    """
    shuffled = seeds.permutation(seed, "split", 0, len(labels), np.arange(len(labels)))
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[shuffled] == label)
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(rank, kind="stable")]
