"""`leaven recommend`: a race of arms as a study that writes itself, of a folder or of the set of params.yaml."""

import functools
import statistics
import time
from dataclasses import replace
from pathlib import Path
from shlex import quote

from pipeline.core import files, store
from pipeline.core.errors import Stopped, UserError
from pipeline.core.progress import log
from pipeline.params import presets
from pipeline.params.schema import Params
from pipeline.recommend import arms, prices, race, reliability, words
from pipeline.recommend.question import Question, Wish, question
from pipeline.recommend.race import LOOKS, Result, Results, Rules, Run
from pipeline.run import remarks
from pipeline.study import cells, rows, runner


class Race:
    """A study and its rows, as the race sees them.

    test: test images; None where there are no labels. jobs: runs at a time. elsewhere: whether other machines than this
    one make them.
    """

    def __init__(self, study: cells.Study, rules: Rules, test: int | None, jobs: int = 1, elsewhere: bool = False):
        self.study, self.rules, self.test = study, replace(rules, labels=test is not None), test
        self.jobs, self.elsewhere = jobs, elsewhere
        self.asked = runner.wanted(study)
        self.arms = {one.cell.arm: arms.of(one.cell) for one in self.asked}
        self.cells = {Run(one.cell.part, one.cell.arm, one.cell.seed): one.cell for one in self.asked}

    @property
    def params(self) -> Params:
        """Those of a run of the whole length without generated images."""
        return next(one.params for one in self.asked if one.cell.part == "full")

    @property
    def perfect(self) -> float:
        """Further real images for each one in the ceiling; 0 without one."""
        of_ceiling = (one.params.inflation.ratio for one in self.asked if one.cell.of == "ceiling")
        return next(of_ceiling, 0.0)

    @functools.cached_property
    def reliability(self) -> str:
        """How far what takes the place of labels can be trusted."""
        return reliability.measured().told()

    @functools.cached_property
    def measured(self) -> prices.Prices:
        """What runs cost, before there is one."""
        return prices.measured(self.params, max(ratio for ratio, _ in arms.INFLATED.values()))

    def price(self) -> prices.Prices | None:
        """By rows of each length if there are some; the generator's is nothing once it has been made.

        None of runs elsewhere before there is one.
        """
        found = self.rows()
        short, run = (
            prices.of_rows([row for one, row in found.items() if (one.heat == "short") is of]) for of in (True, False)
        )
        if self.elsewhere:
            return None if run is None else prices.Prices(run, run if short is None else short, 0.0, self.jobs)
        made = any(self.cells[one].of in arms.INFLATED for one in found)
        run, short = self.measured.run if run is None else run, self.measured.short if short is None else short
        return prices.Prices(run, short, 0.0 if made else self.measured.generator, self.jobs)

    def rows(self) -> dict[Run, dict[str, str]]:
        """The rows that today's code and parameters made."""
        known = {row["key"]: row for row in rows.everywhere()}
        found = {Run(one.cell.part, one.cell.arm, one.cell.seed): known.get(one.key) for one in self.asked}
        return {run: row for run, row in found.items() if row is not None}

    def results(self) -> Results:
        """By validation images and by the test, or by a measure without labels; UserError where a row lacks them."""
        found = {}
        for run, row in self.rows().items():
            if self.rules.labels:
                there = [float(row[name]) for name in ("validation", cells.OUTCOME) if row[name]]
            else:
                there = 2 * [liked] if (liked := reliability.liking(row)) is not None else []
            if len(there) < 2:
                what = "validation and test images with labels" if self.rules.labels else reliability.MEASURE
                what = f"{row['label']}: no {what}, by which arms are chosen"
                raise UserError(what, self.study.name, "give more labels of each class")
            if run.arm in self.arms:
                found[run] = Result(*there)
        return found

    def wanted(self) -> list[Run]:
        """What is to be made next."""
        return race.wanted(self.arms, self.results(), self.rules)

    def make(self, runs: list[Run], minutes: float, jobs: int, start: runner.Start | None) -> None:
        """Run these, as far as the time reaches. An arm that fails drops out; UserError if a kind has no other left."""
        chosen = [self.cells[run] for run in runs]
        try:
            runner.run(cells.Study(self.study.name, self.study.file, chosen), None, minutes, jobs, start)
        except runner.CellsFailed as fault:
            failed = {cell.arm for cell in chosen if cell.label in fault.labels}
            left = {arm: of for arm, of in self.arms.items() if arm not in failed}
            if {"none", "generated"} - {of.kind for of in left.values()}:
                raise
            log(f"{', '.join(sorted(failed))}: drop out, as a run failed ({fault})")
            self.arms = left


