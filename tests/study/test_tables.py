"""A study whose every number is known, through the tables and the page: worked out by hand."""

import html
import re

import pytest

from pipeline.report import studies
from pipeline.study import rows, runner, tables
from tests.study.test_runner import row
from tests.study.toy import STUDY

TOP1 = {"none": (80.0, 82.0), "some": (81.0, 83.4)}  # of seeds 0 and 1: differences 1 and 1.4
GRID = {"1": (80.0, 82.0, 80.0), "2.5": (80.0, 81.0, 83.0)}  # of strengths 1, 2, 4; a second seed is a point better


@pytest.fixture
def study(write):
    text = STUDY.replace("seeds: 1", "seeds: 2").replace("        - 3.0\n", "        - 2.0\n        - 4.0\n")
    text = text.replace(
        "    against: none\n", "    against: none\n    contrasts:\n      turned:\n        none: 2\n        some: -2\n"
    )
    study = write(text.replace("title: a toy", 'title: "a toy, n < 10 & co"'))
    for one in runner.wanted(study):
        if one.cell.part == "arms":
            top1 = TOP1[one.cell.arm][one.cell.seed]
        else:
            ratio, strength = one.cell.point.values()
            top1 = GRID[f"{ratio:g}"][(1.0, 2.0, 4.0).index(strength)] + one.cell.seed
        measured = {"top1_labelled": top1, "rankme": top1 / 2, "lidar": -top1, "beta": 0.5, "commit": "abc"}
        rows.add(study.memory, row(one, **measured))
    return study


def test_the_table_by_hand(study):
    text = tables.table(study)
    assert "16 of 16 cells, made at abc in 0.3 hours of experiments." in text  # 16 x 60 s
    assert "| none | 2 | 0.500 | 1 | 81.00 +- 1.41 | 1.00 |" in text
    # 1.2 +- 12.7062 x .2828 / sqrt(2); seen with 1.3764 (t at .8) standard errors more
    assert "| some | +1.20 | -1.34 to +3.74 | 2.82 | not resolved |" in text
    assert "| turned | -2.40 | -7.48 to +2.68 | 5.63 | not resolved |" in text  # twice, the other way round
    assert "Residual s.d. 0.20 points, 1 degrees of freedom." in text
    assert "| ratio 1 | 2 | 2.00 | 2.00 to 2.00 |  | +0.00 | +0.00 to +0.00 |" in text
    assert "| ratio 2.5 | 4 | 4.00 |" in text
    assert "| ratio 2.5 | +1.50 | +1.50 to +1.50 | 0.00 | better |" in text  # less the slope of ratio 1
    # Over the grid's six arms, two of which tie twice: RankMe orders them as labels do, LiDAR the other way round
    ranked = next(line for line in text.splitlines() if line.startswith("| grid | 6 |"))
    assert ranked.startswith("| grid | 6 | 0.83 | +1.00, 0.00 | -1.00, 3.00 |")
    assert "none is corrected" in text


def test_arms_that_were_not_ranked_are_not_counted(study):
    """Six arms of which one has no label: by chance five are ordered rightly more often."""
    given = rows.read(study.memory)
    study.memory.unlink()
    for each in given:
        lacking = each["label"].startswith("grid: ratio 2.5, strength 4")
        rows.add(study.memory, each | ({"top1_labelled": ""} if lacking else {}))
    line = next(line for line in tables.table(study).splitlines() if line.startswith("| grid | 5 |"))
    assert line.startswith("| grid | 5 | 0.90 |")


def of_page(section: str) -> list[list[str]]:
    """Cells of every row of every table, heads included."""
    rows = re.findall(r"<tr>(.*?)</tr>", section)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd]>([^<]*)</t[hd]>", row)] for row in rows]


def of_text(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]


def test_the_page_shows_the_same(study):
    section = studies.section(study)
    assert "a toy, n &lt; 10 &amp; co" in section
    assert section.count("<figure>") == 3  # two forests, a heat map
    assert of_page(section) == of_text(tables.table(study))
    assert ["some", "+1.20", "-1.34 to +3.74", "2.82", "not resolved"] in of_page(section)
    assert "<p>Residual s.d. 0.20 points, 1 degrees of freedom.</p>" in section


KINDS = """    arms:
      none: {inflation: {ratio: 0}}
      some: {}
      perfect: {augment: {strength: 1.5}}
"""
OF_KINDS = {"none": (80.0, 82.0), "some": (81.0, 83.4), "perfect": (84.0, 86.0)}


