"""The whole command on a study that it writes itself; only the runs are made up, by a world whose truth is known."""

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup
from PIL import Image

from bench import regret
from bench.races import World
from pipeline.core.errors import UserError
from pipeline.params import presets, reader
from pipeline.recommend import arms, command, prices, race, reliability, words
from pipeline.recommend.question import Wish
from pipeline.recommend.race import Answer, Arm, Rules, Run
from pipeline.report import races, studies
from pipeline.run import remarks
from pipeline.study import analysis, cells, rows, runner, tables
from pipeline.study.analysis import Difference
from tests.pipeline.clones import ROOT
from tests.study.test_runner import row
from tests.study.toy import STUDY

RUN, SHORT, GENERATOR = 240.0, 90.0, 660.0  # 40 seconds of a run do not depend on its length


class Made(World):
    """As `World`, by the arms of the command."""

    def __init__(self, gain: float, perfect: float):
        super().__init__(gain, perfect)
        better = {"none": 0.0, "ceiling": perfect} | dict.fromkeys(arms.INFLATED, gain)
        loss = dict(zip(arms.STRENGTHS, (1.0, 0.0, 0.7), strict=True))
        points = list(itertools.product(better, arms.STRENGTHS))
        kinds = {"none": "none", "ceiling": "ceiling"}
        self.arms = {f"{arm}, strength {s:g}": Arm(kinds.get(arm, "generated"), arm) for arm, s in points}
        self.truth = {f"{arm}, strength {s:g}": 50 + better[arm] - loss[s] for arm, s in points}


@pytest.fixture
def here(tmp_path, monkeypatch):
    shutil.copy(ROOT / reader.FILE, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prices, "measured", lambda params, ratio: prices.Prices(RUN, SHORT, GENERATOR))
    monkeypatch.setattr(rows, "commit", lambda: "c")
    return tmp_path


@pytest.fixture
def world(monkeypatch):
    """Takes the runner's place: writes a row for each cell, as many as the time allows or as `left` lets it."""

    def of(gain: float, perfect: float, left: float = float("inf")):
        made = Made(gain, perfect)
        made.done, made.clock, made.labels = 0, 0.0, True

        def run(study, parts, minutes, jobs, start):
            assert parts is None
            spent = 0.0
            for one in runner.missing(runner.wanted(study)):
                seconds = SHORT if one.cell.part == "short" else RUN
                if spent + seconds > 60 * minutes * jobs or made.done >= left:
                    return
                spent, made.done, made.clock = spent + seconds, made.done + 1, made.clock + seconds
                found = made.result(Run(one.cell.part, one.cell.arm, one.cell.seed), 0)
                steps = one.params.pretrain.steps
                values = {"validation": found.validation, "top1_labelled": found.test}
                if not made.labels:
                    sign = analysis.EXPECTED[reliability.MEASURE]
                    values = dict.fromkeys(values, "") | {reliability.MEASURE: sign * found.test}
                values |= {"seconds": seconds, "steps": steps}
                rows.add(study.memory, row(one, **values))

        monkeypatch.setattr(runner, "run", run)
        monkeypatch.setattr(command, "time", SimpleNamespace(monotonic=lambda: made.clock))
        return made

    return of


def answered() -> dict:
    return json.loads(Path("metrics/recommend.json").read_text())


def ask(hours: float = 24.0, **options):
    wish = Wish(**{name: options.pop(name) for name in Wish._fields if name in options})
    command.recommend(wish, hours, **options)


def test_what_helps_is_found_and_the_setting_is_one_that_can_be_run(here, world, capsys):
    world(2.0, 4.0)
    ask()
    found, said = answered(), capsys.readouterr().out
    assert found["answer"] == "helps"
    assert found["gain"]["low"] > 0
    assert found["gain"]["low"] < 2.0 < found["gain"]["high"]
    assert found["best"]["none"] == "none, strength 1"
    assert "generated images: they help (+" in said
    assert "real ones in their place, 5 x as many, bring +" in said
    words = said.partition("\nbest setting: leaven run ")[2].split()
    assert "augment.strength=1.0" in words
    assert "-S" in words
    assert not any("seed" in word for word in words)


