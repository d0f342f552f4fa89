"""Sizes that fit a folder of so many pictures, near to those that were asked for."""

from pipeline.core.shares import rounded
from pipeline.params import presets, reader
from pipeline.params.schema import Params

FEWEST = 6  # two test images, two of validation, two to learn labels from
MANY = 500  # images of which no more than a third of all labels need to be


def fitting(params: Params, images: int, known: int, drawn: bool) -> dict[tuple, int]:
    """Values by the paths of their parameters, those alone that must change; of a folder of so many pictures.

    known: pictures that may be validation and test images, those with a label if any has one. A sixth of them at most
    is for choices, and a sixth for the test, if that is to be drawn from them. Where most pictures have no label it
    is a third each, of few labels, since a sixth of them tells nothing. {} where they are fewer than FEWEST.
    """
    if known < FEWEST:
        return {}
    d, most = params.dataset, max(2, known // 6)
    if 2 * known < images:
        most = max(most, min(known // 3, MANY))
    test = min(d.test_size or most, most) if drawn else None
    validation = min(d.validation_size, most)
    rest = images - (test or 0) - validation
    labelled = min(d.labelled_size, known - (test or 0) - validation)
    ratio = params.inflation.ratio if params.generator.source == "real" else 0.0  # further real images for each
    train = min(d.train_size, int(rest / (1 + ratio)))
    ceiling = rounded(ratio, train)
    if ratio:
        labelled = min(labelled, rest - ceiling)
    left = rest - max(train, labelled)
    found = {
        ("dataset", "test_size"): test,
        ("dataset", "validation_size"): validation,
        ("dataset", "train_size"): train,
        ("dataset", "labelled_size"): labelled,
        ("dataset", "spare_size"): (spare := _spread(d.spare_size, left - ceiling)),
        ("dataset", "ceiling_size"): ceiling if ratio else min(d.ceiling_size, left - spare),
        ("quality", "images"): _spread(params.quality.images, validation // 2),
    }
    before = presets.leaves(params.model_dump())
    for _ in range(20):  # halvings of a batch
        wrong = {where for where, _ in reader.changed(params, found)[1]}
        too_large = {where for where in wrong if where[-1] == "batch_size"}
        if not too_large:
            found |= {where: 1 for where in wrong if where[-1] == "accumulate"}  # parts of what is a batch no longer
            break
        found |= {where: max(1, (before | found)[where] // 2) for where in too_large}
    return {path: value for path, value in found.items() if value != before[path]}


def _spread(wanted: int, most: int) -> int:
    """One image has no spread: none, or two at least."""
    return min(wanted, most) if min(wanted, most) > 1 else 0