def recommend(
    wish: Wish,
    hours: float,
    jobs: int = 1,
    start: runner.Start | None = None,
    elsewhere: bool = False,
    dry_run: bool = False,
) -> None:
    """Plan the race, run it for so many hours, say what is known; the same command goes on.

    start: as for a study. elsewhere: other machines than this one make the runs.
    """
    if not 0 < hours < float("inf") or jobs < 1:
        raise UserError("must be above 0", "--hours and --jobs")
    if not 0 <= wish.rules.least < float("inf"):
        raise UserError(f"must be a number of points from 0, not {wish.rules.least:g}", "--min-gain")
    _refuse_study(wish.name)
    asked = question(wish)
    racing = Race(cells.read(wish.name, asked.text), wish.rules, asked.test, jobs, elsewhere)
    _refuse_another(racing, asked.text)
    if not dry_run:
        rows.commit()  # or refused: no row could name what made it
    price = racing.price()
    print("\n".join(plan(racing, price, hours)))
    least, _ = (0.0, 0.0) if price is None else to_first_look(racing, price)
    if not racing.rows() and least > hours:
        what = f"{hours:g} hours are too few for any answer, which takes about {least:.1f}"
        raise UserError(what, "--hours", "give as many, or shorten the runs: pretrain.steps in params.yaml")
    if dry_run:
        return
    files.write_text(cells.FOLDER / f"{wish.name}.yaml", asked.text)
    runner.adopt(racing.study, racing.asked)
    end = time.monotonic() + 3600 * hours
    try:
        while runs := racing.wanted():
            left, done = end - time.monotonic(), (len(racing.rows()), len(racing.arms))
            price = racing.price()
            if price is not None and left < (price.short if runs[0].heat == "short" else price.run):
                break
            log(f"{runs[0].heat} heat: {len(runs)} runs; {left / 3600:.1f} hours left")
            racing.make(runs if done[0] else runs[:1], left / 60, jobs, start)  # the first shows whether labels do
            if (len(racing.rows()), len(racing.arms)) == done:
                break
    except Stopped as stop:
        raise Stopped("stopped; the same command goes on", stop.signum) from stop
    finish(racing, asked)


def _refuse_study(name: str) -> None:
    """Refuse the name of a study that is no race, before any picture is read."""
    cells.refuse_name(name)
    path = cells.FOLDER / f"{name}.yaml"
    if path.exists() and not arms.raced(cells.load(name)):
        raise UserError("is a study and no race", path, "give another --name")


def _refuse_another(racing: Race, text: str) -> None:
    """Refuse the name of a race that is another question's or was begun with other parameters."""
    path = cells.FOLDER / f"{racing.study.name}.yaml"
    there = path.read_text(encoding="utf-8") if path.exists() else text
    if there != text and rows.read(racing.study.memory):
        what = "was begun with another folder, other parameters or sizes"
        raise UserError(what, path, "give another --name, or move it and its CSV away")


def to_first_look(racing: Race, price: prices.Prices) -> tuple[float, float]:
    """Hours until the first look at fresh seeds: if one arm of a kind is left then, and if all are.

    What is done counts no more.
    """
    alone = 0 if racing.rows() else 1  # the first run

    def hours(ahead: dict[race.Heat, int]) -> float:
        short, whole = (ahead["short"] - alone, price.short), ((ahead[heat], price.run) for heat in ("full", "fresh"))
        return price.hours((alone, price.short), short, *whole) + (price.generator or 0.0) / 3600

    least, most = map(hours, race.to_first_look(racing.arms, racing.results(), racing.rules))
    return least, most


