"""What is said of a folder of pictures before it is used: how it looks, how it is shared out, what it cannot tell."""

import math
import os
import shutil
import statistics
import subprocess
from collections import Counter
from pathlib import Path
from shlex import quote

import numpy as np

from pipeline.data import decoding
from pipeline.params.schema import Dataset

RARE = 3  # pictures of a class: one each to learn from, to choose by and to test
FEW_TO_TEST, FEW_TO_JUDGE = 400, 100  # below these many pictures an answer is of little use, and said to be
COARSE = 24  # pixels a side in the UNet's coarsest level, which attends: its time grows as their fourth power
SHOWN = 3  # names in a line
_NO_CLASS = {"unlabelled", "unlabeled", "unknown", "unsorted"}


def tables(folder: Path) -> list[str]:
    """What may hold the labels of a folder that has none."""
    there = sorted(path.name for path in folder.glob("*.csv"))
    if not there:
        return []
    return [f"if {there[0]} has the labels: leaven dataset {quote(str(folder))} --labels {quote(there[0])}"]


def looks(headers: list[decoding.Header], asked: Dataset) -> list[str]:
    """Formats, colours and sides, and as what they are read."""
    widths, heights = zip(*(header.size for header in headers), strict=True)
    kinds = Counter(header.kind for header in headers)
    said = ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common())
    grey = sum(header.grey for header in headers)
    colours = "grey" if grey == len(headers) else f"colour, {grey:,} of them grey" if grey else "colour"
    shape = {"crop": "the middle square of each", "pad": "black beside the shorter side", "stretch": "stretched"}
    return [
        f"files: {said}; {colours}; {min(widths):,} to {max(widths):,} pixels wide, {min(heights):,} to "
        f"{max(heights):,} high, the shorter side {statistics.median(map(min, widths, heights)):,.0f} at the median",
        f"read as: {asked.image_size} x {asked.image_size} x {asked.channels}, {shape[asked.resize]}",
    ]


def small(headers: dict[Path, decoding.Header], side: int) -> list[str]:
    """Pictures that are enlarged more than twice."""
    names = [path.name for path, header in headers.items() if 2 * min(header.size) < side]
    some = ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
    said = f"warning: under {side / 2:g} pixels a side and enlarged to {side}: {some} ({len(names):,} in all)"
    return [said] * bool(names)


def unlabelled(classes: list[str]) -> list[str]:
    """Classes whose names say that they are none."""
    found = [name for name in classes if name.casefold() in _NO_CLASS]
    remedy = "if its pictures have no label, give the labels of the others as a table: --labels"
    return [f"warning: {name!r} is taken for a class; {remedy}" for name in found]


def kept(before: Dataset, path: str) -> list[str]:
    """That sizes are still those of another folder."""
    if before.name != "folder" or before.path == path:
        return []
    remedy = "for the shipped ones: git checkout params.yaml, and once more"
    return [f"sizes, strength and networks of {before.path} stand in params.yaml and are kept where they fit; {remedy}"]


def shares(values: dict[tuple, object], images: int) -> str:
    """How the pictures to learn from, and those to be drawn as test images, are shared out."""
    test, validation, train, labelled, spare, ceiling = (
        values["dataset", f"{name}_size"] or 0
        for name in ("test", "validation", "train", "labelled", "spare", "ceiling")
    )
    parts = {"to test": test, "to choose by": validation, "to learn from": train}
    parts |= {"to judge images by": spare, "for the ceiling": ceiling, "with labels alone": max(labelled - train, 0)}
    unused = images - sum(parts.values())
    said = ", ".join(f"{n:,} {what}" for what, n in parts.items() if n)
    more = f", {unused:,} unused: a larger dataset.train_size takes them" if unused > 0 else ""
    return f"shared out: {said}{more}"


def in_git(folder: Path) -> list[str]:
    """A warning of pictures within the clone that git would take into a commit."""
    path = Path(os.path.abspath(folder))
    if not path.is_relative_to(Path.cwd()) or shutil.which("git") is None:
        return []
    code = subprocess.run(["git", "check-ignore", "--quiet", str(path)], capture_output=True, check=False).returncode
    known = subprocess.run(["git", "ls-files", "--", str(path)], capture_output=True, check=False).stdout
    remedy = "move it below data/, or name it in .gitignore"
    return [f"warning: git does not ignore {folder}, so a run would commit its pictures: {remedy}"] * (
        code == 1 and not known
    )


def copies(alone: np.ndarray) -> list[str]:
    """Pictures that equal another. alone: bool (N,), which do not."""
    n = int((~alone).sum())
    return [f"copies: {n:,} pictures equal another at this size; they are learned from, and judge nothing"] * (n > 0)


def unequal(labels: np.ndarray) -> list[str]:
    """Classes of unequal size, and rare ones. labels: int64 (N,), -1 for none."""
    count = np.bincount(labels[labels >= 0]) if (labels >= 0).any() else np.ones(1)
    rare = int((count < RARE).sum()) if (labels >= 0).any() else 0
    said = f"classes are unequal, {count.min():,} to {count.max():,} pictures: look at balanced accuracy beside top-1"
    few = f"warning: {rare:,} of {len(count):,} classes have fewer than {RARE} pictures: too few to learn and to test"
    return [said] * bool(count.max() >= 2 * count.min()) + [few] * (rare > 0)


def of_test_images(top1: float, test: int) -> float:
    """How many points a difference between two accuracies of top1 % on so many test images may lie from that on all
    that there could be, at most in 95 % of all cases.

    At most: as if two encoders erred independently. They err alike, which makes it less.
    """
    return statistics.NormalDist().inv_cdf(0.975) * math.sqrt(2 * top1 * (100 - top1) / test)


def warnings(values: dict[tuple, object], test: int | None) -> list[str]:
    """What a set of this size cannot tell. test: pictures, None without labels."""
    said = []
    if test is not None and test < FEW_TO_TEST:
        seen = of_test_images(80.0, test)
        said.append(f"warning: {test:,} test pictures: two encoders less than about {seen:.0f} points apart look alike")
    side, levels = values["dataset", "image_size"], len(values["ddpm", "channels"])
    if (coarsest := side >> (levels - 1)) > COARSE:
        what = f"{coarsest} pixels a side in the UNet's coarsest level, as {side} halves no more often: slow"
        said.append(f"warning: {what}; another --size, as {round(side / 32) * 32 or 32}, halves further")
    judged = values.get(("quality", "images"))
    if judged is not None and judged < FEW_TO_JUDGE:
        said.append(f"warning: {judged:,} generated pictures judged: too few to trust the quality stage's numbers")
    if values.get(("dataset", "spare_size")) == 0:
        said.append("no picture is to spare, so the networks that judge generated images learn from train images")
    return said