def test_the_file_that_it_writes_is_a_study_like_any_other(here, world):
    world(0.0, 4.0)
    ask()
    study = cells.load("recommend")
    assert {cell.part for cell in study.cells} == {"short", "full", "fresh"}
    fresh = {cell.seed for cell in study.cells if cell.part == "fresh"}
    raced = {cell.seed for cell in study.cells if cell.part != "fresh"}
    assert not fresh & raced
    assert all(cell.values["pretrain", "seed"] == cell.seed for cell in study.cells)
    whole = reader.load().pretrain.steps
    short = {cell.values["pretrain", "steps"] for cell in study.cells if cell.part == "short"}
    assert all(whole / 5 < steps <= whole / 4 for steps in short)
    assert answered()["answer"] == "no gain"
    assert answered()["words"][0].startswith("generated images: no gain of 1 point or more (")


def test_its_files_are_read_as_the_race_that_they_are_of(here, world):
    """For bench.regret: the same arms and answer, run by run with the seconds."""
    made = world(2.0, 4.0)
    ask()
    found, known = regret.raced(here / "studies/recommend.yaml"), answered()
    assert found.short == pytest.approx(SHORT / RUN)
    assert found.whole * RUN == pytest.approx(made.clock)
    assert found.arms == made.arms
    answer = race.answer(found.arms, found.results, Rules())
    assert (answer.word, answer.best) == (known["answer"], known["best"])
    assert race.answer(found.arms, found.within(1.0), Rules()).chosen is None


def test_stopped_three_times_it_ends_with_the_rows_of_a_race_that_was_not(here, world):
    world(2.0, 4.0)
    ask()
    whole, found = (here / "studies/recommend.csv").read_text(), answered()
    (here / "studies/recommend.csv").unlink()
    for stop in (7, 31, 40):
        world(2.0, 4.0, left=stop - len(rows.read(here / "studies/recommend.csv")))
        ask()
        assert len(rows.read(here / "studies/recommend.csv")) == stop
    world(2.0, 4.0)
    ask()
    assert sorted((here / "studies/recommend.csv").read_text().splitlines()) == sorted(whole.splitlines())
    assert answered() == found


def test_a_dry_run_says_what_it_would_cost_and_runs_nothing(here, world, capsys):
    made = world(2.0, 4.0)
    ask(dry_run=True)
    said = capsys.readouterr().out
    assert made.done == 0
    assert not Path("metrics/recommend.json").exists()
    assert not Path("studies").exists()
    assert "a run of the whole length takes about 4.0 minutes" in said
    assert "arms: 3 without generated images, 9 with, 3 with 5 x as many real images in their place" in said
    # 15 arms, two seeds, short: 30; 3 + 3 + 1 arms, two seeds: 14; three seeds of three kinds, 9, or of all seven
    # arms, 21. And the generator.
    first, last = ((30 * SHORT + runs * RUN + GENERATOR) / 3600 for runs in (14 + 9, 14 + 21))
    assert f"comes after {first:.1f} to {last:.1f} hours, one run at a time" in said
    # Four at a time: a short run alone and 29 in 8 turns, 14 in 4, 9 or 21 in 3 or 6.
    ask(dry_run=True, jobs=4)
    first, last = ((9 * SHORT + runs * RUN + GENERATOR) / 3600 for runs in (4 + 3, 4 + 6))
    assert f"comes after {first:.1f} to {last:.1f} hours, 4 runs at a time at most" in capsys.readouterr().out
    # From 3 fresh seeds of two arms to 5, 8, 12, 18 and 26, eight at a time: 4, 6, 8, 12 and 16 runs in 7 turns.
    assert words.hours_of_looks(3, 26, prices.Prices(3600, 900, 0, 8)) == 7


def test_the_plan_of_a_race_that_goes_on_counts_what_is_left(here, world, capsys):
    """After the short heat its arms twice, and three times one of each kind or all; of a race that is over nothing."""
    world(0.3, 4.0, left=30)
    ask()
    capsys.readouterr()
    ask(dry_run=True)
    said = capsys.readouterr().out
    study = command.Race(cells.load("recommend"), Rules(), 10_000)
    kept = len(race.kept(study.arms, study.results(), Rules()))
    assert 3 < kept <= 7
    first, last = (runs * RUN / 3600 for runs in (2 * kept + 9, 2 * kept + 3 * kept))
    assert f"comes after {first:.1f} to {last:.1f} hours" in said
    world(0.3, 4.0, left=2 * kept)
    ask()
    capsys.readouterr()
    ask(dry_run=True)
    left = len(race.racing(study.arms, study.results(), 0)) + 1  # the ceiling
    assert left < 7
    assert f"comes after {3 * left * RUN / 3600:.1f} to {3 * left * RUN / 3600:.1f} hours" in capsys.readouterr().out
    world(0.3, 4.0, left=3 * left)
    ask()
    capsys.readouterr()
    ask(dry_run=True)
    assert "3 fresh seeds have been looked at" in capsys.readouterr().out
    world(0.3, 4.0)
    ask()
    capsys.readouterr()
    ask(dry_run=True)
    said = capsys.readouterr().out
    assert "runs are done" in said
    assert "fresh seeds" not in said


