"""Top-1 of each class, and which classes are taken for which."""

import numpy as np

from pipeline.measures import probes

PER_CLASS, PAIRS = ["class", "top1", "low", "high"], ["actual", "predicted", "count"]  # columns
WHOLE, LISTED = 20, 30  # classes whose confusion has all cells; of more classes, so many pairs of two


def tables(classes: tuple[str, ...], actual: np.ndarray, predicted: np.ndarray) -> tuple[dict, dict]:
    """Tables for plots/, and what they hold for the protocol. A class without a test image has no top-1."""
    n, wrong = len(classes), actual != predicted
    images, right = (np.bincount(of, minlength=n) for of in (actual, actual[~wrong]))
    seen = np.flatnonzero(images)
    shares = [(100 * right[c] / images[c], *probes.wilson(int(right[c]), int(images[c]))) for c in seen]
    per_class = ((classes[c], *share) for c, share in zip(seen, shares, strict=True))
    if n <= WHOLE:
        pairs, counts = np.arange(n * n), np.bincount(actual * n + predicted, minlength=n * n)
        held = "all pairs of classes"
    else:  # classes squared would be too many
        found, often = np.unique((actual * n + predicted)[wrong], return_counts=True)
        most = np.argsort(-often, kind="stable")[:LISTED]
        pairs, counts = found[most], often[most]
        held = f"the {len(most)} most frequent of {len(found):,} confusions, as there are more than {WHOLE} classes"
    named = ((classes[k // n], classes[k % n], count) for k, count in zip(pairs, counts.tolist(), strict=True))
    made = {"per_class": (PER_CLASS, per_class), "confusion": (PAIRS, named)}
    made = {of: (names, [dict(zip(names, row, strict=True)) for row in rows]) for of, (names, rows) in made.items()}
    return made, {"per_class": f"the {len(seen)} of {n} classes that have test images", "confusion": held}