def test_a_ceiling_is_set_beside_what_generated_images_bring_in_the_table_and_as_a_picture(write):
    """Over 81 without: +1.2 with generated images, +4 with perfect ones, of which the generated ones lack 2.8."""
    study = write(STUDY.partition("parts:")[0] + f"parts:\n  kinds:\n    asks: x\n    seeds: 2\n{KINDS}")

    def fill(**of_perfect):
        study.memory.unlink(missing_ok=True)
        for one in runner.wanted(study):
            perfect = of_perfect if one.cell.arm == "perfect" else {}
            values = {"top1_labelled": OF_KINDS[one.cell.arm][one.cell.seed], "ratio": 2, "source": "ddpm"}
            values |= {"ratio": 0} if one.cell.arm == "none" else {}
            rows.add(study.memory, row(one, **values | perfect))

    fill()
    assert "the best of each kind" not in tables.table(study)
    assert studies.CEILING not in studies.section(study)
    fill(source="real")
    text, section = tables.table(study), studies.section(study)
    for line in (
        "| the ceiling: perfect, minus none | +4.00 |",
        "| generated images: some, minus none | +1.20 |",
        "| what they lack: some, minus perfect | -2.80 |",
    ):
        assert line in text
    assert of_page(section) == of_text(text)
    assert section.count("<figure>") == 1
    assert "kinds: ceiling" in section
    assert "kinds: generated" in section


def test_costs_and_few_labels_are_columns_where_there_are_such(study):
    assert "| encoder |" not in tables.table(study)
    given = rows.read(study.memory)
    study.memory.unlink()
    for each in given:
        few = (61.5, 72.5) if each["label"].startswith("arms:") else ("", "")
        measured = dict(zip(("top1_1pct", "top1_10pct"), few, strict=True))
        rows.add(study.memory, each | measured | {"forwards": 900 if "some" in each["label"] else 600})
    text = tables.table(study)
    assert "| arm | seeds | beta | passes | top-1, % | kNN | 1 % of labels | 10 % | encoder | rankme |" in text
    assert "| none | 2 | 0.500 | 1 | 81.00 +- 1.41 | 1.00 | 61.50 | 72.50 | 1.00 | 40.5 |" in text
    assert "| some | 2 | 0.500 | 1 | 82.20 +- 1.70 | 1.00 | 61.50 | 72.50 | 1.50 | 41.1 |" in text
    assert "Encoder: its forward passes, relative to those of none." in text
    assert text.count("| encoder |") == 1  # the grid's arms cost alike, and have no such labels


def test_a_half_finished_study_has_what_there_is(study):
    kept = rows.read(study.memory)[:3]  # both arms of seed 0, one of seed 1
    study.memory.unlink()
    assert "0 of 16 cells" in tables.table(study)
    assert studies.section(study) == ""
    for each in kept:
        rows.add(study.memory, each)
    text = tables.table(study)
    assert "| some | +1.00 | none | nothing: one seed | not resolved |" in text
    assert "No cell is finished." in text
    assert "Not run yet." in studies.section(study)


GAME = """    outcomes:
      - finetuned
      - cosine
      - frechet_growth
    against: static
    contrasts:
      "both less pair":
        both: 1
        pair: -1
    arms:
      real: {augment: {strength: 1.0}}
      static: {augment: {strength: 1.5}}
      pair: {augment: {strength: 2.0}}
      both: {augment: {strength: 2.5}}
"""
TUNED = {"real": (70.0, 72.0), "static": (70.5, 72.5), "pair": (71.5, 73.5), "both": (72.0, 74.0)}
COSINE = {"static": (1.0, 1.0), "pair": (0.7, 0.8), "both": (0.6, 0.7)}  # real images have no pairs
GROWTH = {"pair": (0.02, 0.06), "both": (0.1, 0.14)}


@pytest.fixture
def game(write):
    """Four arms at two seeds, of which three have a cosine and two a distance, none a measure without labels."""
    study = write(STUDY.partition("parts:")[0] + f"parts:\n  game:\n    asks: x\n    seeds: 2\n{GAME}")
    for one in runner.wanted(study):
        arm, seed = one.cell.arm, one.cell.seed
        values = dict.fromkeys((*rows.LABEL_FREE, *rows.OTHERS, *rows.PERCENT), "") | {"knn": 60.0, "commit": "abc"}
        values |= {"finetuned": TUNED[arm][seed]}
        values |= {name: of[arm][seed] for name, of in (("cosine", COSINE), ("frechet_growth", GROWTH)) if arm in of}
        rows.add(study.memory, row(one, **values))
    return study


