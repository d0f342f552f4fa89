"""What a race is asked of, as a study's text: a folder or the set of params.yaml, with all its labels or a few."""

from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import UserError
from pipeline.params import presets, reader, sizes
from pipeline.params.data import tested
from pipeline.params.schema import Params
from pipeline.recommend import arms
from pipeline.recommend.race import Rules
from pipeline.run import survey


class Wish(NamedTuple):
    """What a person asks: a name for the race's files, a folder (None: the set of params.yaml), how many labels to use
    (None: all), by which rules."""

    name: str = "recommend"
    folder: Path | None = None
    few: int | None = None
    rules: Rules = Rules()


class Question(NamedTuple):
    """A race's study as text. test: how many test images have labels, None without any. folder: one that params.yaml
    does not name."""

    text: str
    test: int | None
    folder: Path | None


def question(wish: Wish) -> Question:
    """What the folder or the set of params.yaml and today's parameters make of it; UserError where that cannot be."""
    folder, few = wish.folder, wish.few
    if few is not None and few < sizes.FEWEST:
        raise UserError(f"{few} labels to share out are fewer than {sizes.FEWEST}", "--labels", "give more")
    params = reader.load()
    own = params.dataset.name == "folder" and Path(params.dataset.path)
    if folder is None and not own:
        values = survey.few_labels(params, few) if few is not None else {}
        values |= arms.with_a_ceiling(reader.with_values(params, values, reader.FILE))
        test = tested(params.dataset.name)
    else:
        folder = folder or own
        if not own or folder.resolve() != own.resolve():
            _refuse_no_word(folder)
        named = bool(own) and folder.resolve() == own.resolve()
        values, test = _of_folder(folder, params, named, few)
        folder = None if named else folder
    presets.words(values)  # or refused: a path that is no word would fail in every run
    given = reader.with_values(params, values, folder or reader.FILE)
    return Question(arms.text(values, given, wish.rules), test, folder)


def _refuse_no_word(folder: Path) -> None:
    """Before a picture is decoded: a path that is no word would fail in every run."""
    try:
        presets.words({("dataset", "path"): survey.path_of(folder)})
    except UserError as fault:
        remedy = "rename it, or `leaven dataset FOLDER`, commit, and `leaven recommend` without --folder"
        raise UserError(fault.what, folder, remedy) from fault


def _of_folder(folder: Path, params: Params, own: bool, few: int | None) -> tuple[dict[tuple, object], int | None]:
    """What fits a folder, and how many test images have labels; None without any.

    Half of the train images are held back for the ceiling where none are to spare. own: params.yaml is of this folder,
    so what it says of labels, sizes and networks stands.
    """
    d = params.dataset
    wish = survey.Wish(d.labels, d.label_column, d.image_size, d.channels, d.resize) if own else survey.Wish()
    wish = wish._replace(few=few)
    alone = params.inflation.model_copy(update=arms.NOTHING)  # a batch must do for the arms without generated images

    def look(**sizes: int) -> survey.Survey:
        given = d.model_copy(update={"spare_size": 0, **sizes})
        return survey.survey(folder, wish, params.model_copy(update={"dataset": given, "inflation": alone}))

    found = look(ceiling_size=int(arms.MOST * d.train_size))
    train, labelled = (found.values["dataset", name] for name in ("train_size", "labelled_size"))
    if found.values["dataset", "ceiling_size"] < train:
        half = train // 2
        halved = look(train_size=half, labelled_size=min(labelled, half), ceiling_size=train - half)
        held = halved.values["dataset", "ceiling_size"]
        if held >= arms.LEAST * half:
            found = halved
            found.words.append(f"{held:,} train pictures are held back, to stand for those of a perfect generator")
    print("\n".join(found.words))
    today, values = presets.leaves(params.model_dump()), found.values
    if own:
        values = {path: value for path, value in values.items() if _of_sizes(path) and value != today[path]}
    return values, found.test if found.labelled else None


def _of_sizes(path: tuple) -> bool:
    return path[0] in ("dataset", "quality") or "batch" in path[-1] or path[-1] == "accumulate"