def test_of_runs_that_are_made_elsewhere_the_price_is_not_measured_here(here, world, monkeypatch, capsys):
    world(2.0, 4.0)
    monkeypatch.setattr(prices, "measured", lambda params, ratio: pytest.fail("measured on this machine"))
    ask(0.1, elsewhere=True, dry_run=True)
    said = capsys.readouterr().out
    assert "what a run costs is known after the first ones" in said
    assert "hours" not in said
    ask(elsewhere=True)
    assert answered()["answer"] == "helps"


def test_where_no_number_of_seeds_resolves_the_gain_it_says_which_one_they_do():
    """A deviation of two points: 26 pairs have an error of 0.55, times 2.70 + 0.86 quantiles of t."""
    answer = Answer("not resolved", {"none": "a", "generated": "b"}, Difference(0, -2, 2, 3), None, None, 8, 0, 2.0)
    lines = words.told(answer, Rules(), prices.Prices(60, 15, 0), 0.0, (90.0, 1000))
    assert lines[-1] == "runs deviate so much that 26 fresh seeds resolve 2.0 points: ask for a --min-gain of as many"
    assert (
        "would take about"
        in words.told(replace(answer, deviation=0.5), Rules(), prices.Prices(60, 15, 0), 0.0, (9.0, 9))[-1]
    )


def test_too_little_time_is_said_at_once(here, world):
    made = world(2.0, 4.0)
    with pytest.raises(UserError, match=r"0.5 hours are too few for any answer, which takes about 2.5"):
        ask(0.5)
    assert made.done == 0


def test_hours_are_kept_and_more_of_them_go_on(here, world):
    made = world(0.3, 4.0)
    ask(2.5)
    first = made.done
    spent = sum(float(each["seconds"]) for each in rows.read(here / "studies/recommend.csv"))
    assert 2.2 * 3600 < spent <= 2.5 * 3600
    ask(24)
    assert made.done > first
    assert answered()["fresh_seeds"] >= 3


def test_a_race_is_not_gone_on_with_after_its_parameters_changed(here, world):
    world(0.0, 4.0)
    ask(2.5)
    presets.write({("pretrain", "steps"): 800})
    with pytest.raises(UserError, match="begun with another folder, other parameters"):
        ask()
    ask(name="longer", dry_run=True)


def test_rows_without_labels_are_refused(here, world, monkeypatch):
    made = world(0.0, 4.0)
    ask(2.5)
    assert made.done
    given = rows.read(here / "studies/recommend.csv")
    (here / "studies/recommend.csv").unlink()
    rows.add(here / "studies/recommend.csv", given[0] | {"validation": ""})
    with pytest.raises(UserError, match="labels"):
        ask()


def test_an_arm_whose_runs_fail_drops_out_and_the_others_go_on(here, world, monkeypatch, capsys):
    """Also those whose turn did not come before the run that failed ended the heat."""
    world(2.0, 4.0)
    run = runner.run

    def failing(study, parts, minutes, jobs, start):
        failed = {cell.label: "why" for cell in study.cells if cell.arm == "x10, strength 2"}
        chosen = [cell for cell in study.cells if cell.label not in failed][: 9 if failed else None]
        run(cells.Study(study.name, study.file, chosen), parts, minutes, jobs, start)
        if failed:
            raise runner.CellsFailed(failed, study.name)

    monkeypatch.setattr(runner, "run", failing)
    ask()
    assert re.search(r"^(.*\] )?x10, strength 2: drop out, as a run failed", capsys.readouterr().err, re.MULTILINE)
    assert answered()["answer"] == "helps"