def plan(racing: Race, price: prices.Prices | None, hours: float) -> list[str]:
    """What will be run, what it costs, what it can tell: before anything is."""
    p, d, kinds = racing.params.pretrain, racing.params.dataset, [of.kind for of in racing.arms.values()]
    perfect = f", {kinds.count('ceiling')} with {racing.perfect:g} x as many real images in their place"
    lines = [
        f"{d.path}: {d.train_size:,} real images, {d.validation_size:,} of validation, "
        f"{p.steps:,} steps of {p.batch_size}",
        f"arms: {kinds.count('none')} without generated images, {kinds.count('generated')} with"
        f"{perfect if racing.perfect else ''}; {len(racing.rows())} runs are done",
        "what a run costs is known after the first ones" if price is None else price.told(),
    ]
    if racing.rules.labels:
        known = f"{d.labelled_size:,} fit the probe, {d.validation_size:,} choose arms, {racing.test:,} report"
        lines.append(f"labels: {known}")
    else:
        what = f"no labels: arms are chosen by {reliability.MEASURE}, which is weak evidence"
        what += ", and none of pictures that have no upright" * (reliability.MEASURE == "rotation")
        lines += [what, f"how weak: {racing.reliability}"]
    if not racing.perfect:
        lines.append("no real images are to spare: what a perfect generator would bring stays unknown")
    return lines if price is None else [*lines, *_times(racing, price, hours)]


def _times(racing: Race, price: prices.Prices, hours: float) -> list[str]:
    """When the next answer may come, and what the hours can tell; nothing of a race that is over."""
    if not racing.wanted():
        return []
    first, last = to_first_look(racing, price)
    at_a_time = "one run at a time" if price.jobs == 1 else f"{price.jobs} runs at a time at most"
    if not racing.rules.labels:
        return [f"that takes {first:.1f} hours, {at_a_time}"]
    known = race.answer(racing.arms, racing.results(), racing.rules).fresh
    lines = [f"the first look at fresh seeds comes after {first:.1f} to {last:.1f} hours, {at_a_time}"]
    if known:
        lines, first = [f"{known} fresh seeds have been looked at; {at_a_time}"], 0.0
    further = {seeds: words.hours_of_looks(known or LOOKS[0], seeds, price) for seeds in LOOKS if seeds > known}
    reached = [seeds for seeds, more in further.items() if first + more <= hours]
    if reached:
        resolved = words.resolvable(LOOKS.index(reached[-1]) + 1)
        lines.append(
            f"{hours:g} hours reach {reached[-1]} fresh seeds at best, which resolve about {resolved:.1f} points"
        )
        if (images := remarks.of_test_images(80.0, racing.test)) > resolved:
            lines.append(f"that is over seeds; the choice of {racing.test:,} test images may add {images:.0f} points")
    return lines


def finish(racing: Race, asked: Question) -> None:
    """Print what is known and how to run the best setting; write it as numbers, with the same words."""
    results, path = racing.results(), arms.answer_of(racing.study.name)
    answer, over = race.answer(racing.arms, results, racing.rules), not racing.wanted()
    if racing.rules.labels:
        judged = [found.test for run, found in results.items() if run.heat != "short"]
        on = (statistics.mean(judged) if judged else 50.0, racing.test)
        lines = words.told(answer, racing.rules, racing.price(), racing.perfect, on)
    else:
        lines = words.without_labels(answer, reliability.MEASURE, racing.reliability, over)
    lines += _setting(racing, answer, asked.folder, over)
    path.parent.mkdir(exist_ok=True)
    known = {"study": store.fingerprint(text=asked.text), "runs": len(results), "over": over, "words": lines}
    files.write_json(path, words.numbers(answer, racing.rules) | known)
    print("\n".join([*lines, f"written: {path}, {racing.study.memory}"]))


def _setting(racing: Race, answer: race.Answer, folder: Path | None, over: bool) -> list[str]:
    """How to run the arm to take; of a folder that params.yaml does not name, with all its images."""
    if answer.chosen is None:
        return []
    cell = next(cell for cell in racing.study.cells if cell.part == "full" and cell.arm == answer.chosen)
    setting = {path: value for path, value in cell.values.items() if path[0] in ("inflation", "augment")}
    setting = {path: value for path, value in setting.items() if path[-1] != "seed"}
    so_far, of_folder = "" if over else " so far", f"leaven dataset {quote(racing.params.dataset.path)}, then "
    first = "" if folder is None else of_folder
    return [f"best setting{so_far}: {first}leaven run {' '.join(presets.words(setting))}"]
