"""`leaven recommend`: a race of arms as a study that writes itself, from a folder or the set of params.yaml."""

import functools
import json
import time
from pathlib import Path

from pipeline.core import files
from pipeline.core.errors import Stopped, UserError
from pipeline.core.progress import log
from pipeline.params import presets, reader
from pipeline.params.schema import Params
from pipeline.recommend import arms, prices, race, words
from pipeline.recommend.race import Result, Results, Rules, Run
from pipeline.run import survey
from pipeline.study import cells, rows, runner

METRICS = Path("metrics/recommend.json")


class Race:
    """A study's file and its rows, as the race sees them."""

    def __init__(self, study: cells.Study, rules: Rules):
        self.study, self.rules = study, rules
        self.asked = runner.wanted(study)
        self.arms = {one.cell.arm: arms.kind(one.cell.of) for one in self.asked}
        self.cells = {Run(one.cell.part, one.cell.arm, one.cell.seed): one.cell for one in self.asked}

    @property
    def params(self) -> Params:
        """Those of a run of the whole length without generated images."""
        return next(one.params for one in self.asked if one.cell.part == "full")

    @functools.cached_property
    def measured(self) -> prices.Prices:
        """What runs cost, before there is one."""
        generated = (one for one in self.asked if self.arms[one.cell.arm] == "generated")
        return prices.measured(self.params, max(one.params.inflation.ratio for one in generated))

    def price(self) -> prices.Prices:
        """By the rows if there are some; the generator's is nothing once it has been made."""
        found = self.rows()
        run = prices.of_rows(list(found.values()), self.params.pretrain.steps)
        if run is None:
            return self.measured
        made = any(self.arms[one.arm] == "generated" for one in found)
        return prices.Prices(run, 0.0 if made else self.measured.generator)

    def rows(self) -> dict[Run, dict[str, str]]:
        """The rows that today's code and parameters made."""
        known = {row["key"]: row for row in rows.everywhere()}
        found = {Run(one.cell.part, one.cell.arm, one.cell.seed): known.get(one.key) for one in self.asked}
        return {run: row for run, row in found.items() if row is not None}

    def results(self) -> Results:
        """By validation images, and by the test; UserError where there were no labels."""
        found = {}
        for run, row in self.rows().items():
            if not (row["validation"] and row[cells.OUTCOME]):
                what = "no validation images with labels, by which arms are chosen"
                raise UserError(what, self.study.name, "the race wants some labels")
            found[run] = Result(float(row["validation"]), float(row[cells.OUTCOME]))
        return found

    def wanted(self) -> list[Run]:
        """What is to be made next."""
        return race.wanted(self.arms, self.results(), self.rules)

    def answer(self) -> race.Answer:
        """What is known."""
        return race.answer(self.arms, self.results(), self.rules)

    def make(self, runs: list[Run], minutes: float, jobs: int) -> None:
        """Run these, as far as the time reaches."""
        chosen = [self.cells[run] for run in runs]
        runner.run(cells.Study(self.study.name, self.study.file, chosen), None, minutes, jobs)


def recommend(name: str, folder: Path | None, hours: float, rules: Rules, jobs: int, dry_run: bool) -> None:
    """Plan the race, run it for so many hours, say what is known; the same command goes on."""
    if not 0 < hours < float("inf") or jobs < 1:
        raise UserError("must be above 0", "--hours and --jobs")
    racing = Race(_study(name, folder, rules), rules)
    price = racing.price()
    for line in plan(racing, price, hours):
        print(line)
    first = _first_look(racing) * price.run + price.generator
    if not racing.rows() and first > 3600 * hours * jobs:
        what = f"{hours:g} hours are too few for any answer, which takes about {first / 3600 / jobs:.1f}"
        raise UserError(what, "--hours", "give as many, or shorten the runs: pretrain.steps in params.yaml")
    if dry_run:
        return
    end = time.monotonic() + 3600 * hours
    try:
        while runs := racing.wanted():
            left, done = end - time.monotonic(), len(racing.rows())
            if left < racing.price().run * (0.25 if runs[0].heat == "short" else 1.0):
                break
            log(f"{runs[0].heat} heat: {len(runs)} runs; {left / 3600:.1f} hours left")
            racing.make(runs, left / 60, jobs)
            if len(racing.rows()) == done:
                break
    except Stopped as stop:
        raise Stopped("stopped; the same command goes on", stop.signum) from stop
    finish(racing)


