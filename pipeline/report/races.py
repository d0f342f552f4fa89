"""What `leaven recommend` found, at the top of its study's section: its words, its intervals, who dropped out when."""

import math

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.core import files, store
from pipeline.params import reader
from pipeline.recommend import arms, reliability
from pipeline.recommend.race import LOOKS, Rules
from pipeline.report import figures
from pipeline.report.render import render
from pipeline.study.analysis import EXPECTED, Difference
from pipeline.study.cells import FOLDER, Study

NAMES = {"gain": "generated images", "ceiling": "perfect images", "lacking": "generated minus perfect"}


def verdict(study: Study, data: pd.DataFrame) -> Markup:
    """Of a study that is a race with an answer; else empty. data: its rows, as analysis.frame has them."""
    path = arms.answer_of(study.name)
    if not arms.raced(study) or not path.exists():
        return Markup()
    found = files.read_json(path, remedy="run `leaven recommend` again, which writes it anew")
    if found.get("study") != store.fingerprint(text=reader.text_of(FOLDER / f"{study.name}.yaml")):
        return Markup()  # of an earlier race of this name
    weak = found["answer"] == "weak evidence"
    known = {NAMES[name]: found[name] for name in NAMES if found[name] is not None}
    rows = [(name, Difference(d["points"], d["low"], d["high"], math.nan)) for name, d in known.items()]
    drawn, measure = [], reliability.MEASURE
    if rows:
        seeds = "fresh seeds" if found["fresh_seeds"] else "the seeds by which arms were chosen"
        title = f"{study.name}: what images bring beside the best arm without generated ones, on {seeds}"
        drawn.append(figures.forest(title, rows, measure if weak else "points of top-1", judged=not weak))
    heats, values, names = _heats(data.assign(chosen=EXPECTED[measure] * data[measure] if weak else data.validation))
    if heats:
        chosen = measure if weak else "points of validation accuracy"
        title = f"{study.name}: {chosen}, over the best arm without generated images; empty: runs no longer"
        drawn.append(figures.heat(title, ("heat", heats), names, values, signed=True))
    so_far = "" if found["over"] else ", so far"
    return render("race.html", runs=found["runs"], so_far=so_far, lines=found["words"], figures=drawn)


def _heats(data: pd.DataFrame) -> tuple[list[str], np.ndarray, list[str]]:
    """The heats and looks that are over, the arms' means of `chosen` over the best one without, and the arms.

    One is over when every arm that ran a seed of it ran all.
    """
    names, found = list(dict.fromkeys(data.arm)), {}
    for heat, looks in (("short", (Rules.seeds,)), ("full", (Rules.seeds,)), ("fresh", LOOKS)):
        part, before = data[data.part == heat].dropna(subset=["chosen"]), 0
        table = part.pivot_table(index="seed", columns="arm", values="chosen").sort_index()
        for seeds in looks:
            own = table.iloc[before:seeds].dropna(axis=1, how="all")
            without = [arm for arm in own if arm.startswith("none")]
            if len(own) < seeds - before or own.isna().any(axis=None) or not without:
                break
            means = table.iloc[:seeds][list(own)].mean()
            found[heat if heat != "fresh" else f"{seeds} fresh"] = means - means[without].max()
            before = seeds
    values = np.array([[column.get(arm, np.nan) for column in found.values()] for arm in names])
    return list(found), values, names