def folder(path: Path, classes: int, each: int) -> Path:
    """Grey noise in class folders."""
    noise = np.random.default_rng(0)
    for k, i in itertools.product(range(classes), range(each)):
        (path / f"class{k}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (12, 12), dtype=np.uint8)).save(path / f"class{k}" / f"{i}.png")
    return path


def test_of_a_folder_half_of_the_train_pictures_are_held_back_and_every_arm_has_the_other_half(here, world, capsys):
    """600 pictures: 100 to test, 100 of validation, 200 of 400 to train on."""
    made = world(2.0, 4.0)
    ask(folder=folder(here / "mine", 3, 200), dry_run=True)
    said = capsys.readouterr().out
    assert "200 train pictures are held back, to stand for those of a perfect generator" in said
    assert "200 real images, 100 of validation" in said
    assert "3 with 1 x as many real images in their place" in said
    assert made.done == 0
    ask(folder=here / "mine")
    assert "best setting: leaven dataset mine, then leaven run -S " in capsys.readouterr().out


def test_a_folder_that_params_yaml_names_keeps_its_size_and_network(here, world, capsys):
    world(2.0, 4.0)
    given = {"name": "folder", "path": "mine", "image_size": 8, "channels": 3, "resize": "crop", "test_size": 60}
    given |= {"train_size": 100, "validation_size": 50, "labelled_size": 100, "spare_size": 0}
    folder(here / "mine", 3, 200)
    values = {("dataset", name): value for name, value in given.items()}
    values |= {("augment", "form"): "colour", ("quality", "images"): 20, ("pretrain", "batch_size"): 32}
    presets.write(values)
    ask()
    assert "100 real images, 50 of validation" in capsys.readouterr().out
    study = cells.load("recommend")
    assert runner.wanted(study)[0].params.dataset.image_size == 8
    assert study.file.base["dataset"]["ceiling_size"] >= 100
    assert set(study.file.base) <= {"dataset", "quality", "ddpm", "conditioned", "pretrain", "linear_eval"}


def test_what_params_yaml_has_is_not_told_again_and_a_smaller_batch_has_no_parts(here, world):
    """A name with a blank cannot be a word of a command. Batches of 96 are more than 80 images and become 48."""
    world(2.0, 4.0)
    bare = folder(here / "mine", 1, 240) / "class0"
    lines = [f"{k}.png,{'cat' if k % 2 else 'dog'},{k}" for k in range(240)]
    (bare / "labels.csv").write_text("\n".join(["file,Class name,number", *lines]))
    given = {"name": "folder", "path": "mine/class0", "image_size": 12, "channels": 1, "resize": "crop"}
    given |= {"labels": "labels.csv", "label_column": "Class name", "test_size": 40, "validation_size": 40}
    given |= {"train_size": 160, "labelled_size": 160, "spare_size": 0}
    values = {("dataset", name): value for name, value in given.items()} | {("quality", "images"): 20}
    presets.write(values | {("pretrain", "batch_size"): 96, ("pretrain", "accumulate"): 32})
    ask()
    study = cells.load("recommend")
    params = runner.wanted(study)[0].params
    assert (params.dataset.label_column, params.dataset.train_size) == ("Class name", 80)
    assert (params.pretrain.batch_size, params.pretrain.accumulate) == (48, 1)
    assert not {"path", "label_column"} & set(study.file.base["dataset"])


def test_a_few_labels_are_shared_out_to_fit_to_choose_and_to_report(here, world, capsys):
    """The 10,000 test images of the set are its own, and report as they are; of a folder, a third of the labels do."""
    world(0.0, 4.0)
    ask(few=100, dry_run=True)
    assert "labels: 67 fit the probe, 33 choose arms, 10,000 report" in capsys.readouterr().out
    ask(few=90, folder=folder(here / "mine", 3, 200), dry_run=True)
    assert "labels: 30 fit the probe, 30 choose arms, 30 report" in capsys.readouterr().out
    ask(few=90, folder=here / "mine", name="few")
    assert "30 are too few to judge by" in capsys.readouterr().out
    with pytest.raises(UserError, match="5 labels to share out are fewer than 6"):
        ask(few=5)
    with pytest.raises(UserError, match="700 labels are asked for, and 600 are there"):
        ask(few=700, folder=here / "mine")
    with pytest.raises(UserError, match="70,000 labels are asked for, and 60,000 are there"):
        ask(few=70_000)
    with pytest.raises(UserError, match="pictures without labels"):
        ask(few=90, folder=folder(here / "bare", 1, 400) / "class0", name="bare")


@pytest.mark.parametrize("points", [-1.0, float("nan"), float("inf")])
def test_a_least_gain_that_is_no_number_of_points_is_refused(here, world, points):
    world(0.0, 4.0)
    with pytest.raises(UserError, match="--min-gain: must be a number of points from 0"):
        ask(rules=Rules(least=points))


def test_the_name_of_another_study_is_refused_and_its_file_stays(here, world):
    world(0.0, 4.0)
    Path("studies").mkdir()
    Path("studies/mine.yaml").write_text(STUDY)
    with pytest.raises(UserError, match=r"^studies/mine.yaml: is a study and no race - give another --name"):
        ask(name="mine")
    assert Path("studies/mine.yaml").read_text() == STUDY
    with pytest.raises(UserError, match=r"^a b: no name for experiments"):
        ask(name="a b")
    assert list(Path("studies").iterdir()) == [Path("studies/mine.yaml")]


def test_real_images_alone_at_the_end_leave_the_arms_without_generated_ones_as_they_are(here, world):
    world(2.0, 4.0)
    presets.write({("inflation", "final_real_share"): 0.5, ("inflation", "ratio"): 1.0})
    ask()
    shares = {
        cell.of: cell.values.get(("inflation", "final_real_share"), 0.5) for cell in cells.load("recommend").cells
    }
    assert shares == {"none": None, "ceiling": 0.5} | dict.fromkeys(arms.INFLATED, 0.5)


def test_what_other_test_images_would_do_is_said(here, world, capsys):
    """Two encoders of 50 % that err independently: 1.96 times the root of 2 * 0.5 * 0.5 / 10,000."""
    world(0.0, 4.0)
    ask()
    said = capsys.readouterr().out
    assert "the choice of these 10,000 test images may add 1.4 points" in said
    assert "too few to judge by" not in said
    assert remarks.of_test_images(50.0, 10_000) == pytest.approx(1.3859, abs=1e-4)
    assert remarks.of_test_images(90.0, 100) == pytest.approx(100 * 1.95996 * (2 * 0.9 * 0.1 / 100) ** 0.5, abs=1e-3)


def test_without_labels_a_measure_takes_their_place_and_the_answer_is_weak_evidence(here, world, capsys):
    made = world(2.0, 4.0)
    made.labels = False
    bare = folder(here / "mine", 1, 400) / "class0"
    ask(folder=bare, dry_run=True)
    said = capsys.readouterr().out
    assert f"no labels: arms are chosen by {reliability.MEASURE}, which is weak evidence" in said
    assert "no study of this clone tells how far" in said
    ask(folder=bare)
    said, found = capsys.readouterr().out, answered()
    assert found["answer"] == "weak evidence"
    assert found["gain"]["points"] == pytest.approx(2.0, abs=1.5)
    assert f"weak evidence, as there are no labels: {reliability.MEASURE} prefers them" in said
    parts = [label.partition(":")[0] for label in (each["label"] for each in rows.read(Path("studies/recommend.csv")))]
    assert set(parts) == {"short", "full"}
    assert "no gain" not in said
    assert "best setting: leaven dataset " in said
    study = cells.load("recommend")
    assert f"weak evidence, as there are no labels: {reliability.MEASURE}" in studies.section(study)
    assert "none, strength 1" in tables.table(study)


def test_without_labels_and_amid_the_race_it_is_so_far(here, world, capsys):
    bare = folder(here / "mine", 1, 400) / "class0"
    world(2.0, 4.0, left=33).labels = False
    ask(folder=bare)
    said = capsys.readouterr().out
    assert "so far" in said
    assert "inf to" not in said
    assert answered()["runs"] == 33
    assert not answered()["over"]


def test_how_far_a_measure_can_be_trusted_is_what_the_studies_say(here):
    """Five arms of which it orders the best three the wrong way round: 1 - 6 * 8 / 120 = 0.6, and one point is lost.

    Any order of four may be chance, and the same encoders twice are no more evidence than once.
    """

    def part(name: str, ratio: float, arms: int) -> str:
        each = "".join(f"      a{k}: {{augment: {{strength: {k / 4}}}}}\n" for k in range(1, arms + 1))
        return f"  {name}:\n    asks: x\n    seeds: 1\n    base: {{inflation: {{ratio: {ratio}}}}}\n    arms:\n{each}"

    text = (
        STUDY.partition("parts:")[0] + "parts:\n" + part("five", 1.0, 5) + part("four", 2.0, 4) + part("again", 3.0, 5)
    )
    Path("studies").mkdir()
    Path("studies/known.yaml").write_text(text)
    study = cells.load("known")
    assert reliability.measured() == reliability.Reliability((), ())
    five = [(1, 1), (2, 2), (3, 5), (3.5, 4), (4, 3)]
    order = iter([*five, (1, 9), (2, 8), (3, 7), (4, 6), *five])
    sign = analysis.EXPECTED[reliability.MEASURE]
    for one in runner.wanted(study):
        top1, liked = next(order)
        rows.add(study.memory, row(one, top1_labelled=top1, **{reliability.MEASURE: sign * liked}))
    found = reliability.measured()
    assert found.rho == (pytest.approx(0.6),)
    assert found.lost == (pytest.approx(1.0),)
    assert "over 1 part(s)" in found.told()
    assert "+0.60 (+0.60 to +0.60)" in found.told()
    assert "1.0 points below the best (1.0 at most)" in found.told()
    Path("studies/known.yaml").write_text("title: half a file")
    assert reliability.measured() == reliability.Reliability((), ())


def test_the_page_says_it_and_shows_where_each_arm_dropped_out(here, world):
    world(2.0, 4.0)
    study = cells.read("recommend", "title: x\nseed: [pretrain.seed]\nparts: {a: {asks: x, seeds: 1}}\n")
    assert not races.verdict(study, analysis.frame(study))
    ask()
    study = cells.load("recommend")
    shown = races.verdict(study, analysis.frame(study))
    for line in answered()["words"]:
        assert Markup.escape(line) in shown
    assert "generated minus perfect" in shown
    assert "empty: runs no longer" in shown
    for column in ("short", "full", "3 fresh"):
        assert f">{column}<" in shown
    assert "5 fresh" not in shown or answered()["fresh_seeds"] > 3
    with open("studies/recommend.yaml", "a") as file:  # another race of this name
        file.write("# another\n")
    assert not races.verdict(study, analysis.frame(study))
    ask(name="again")
    study = cells.load("again")
    assert races.verdict(study, analysis.frame(study))
    Path("metrics/recommend_again.json").unlink()
    assert not races.verdict(study, analysis.frame(study))


def test_fields_of_the_page_are_differences_from_the_best_arm_without(here):
    """Two seeds a heat, then three and five. `b` lacks a seed of the look at five, which is not over then."""
    given = [("short", "none, strength 1", (50, 52)), ("short", "none, strength 2", (48, 49)), ("short", "b", (53, 54))]
    given += [("full", "none, strength 1", (60, 62)), ("full", "b", (60, 61))]
    given += [("fresh", "none, strength 1", (60, 61, 62, 63, 64)), ("fresh", "b", (64, 64, 64, 64, None))]
    flat = [
        {"part": part, "arm": arm, "seed": seed, "chosen": value}
        for part, arm, values in given
        for seed, value in enumerate(values)
    ]
    heats, values, names = races._heats(pd.DataFrame(flat))
    assert heats == ["short", "full", "3 fresh"]
    assert names == ["none, strength 1", "none, strength 2", "b"]
    np.testing.assert_allclose(values, [[0, 0, 0], [-2.5, np.nan, np.nan], [2.5, -0.5, 3]])


def test_an_import_races_in_the_arms_for_which_it_has_images(here, world, capsys):
    """5,000 real images: as many are there, ten times as many are not."""
    world(2.0, 4.0)
    presets.write({("generator", "source"): "import", ("generator", "path"): "made.npy"})
    np.save("made.npy", np.full((5000, 28, 28, 1), 9, np.uint8))
    ask(dry_run=True)
    said = capsys.readouterr()
    assert "arms: 3 without generated images, 3 with, " in said.out
    assert "made.npy: 5,000 images are too few for the arms x10; x10, N 10, which are left out" in said.err
    np.save("made.npy", np.full((4999, 28, 28, 1), 9, np.uint8))
    with pytest.raises(UserError, match=r"4,999 images are fewer than 5,000 real ones"):
        ask(dry_run=True)


def test_a_folder_that_is_no_word_is_refused_before_a_picture_is_looked_at(here, world):
    world(2.0, 4.0)
    (here / "it's mine").mkdir()
    with pytest.raises(UserError, match=r"no.*word of a shell.* - rename it, or `leaven dataset FOLDER`, commit"):
        ask(folder=here / "it's mine", dry_run=True)


def test_without_a_generator_there_is_nothing_to_ask(here, world):
    world(2.0, 4.0)
    presets.write({("generator", "source"): "real", ("dataset", "ceiling_size"): 20000})
    with pytest.raises(UserError, match="real makes no generated images"):
        ask()