def _study(name: str, folder: Path | None, rules: Rules) -> cells.Study:
    """The study that was written before, or a new one of the folder, else of the set that params.yaml names."""
    path = cells.FOLDER / f"{name}.yaml"
    if path.exists():
        study = cells.load(name)
        there = study.file.base.get("dataset", {}).get("path")
        if folder is not None and Path(there or "").resolve() != folder.resolve():
            what = f"is of {there or 'the set of params.yaml'}, not of {folder}"
            raise UserError(what, path, "give another --name, or move it and its CSV away")
        return study
    params = reader.load()
    values = arms.with_a_ceiling(params) if folder is None else _of_folder(folder, params)
    whole = params.model_dump()
    for (section, key, *further), value in values.items():
        target = whole[section]
        for deeper in further:
            target, key = target[key], deeper
        target[key] = value
    given, faults = reader.validate(whole)
    if faults:
        raise UserError("; ".join(f"{'.'.join(map(str, where))}: {what}" for where, what in faults), folder or path)
    return arms.write(name, values, given, rules)


def _of_folder(folder: Path, params: Params) -> dict[tuple, object]:
    """What fits a folder, with half of the train images held back for the ceiling where none are to spare."""
    asked = params.model_copy(
        update={
            "dataset": params.dataset.model_copy(update={"ceiling_size": int(arms.MOST * params.dataset.train_size)})
        }
    )
    found = survey.survey(folder, survey.Wish(), asked)
    train = found.values["dataset", "train_size"]
    if found.values["dataset", "ceiling_size"] < train:
        half = {"train_size": train // 2, "ceiling_size": train - train // 2}
        asked = asked.model_copy(update={"dataset": asked.dataset.model_copy(update=half)})
        found = survey.survey(folder, survey.Wish(), asked)
        found.words.append(
            f"half of the train pictures, {train - train // 2:,}, are held back as a perfect generator's"
        )
    print("\n".join(found.words))
    return found.values


def _first_look(racing: Race) -> float:
    """Runs of the whole length up to the first look, if every arm that may go on does, and one of a kind is left."""
    kinds = list(racing.arms.values())
    going = sum(min(most, kinds.count(kind)) for kind, most in racing.rules.keep)
    return racing.rules.seeds * (len(kinds) / arms.SHORT + going) + len(set(kinds)) * race.LOOKS[0]


def plan(racing: Race, price: prices.Prices, hours: float) -> list[str]:
    """What will be run, what it costs, what it can tell: before anything is."""
    params, done = racing.params, racing.rows()
    d = params.dataset
    kinds = list(racing.arms.values())
    lines = [
        f"{d.path}: {d.train_size:,} real images, {d.validation_size:,} of validation, "
        f"{params.pretrain.steps:,} steps of {params.pretrain.batch_size}",
        f"arms: {kinds.count('none')} without generated images, {kinds.count('generated')} with, "
        f"{kinds.count('ceiling')} with {d.ceiling_size:,} real images in their place",
        f"{price.told()}; the first look at fresh seeds comes after about "
        f"{(_first_look(racing) * price.run + price.generator) / 3600:.1f} hours",
    ]
    affordable = [
        look for look in range(1, len(race.LOOKS) + 1) if _until_look(racing, look) * price.run <= 3600 * hours
    ]
    if affordable:
        most = affordable[-1]
        lines.append(
            f"{hours:g} hours reach about {race.LOOKS[most - 1]} fresh seeds, which resolve about "
            f"{words.resolvable(most):.1f} points"
        )
    if "ceiling" not in kinds:
        lines.append("no real images are to spare: what a perfect generator would bring stays unknown")
    if done:
        lines.append(f"{len(done)} runs are there already")
    return lines


def _until_look(racing: Race, look: int) -> float:
    return _first_look(racing) + 2 * (race.LOOKS[look - 1] - race.LOOKS[0])


def finish(racing: Race) -> None:
    """Print what is known; write it as numbers, and the best setting as a preset."""
    answer = racing.answer()
    test = racing.params.dataset.test_size
    for line in words.told(answer, racing.rules, racing.price(), test):
        print(line)
    METRICS.parent.mkdir(exist_ok=True)
    files.write_text(METRICS, json.dumps(words.numbers(answer, racing.rules), indent=1) + "\n")
    print(f"written: {METRICS}, {racing.study.memory}")
    chosen = answer.best.get("generated" if answer.word == "helps" else "none")
    if chosen is not None:
        cell = next(cell for cell in racing.study.cells if cell.part == "full" and cell.arm == chosen)
        seeds = {tuple(key.split(".")) for key in racing.study.file.seed}
        needless = seeds | {("dataset", "ceiling_size")}
        setting = {path: value for path, value in cell.values.items() if path not in needless}
        print(f"run the best setting: leaven run {' '.join(presets.words(setting))}")