def test_further_outcomes_by_hand(game):
    text = tables.table(game)
    assert "nan" not in text
    lines = text.splitlines()
    head = "| arm | seeds | beta | passes | fine-tuned top-1, % | cosine | frechet growth | kNN |"
    assert any(line.startswith(head) for line in lines)
    assert "| real | 2 | 1.000 | 1 | 71.00 +- 1.41 |  |  | 60.00 |" in lines
    assert "| pair | 2 | 1.000 | 1 | 72.50 +- 1.41 | 0.7500 +- 0.0707 | 0.0400 +- 0.0283 | 60.00 |" in lines
    assert "| both | +1.50 | +1.50 to +1.50 | 0.00 | better |" in lines  # seeds move all arms alike
    # Cosines: residuals of arm + seed are -+ 1/30, +- 1/60, +- 1/60; their squares, 1/300, over two degrees of freedom.
    # s.d. .0408, and of a difference of two arms over two seeds as much; t(2) is 4.3027, and at .8 more 1.0607
    at = lines.index("| minus static: cosine | difference | 95 % interval | detectable |  |")
    assert lines[at + 2 : at + 6] == [
        "| pair | -0.2500 | -0.4257 to -0.0743 | 0.2190 | lower |",
        "| both | -0.3500 | -0.5257 to -0.1743 | 0.2190 | lower |",
        "",
        "Residual s.d. 0.0408, 2 degrees of freedom.",
    ]
    assert "| both less pair | -0.1000 | -0.2757 to +0.0757 | 0.2190 | not resolved |" in lines
    assert not any(line.startswith("| minus static: frechet growth") for line in lines)  # static has none
    at = lines.index("| comparison: frechet growth | difference | 95 % interval | detectable |  |")
    assert lines[at + 2] == "| both less pair | +0.0800 | +0.0800 to +0.0800 | 0.0000 | higher |"
    assert "Rank correlation with fine-tuned top-1 over" in text
    assert "| game | 4 | 1.00 |  |  |  |  |  |" in lines


def test_the_page_shows_further_outcomes(game):
    section = studies.section(game)
    assert "nan" not in section.partition("<table>")[2]
    assert section.count("<figure>") == 5  # differences and comparisons of two outcomes, comparisons of the third
    assert "cosine, 95 % interval" in section
    assert "points of fine-tuned top-1, 95 % interval" in section
    assert of_page(section) == of_text(tables.table(game))


def test_curves_over_a_number_start_where_it_does(write):
    """A ratio of 0 has no logarithm; a method is no number, a seed no quantity."""
    drawn = {}
    for name, values in {
        "inflation.ratio": "[0, 1, 5]",
        "pretrain.batch_size": "[32, 64]",
        "pretrain.method": "[moco, byol]",
        "ddpm.seed": "[0, 1]",
    }.items():
        part = f"parts:\n  one:\n    asks: x\n    seeds: 1\n    grid:\n      {name}: {values}\n"
        study = write(STUDY.partition("parts:")[0] + part)
        study.memory.unlink(missing_ok=True)
        for i, one in enumerate(runner.wanted(study)):
            rows.add(study.memory, row(one, top1_labelled=80.0 + i))
        drawn[name] = studies.section(study)
    assert [section.count("<figure>") for section in drawn.values()] == [1, 1, 0, 0]
    assert ">0<" in drawn["inflation.ratio"]
    assert "<figcaption>one: one seed</figcaption>" in drawn["inflation.ratio"]  # not a deviation of zero


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ("<<<<<<< HEAD\n", "toy.csv:18: no row of a study: 1 values for"),
        ("label", None),
        ("a" + "," * 20 + "\n", "toy.csv:18: no row of a study: 21 values for"),
    ],
)
def test_a_spoilt_memory_is_refused_by_its_line(study, spoilt, said):
    text = study.memory.read_text()
    if said is None:
        study.memory.write_text(text.replace("label,", "labels,", 1))
        said = "has other columns .*: label, labels - "
    else:
        study.memory.write_text(text + spoilt)
    with pytest.raises(rows.UserError, match=said):
        tables.table(study)
    study.memory.write_text(text.replace(",80,", ",eighty,"))
    with pytest.raises(rows.UserError, match=r"toy.csv:\d+: no row of a study: could not convert"):
        tables.table(study)


def test_a_column_by_its_earlier_name_is_read_and_the_next_row_writes_the_new_one(study):
    text, shown = study.memory.read_text(), tables.table(study)
    study.memory.write_text(text.replace("top1_labelled", "top1_10k", 1))
    assert tables.table(study) == shown
    rows.add(study.memory, {})
    assert study.memory.read_text().startswith(text)
