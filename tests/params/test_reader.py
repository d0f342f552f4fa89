"""What params.yaml says is what runs and what DVC records; everything else is refused, in plain words."""

import copy
import re
import time
from pathlib import Path
from typing import get_args

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml, parse_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

import pipeline
from pipeline.core.errors import Stopped, UserError
from pipeline.params import reader
from pipeline.params.schema import Params

KEYS = reader.keys()
COMMITTED = (Path(pipeline.__file__).parent.parent / "params.yaml").read_text(encoding="utf-8")
PLAIN, LINES, _ = reader.parse(COMMITTED)
BUG = "a newline, a link or a word of the libraries'"
JARGON = re.compile(
    r"https?:|NoneType|Input should|pydantic|<class|Traceback|(?<!')\bNone\b|(?<!')\bTrue\b|(?<!')\bdict\b|instance of"
)


def faults(text: str | bytes, folder: Path) -> list[str]:
    """The lines of the refusal of a text, without their file's folder; [] if it is accepted."""
    path = folder / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    try:
        reader.load(path)
    except UserError as refusal:
        error = refusal
    else:
        return []
    assert error.code == 2
    lines = str(error).split("\n")
    for line in lines:
        assert line.isprintable(), BUG
        assert not JARGON.search(line), (BUG, line)
        assert len(line) < 400, line
        assert line.startswith(str(path)), line
    return [line.removeprefix(f"{folder}/") for line in lines]


def edited(*edits: tuple[str, str]) -> str:
    """The committed file with each dotted key's line set to another value, or to whole new lines."""
    rows = COMMITTED.split("\n")
    for dotted, value in edits:
        key = tuple(dotted.split("."))
        indent = "  " * (len(key) - 1)
        rows[LINES[key] - 1] = value if value.startswith("\n") else f"{indent}{key[-1]}: {value}"
    return "\n".join(rows)


def line_of(dotted: str) -> int:
    return reader.parse(COMMITTED)[1][tuple(dotted.split("."))]


# --- the same values as DVC's


def agree(text: str) -> bool:
    """Whether the text is accepted; if it is, DVC's reader must read the same values of the same types.

    What DVC's reader does not read is refused here as well, in one line that says so.
    """
    values, _, found = reader.parse(text)
    try:
        by_dvc = parse_yaml(text, "params.yaml")
    except Exception:  # a text that it cannot read makes it raise all kinds of them
        assert found, text
        return False
    if found:
        return False
    assert repr(values) == repr(by_dvc), text  # repr tells 1, 1.0 and True apart, nan is nan
    return True


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("1e-05", 0.00001),
        ("1e-4", 0.0001),
        ("1E5", 100000.0),
        ("1e5", 100000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("+.5", 0.5),
        (".5e-3", 0.0005),
        ("1.5e+3", 1500.0),
        ("007.5", 7.5),
        ("-0.0", -0.0),
        ("1e400", float("inf")),
        (".inf", float("inf")),
        ("-.INF", -float("inf")),
        ("+.Inf", float("inf")),
        (".NAN", float("nan")),
        ("+1", 1),
        ("-0", 0),
        ("0", 0),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("true", True),
        ("False", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        ("# nothing", None),
        ("'1'", "1"),
        ('"no"', "no"),
        ("'010'", "010"),
        ('"\\x41"', "A"),
        ("'it''s'", "it's"),
        ("data/a b:c#d", "data/a b:c#d"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("inf", "inf"),
        ("1_a", "1_a"),
        ("-", "refused"),
        ("[]", []),
        ("{}", {}),
        ("[1, 1.0, x, null]", [1, 1.0, "x", None]),
        ("{b: 1, 'c': {d: [true]}}", {"b": 1, "c": {"d": [True]}}),
        ("\n  - 1\n  -\n  - [2]", [1, None, [2]]),
        ("x\n  y", "x y"),
    ],
)
def test_scalar_has_the_value_and_type_that_dvc_records(scalar, value):
    text = f"a: {scalar}\n"
    if agree(text):
        assert repr(reader.parse(text)[0]["a"]) == repr(value)
    else:
        assert value == "refused"


plain = st.one_of(
    st.text("0123456789+-._eE", min_size=1, max_size=8),
    st.text("0123456789abcdefoxbABCDEFOXB_+-.:", min_size=1, max_size=8),
    st.text("yYnNeEsSoOfFtTrRuUaAlL~=<", min_size=1, max_size=5),
    st.from_regex(r"[-+]?[0-9]{0,3}\.?[0-9_]{0,3}([eE][-+]?[0-9]{1,2})?", fullmatch=True),
    st.from_regex(r"[-+]?[0-9]{1,2}(:[0-9]{1,2}){1,2}(\.[0-9]?)?", fullmatch=True),
    st.from_regex(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.5)?Z?)?", fullmatch=True),
    st.sampled_from(
        ["[-+]", "0o17", "0b11", "0x_f", "-_1", "+._5", ".inf", "-.nan", "NULL", "nUll", "on", "Off", "a: b"]
    ),
    st.text(st.characters(codec="utf-8"), max_size=6),
    st.floats(allow_nan=False).map(repr),
    st.integers().map(str),
)
quoted = st.one_of(
    plain.filter(lambda text: "\n" not in text).map(lambda text: "'" + text.replace("'", "''") + "'"),
    plain.map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'),
    st.from_regex(r'"(\\[0abtnvfre "/\\N_LP]|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|[a-z ])*"', fullmatch=True),
)
scalars = plain | quoted
flow = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]")
        | st.lists(st.tuples(scalars, st.sampled_from([": ", ":"]), inner | st.just("")).map("".join), max_size=3).map(
            lambda parts: f"{{{', '.join(parts)}}}"
        )
    ),
    max_leaves=5,
)


def block(depth: int) -> st.SearchStrategy[str]:
    """Lines of a mapping at some depth, each with an end of line."""
    indent = "  " * depth
    value = flow.map(lambda text: f" {text}\n") | st.lists(flow, min_size=1, max_size=3).map(
        lambda parts: "\n" + "".join(f"{indent}  - {part}\n" for part in parts)
    )
    if depth < 3:
        value |= st.deferred(lambda: block(depth + 1)).map(lambda text: "\n" + text)
    pair = st.tuples(st.just(indent), st.sampled_from(["a", "b", "key"]) | scalars, st.just(":"), value).map("".join)
    return st.lists(pair, min_size=1, max_size=3).map("".join)


@settings(max_examples=500, deadline=None, database=None)
@given(plain)
def test_whatever_scalar_is_accepted_dvc_reads_the_same(scalar):
    agree(f"a: {scalar}\n")


@settings(max_examples=150, deadline=None, database=None)
@given(block(0), st.sampled_from(["", "---\n", "%YAML 1.1\n---\n", "# comment\n\n", "\ufeff"]))
def test_whatever_document_is_accepted_dvc_reads_the_same(document, head):
    agree(head + document)


def test_committed_file_is_accepted_and_reads_as_dvc_reads_it():
    assert agree(COMMITTED)
    assert reader.load(Path(pipeline.__file__).parent.parent / "params.yaml").dataset.seed == 0


def test_file_that_dvc_rewrote_for_dash_s_is_read_as_dvc_reads_it(tmp_path):
    path = tmp_path / "params.yaml"
    l2 = "\n".join(line for line in COMMITTED.splitlines() if not line.startswith("  - 0.0"))  # one strength, 0.1
    path.write_text(l2.replace("  - 0.1\n", "  - 1e-3\n") + "\n")
    changes = {"pretrain.lr": "1e-5", "augment.flip": "0.25", "ddpm.channels": "[8,16]", "compute.compile": "true"}
    apply_overrides(str(path), [f"{key}={value}" for key, value in {**changes, "augment.blur": "null"}.items()])
    assert "1e-05" in path.read_text()  # YAML 1.1 takes what DVC writes here for text
    params = reader.load(path)
    assert (params.pretrain.lr, params.augment.flip, params.augment.blur) == (0.00001, 0.25, None)
    assert (params.ddpm.channels, params.compute.compile, params.linear_eval.l2) == ([8, 16], True, [0.001])
    assert params == Params.model_validate(load_yaml(path))


# --- what is refused


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("scalar", "shown"),
    [
        ("yes", "'yes'"),
        ("NO", "'NO'"),
        ("on", "'on'"),
        ("y", "'y'"),
        ("1.5_0", "1.5"),
        ("1:30", "'1:30'"),
        ("2020-01-01", "a date"),
        ("2020-01-01 10:00:00", "a datetime"),
        ("!!binary aGk=", "a bytes"),
        ("!!set {a, b}", "a set"),
    ],
)
def test_scalar_that_other_yaml_readers_take_for_a_number_or_a_word_is_what_dvc_reads(scalar, shown, tmp_path):
    assert agree(f"a: {scalar}\n")
    found = faults(edited(("pretrain.warmup_steps", scalar)), tmp_path)
    where = f"params.yaml:{line_of('pretrain.warmup_steps')}: pretrain.warmup_steps"
    assert found == [f"{where}: must be a whole number, not {shown}"]


@pytest.mark.parametrize(("scalar", "number"), [("010", 10), ("1_0", 10), ("0x1F", 31), ("0o17", 15), ("!!int 7", 7)])
def test_whole_number_in_an_odd_form_is_what_dvc_reads(scalar, number, tmp_path):
    assert agree(f"a: {scalar}\n")
    (tmp_path / "params.yaml").write_text(edited(("pretrain.warmup_steps", scalar)))
    assert reader.load(tmp_path / "params.yaml").pretrain.warmup_steps == number
    assert load_yaml(tmp_path / "params.yaml")["pretrain"]["warmup_steps"] == number


def test_quoted_text_stays_text_and_is_refused_where_a_number_is_due(tmp_path):
    assert faults(edited(("dataset.path", '"010"')), tmp_path) == []
    assert faults(edited(("dataset.path", "'no'")), tmp_path) == []
    (line,) = faults(edited(("pretrain.steps", "'400'")), tmp_path)
    assert line.endswith("pretrain.steps: must be a whole number, not '400'")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (edited(("compute.device", "\n  device: cpu\n  device: cuda")), 6, "key stands twice"),
        (COMMITTED + "compute:\n  device: cpu\n", 4, "compute: key stands twice, again on line"),
        (edited(("compute.threads", "&two 2")), 7, "anchors and aliases"),
        (BOMB, 1, "anchors and aliases"),
        (
            edited(("compute.threads", "!!python/object/apply:os.system [true]")),
            7,
            "could not determine a constructor for the tag",
        ),
        (edited(("compute.threads", "!x%0a%e2%80%a8 2")), 7, "a constructor for the tag"),
        (edited(("compute.threads", "\n\tthreads: 2")), 8, "tab"),
        (edited(("compute.threads", "2\t# two")), 7, "tab"),
        (edited(("compute.device", "|\n    cpu")), 5, "does not print"),
        ("%YAML 1.3\n", None, "not YAML"),
        (edited(("compute.device", "=")), 5, "could not determine a constructor"),
        (edited(("compute.threads", "2020-13-45")), None, "not YAML: month must be in 1..12"),
        (COMMITTED + "---\n" + COMMITTED, COMMITTED.count("\n") + 1, "another document"),
        (edited(("compute.device", "cpu: cuda")), 5, "mapping values are not allowed here"),
        (edited(("compute.device", "[cpu")), 6, "not YAML"),
        (edited(("compute.device", "\x07")), None, "unacceptable character #x0007"),
        (edited(("compute.device", "cpu #\u2028threads: 3")), 5, "not YAML"),
        (edited(("compute.device", '"\\ud800"')), 5, "does not print"),
        (edited(("compute.device", '"cpu\\n"')), 5, "does not print"),
        (edited(("compute.threads", "9" * 5000)), 7, "a value of 5000 characters"),
        (edited(("compute.threads", "[" * 9 + "]" * 9)), 7, "nested too deeply"),
        ("[" * 50_000, 1, "nested too deeply"),
        ("{a: " * 20_000, 1, "nested too deeply"),
        (COMMITTED + "1: 2\n", COMMITTED.count("\n") + 1, "a key must be text"),
        (COMMITTED + "no: 2\n", COMMITTED.count("\n") + 1, "no: unknown key"),
        (COMMITTED + "? [a, b]\n: 2\n", COMMITTED.count("\n") + 1, "a key must be text"),
        (COMMITTED + "? {a: b}\n: 2\n", COMMITTED.count("\n") + 1, "a key must be text"),
        (COMMITTED + '"x\\ny": 2\n', COMMITTED.count("\n") + 1, "a key must print"),
        (COMMITTED + '"\\ud800": 2\n', COMMITTED.count("\n") + 1, "a key must print"),
        (edited(("compute.threads", "{a:,b: 1}")), 7, "not a section"),
        (edited(("compute.threads", "{a:1}")), 7, "not a section"),
        (edited(("compute.threads", "{;:[]}")), 7, "not YAML"),
        (edited(("compute.threads", "{a}")), 7, "not a section"),
        ("", None, "expected sections"),
        ("just text", None, "expected sections"),
        ("- a\n- b\n", None, "expected sections"),
        ("#" * 100_001, None, "longer than 100,000 characters"),
        (COMMITTED.encode() + b"\xff", None, "not readable"),
    ],
)
def test_what_is_no_plain_file_of_sections_is_refused_in_one_line_at_once(text, line, words, tmp_path):
    started = time.process_time()
    found = faults(text, tmp_path)
    assert time.process_time() - started < 2
    assert words in found[0], found
    assert found[0].startswith(f"params.yaml:{line}: " if line else "params.yaml: "), found
    assert len(found) == 1 or "twice" in words, found


@pytest.mark.fault(19)
def test_no_tag_runs_code(tmp_path):
    mark = tmp_path / "ran"
    faults(f"compute: !!python/object/apply:os.system ['touch {mark}']\n", tmp_path)
    assert not mark.exists()


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / "params.yaml", tmp_path):
        with pytest.raises(UserError, match="not readable"):
            reader.load(path)


@settings(max_examples=100, deadline=None, database=None)
@given(st.data())
def test_random_edits_are_refused_in_plain_lines_or_read_as_dvc_reads_them(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    rows = COMMITTED.split("\n")
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(rows) - 1))
        kind = data.draw(st.sampled_from(["value", "delete", "double", "insert", "swap", "indent", "key"]))
        if kind == "value":
            rows[i] = rows[i].partition(":")[0] + ": " + data.draw(flow)
        elif kind == "delete":
            rows[i] = ""
        elif kind == "double":
            rows[i] = rows[i] + "\n" + rows[i]
        elif kind == "insert":
            at = data.draw(st.integers(0, len(rows[i])))
            rows[i] = rows[i][:at] + data.draw(st.text(max_size=2)) + rows[i][at:]
        elif kind == "swap":
            j = data.draw(st.integers(0, len(rows) - 1))
            rows[i], rows[j] = rows[j], rows[i]
        elif kind == "indent":
            rows[i] = data.draw(st.sampled_from(["  ", "\t", " "])) + rows[i]
        else:
            rows[i] = rows[i].replace("e", data.draw(st.sampled_from(["", "ee", "a"])), 1)
    if not faults("\n".join(rows), folder):
        values = load_yaml(folder / "params.yaml")
        assert reader.load(folder / "params.yaml") == Params.model_validate(values)


# --- every fault, in plain English


@pytest.mark.fault(18)
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("compute.threads", "true", "must be a whole number, not true"),
        ("compute.threads", "2.0", "must be a whole number, not 2.0"),
        ("compute.threads", "two", "must be a whole number, not 'two'"),
        ("compute.threads", "null", "must be a whole number, not null"),
        ("compute.threads", "[2]", "must be a whole number, not a list"),
        ("compute.threads", "{a: 2}", "must be a whole number, not a section"),
        ("compute.threads", "0", "must be above 0, not 0"),
        ("compute.compile", "0", "must be true or false, not 0"),
        ("compute.device", "gpu", "must be 'cpu' or 'cuda', not 'gpu'"),
        ("compute.device", "null", "must be 'cpu' or 'cuda', not null"),
        ("compute.device", "Cpu", "must be 'cpu' or 'cuda', not 'Cpu'"),
        ("generator.source", "Train", "must be 'train', 'pretrained', 'import', 'real' or 'none', not 'Train'"),
        ("dataset.path", "3", "must be text, not 3"),
        ("dataset.path", "null", "must be text, not null"),
        ("ddpm.steps", "2147483648", "must be below 2147483648, not 2147483648"),
        ("pretrain.warmup_steps", "2147483648", "must be below 2147483648, not 2147483648"),
        ("dataset.seed", "-1", "must be at least 0, not -1"),
        ("dataset.seed", "9223372036854775808", "must be below 9223372036854775808, not 9223372036854775808"),
        ("generator.hub", "3", "must be text or null, not 3"),
        ("generator.revision", "main", "must be text of the form ^[0-9a-f]{40}$ or null, not 'main'"),
        ("pretrain.lr", "fast", "must be a number, not 'fast'"),
        ("pretrain.lr", "true", "must be a number, not true"),
        ("pretrain.lr", "0", "must be above 0, not 0"),
        ("pretrain.lr", "-1e-3", "must be above 0, not -0.001"),
        ("pretrain.lr", ".inf", "must be finite, not .inf"),
        ("pretrain.lr", "-.inf", "must be finite, not -.inf"),
        ("pretrain.lr", ".nan", "must be finite, not .nan"),
        ("pretrain.momentum", "1.0", "must be below 1, not 1.0"),
        ("pretrain.weight_decay", "-0.5", "must be at least 0, not -0.5"),
        ("pretrain.trust_coefficient", "[1]", "must be a number or null, not a list"),
        ("augment.strength", "4.5", "must be at most 4, not 4.5"),
        ("augment.strength", "null", "must be a number, not null"),
        ("augment.hue", "0.6", "must be at most 0.5 or null, not 0.6"),
        ("augment.hue", ".nan", "must be at most 0.5 or null, not .nan"),
        ("augment.flip", "-.1", "must be at least 0 or null, not -0.1"),
        ("augment.crop_min", "0", "must be above 0 or null, not 0"),
        ("ddpm.channels[1]", "0", "must be above 0, not 0"),
        ("ddpm.channels[1]", "wide", "must be a whole number, not 'wide'"),
        ("linear_eval.l2[0]", "null", "must be a number, not null"),
    ],
)
def test_wrong_value_is_named_with_its_line_its_key_and_what_is_due(key, value, message, tmp_path):
    name, _, index = key.rstrip("]").partition("[")
    if index:
        line = line_of(name) + 1 + int(index)
        rows = COMMITTED.split("\n")
        rows[line - 1] = f"  - {value}"
        text = "\n".join(rows)
    else:
        text, line = edited((key, value)), line_of(key)
    assert faults(text, tmp_path) == [f"params.yaml:{line}: {key}: {message}"]


def test_lengths_of_lists_and_kinds_of_sections_are_named(tmp_path):
    replaced = re.sub(r"(  channels: .*\n)(  - \d+\n)+", r"\1", COMMITTED)
    replaced = replaced.replace("channels:            # for", "channels :           # for")  # the data set's
    (line,) = faults(replaced.replace("  channels: ", "  channels: [] "), tmp_path)
    assert line.endswith("ddpm.channels: must have at least 1 entries, not 0")
    (line,) = faults(replaced.replace("  channels: ", "  channels: [8, 8, 8, 8, 8, 8, 8] "), tmp_path)
    assert line.endswith("ddpm.channels: must have at most 6 entries, not 7")
    (line,) = faults(replaced.replace("  channels: ", "  channels: 8 "), tmp_path)
    assert line.endswith("ddpm.channels: must be a list, not 8")
    for value, shown in (("3", "3"), ("", "null"), ("[a]", "a list"), ("text", "'text'")):
        (line,) = faults(COMMITTED.partition("finetune:")[0] + f"finetune: {value}\n", tmp_path)
        assert line.endswith(f"finetune: must be a section of `key: value` lines, not {shown}")
        (line,) = faults(edited(("transfer", value)), tmp_path)
        assert line.endswith(f"transfer: must be a section of named entries, not {shown}")


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    ("added", "near"),
    [
        ("inflation.raito", "inflation.ratio"),
        ("inflation.Ratio", "inflation.ratio"),
        ("inflation.real_wieght", "inflation.real_weight"),
        ("compute.num_threads", "compute.threads"),
        ("inflation.temperature", "simclr.temperature or that of another section"),
        ("dataset.device", "compute.device"),
        ("pretrain.width", "pretrain.backbone.width"),
        ("generate.lr", "ddpm.lr or that of another section"),
        ("generate.ema_decay", "ddpm.ema_decay or gan.ema_decay or conditioned.ema_decay"),
        ("dataset.batch_size", "ddpm.batch_size or that of another section"),
        ("simclr.simclr", "simclr"),
        ("compute.temprature", "simclr.temperature or that of another section"),
        ("compute.zzz", None),
    ],
)
def test_unknown_key_is_named_with_the_key_that_was_meant(added, near, tmp_path):
    section, _, key = added.partition(".")
    text = COMMITTED.replace(f"\n{section}:\n", f"\n{section}:\n  {key}: 1\n")
    hint = f" - did you mean {near}?" if near else ""
    assert faults(text, tmp_path) == [f"params.yaml:{line_of(section) + 1}: {added}: unknown key{hint}"]


def test_misspelt_key_and_section_are_named_as_unknown_and_as_missing(tmp_path):
    found = faults(COMMITTED.replace("  ratio:", "  raito:").replace("\nsimclr:\n", "\nsimclrr:\n"), tmp_path)
    assert set(found) == {
        f"params.yaml:{line_of('inflation')}: inflation.ratio: missing",
        f"params.yaml:{line_of('inflation.ratio')}: inflation.raito: unknown key - did you mean inflation.ratio?",
        "params.yaml: simclr: missing",
        f"params.yaml:{line_of('simclr')}: simclrr: unknown key - did you mean simclr?",
    }


def test_every_key_is_required():
    for key in (".".join(key) for key in KEYS if len(key) == 2):
        values = copy.deepcopy(PLAIN)
        section, _, name = key.partition(".")
        del values[section][name]
        assert reader.validate(values)[1] == [((section, name), "missing")]


DIGITS = "name: folder, path: data/digits, train_size: 1000, validation_size: 200, test_size: null, seed: 0"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (f"digits: {{{DIGITS}}}", None),
        (f"digits: {{{DIGITS.replace('1000', '0')}}}", "transfer.digits.train_size: must be above 0, not 0"),
        (
            f"digits: {{{DIGITS.replace('null', 'some')}}}",
            "transfer.digits.test_size: must be a whole number or null, not 'some'",
        ),
        (f"digits: {{{DIGITS.replace('seed: 0', 'sed: 0')}}}", "transfer.digits.seed: missing"),
        (f"digits: {{{DIGITS}, zzz: 1}}", "transfer.digits.zzz: unknown key"),
        (f"digits: {{{DIGITS}, raito: 1}}", "transfer.digits.raito: unknown key - did you mean inflation.ratio?"),
        (f"digits: {{{DIGITS}, train_sizes: 1}}", "unknown key - did you mean transfer.digits.train_size?"),
        ("digits: 3", "transfer.digits: must be a section of `key: value` lines, not 3"),
        (f"my.set: {{{DIGITS}}}", "transfer.my.set: must be text of the form ^[a-z][a-z0-9_-]{0,39}$, not 'my.set'"),
        (f"'../up': {{{DIGITS}}}", "transfer.../up: must be text of the form ^[a-z][a-z0-9_-]{0,39}$, not '../up'"),
        (f"3: {{{DIGITS}}}", "transfer.3: a key must be text"),
    ],
)
def test_entries_of_a_mapping_have_free_names_that_a_file_can_have_and_keys_as_a_section(entry, message, tmp_path):
    text = COMMITTED.replace("transfer: {}\n", f"transfer: {{{entry}}}\n")
    assert text != COMMITTED
    if message is None:
        (tmp_path / "params.yaml").write_text(text)
        assert reader.load(tmp_path / "params.yaml").transfer["digits"].train_size == 1000
    else:
        assert [line for line in faults(text, tmp_path) if line.endswith(message)], faults(text, tmp_path)


@pytest.mark.fault(18)
def test_all_faults_are_named_at_once_rules_on_the_valid_values_included(tmp_path):
    text = edited(
        ("compute.threads", "two"),
        ("compute.device", "gpu"),
        ("augment.contrast", "abc"),
        ("augment.hue", "0.3"),  # a rule: not with form grey
        ("pretrain.warmup_steps", "99999999"),  # a rule: not below pretrain.steps
        ("inflation.ratio", ".inf"),
        ("generator.revision", "0123456789012345678901234567890123456789".replace("0", "a")),  # a rule: no hub
        ("simclr.hidden_dim", "\n  zzz: 1"),
    )
    found = faults(text, tmp_path)
    assert sorted(line.split(": ")[1] for line in found) == [
        "augment.contrast",
        "augment.hue",
        "compute.device",
        "compute.threads",
        "generator.revision",
        "inflation.ratio",
        "pretrain.warmup_steps",
        "simclr.hidden_dim",
        "simclr.zzz",
    ]


def test_wrong_value_is_not_judged_again_by_the_rules(tmp_path):
    # hue: a section where a number is due; groups and one of the channels: no numbers that % may be asked of
    for edit in (("augment.hue", "{a: 1}"), ("ddpm.groups", "'%d'"), ("pretrain.evaluate_every", "0")):
        assert len(faults(edited(edit), tmp_path)) == 1
    text = re.sub(r"(channels: .*\n)  - \d+\n", r"\1  - '%d'\n", COMMITTED, count=1)
    assert len(faults(text, tmp_path)) == 1


def test_every_way_in_which_the_schema_refuses_has_a_message():
    """Each leaf of the schema, given values of every kind and at every bound, is refused in words of our own."""
    tried = [None, True, -1, 0, 2**70, -(10**400), 0.5, 1.5, 5.0, float("nan"), float("inf"), "", "x", [], {}]
    tried += [["x"], [0] * 9, [None], {"a": 1}, "\udfff", 10**400]
    seen, committed = set(), yaml.safe_load(COMMITTED)
    for key in KEYS:
        for value in tried:
            values = section = copy.deepcopy(committed)
            for part in key[:-1]:
                section = section[part]
            section[key[-1]] = value
            try:
                Params.model_validate(values)
            except ValidationError as error:
                for detail in error.errors():
                    assert detail["loc"][: len(key)] == key  # the place of a fault is a path in the file
                    message = reader._message(detail)
                    assert message.isprintable()
                    assert not JARGON.search(message), message
                    seen.add(detail["type"])
    assert len(seen) > 12  # most of pydantic's refusals of plain values were met


def test_schema_has_no_default_anywhere():
    """What runs is what the file says: a key that could be left out would be a second place for its value."""

    def models(model):
        yield model
        for field in model.model_fields.values():
            for kind in (field.annotation, *get_args(field.annotation)):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    yield from models(kind)

    for model in models(Params):
        assert all(field.is_required() for field in model.model_fields.values()), model
        assert model.model_config["extra"] == "forbid"
        assert model.model_config["strict"]
        assert model.model_config["frozen"]


def test_an_order_to_stop_while_it_reads_is_no_fault_of_the_file(monkeypatch):
    def stopped(self, text):
        raise Stopped("stopped", 15)

    monkeypatch.setattr(reader.YAML, "compose", stopped)
    with pytest.raises(Stopped):
        reader.load(Path(pipeline.__file__).parents[1] / "params.yaml")


@pytest.mark.parametrize("head", ["%YAML 1.2\n---\n", "%YAML 1.1\n---\n", "---\n"])
def test_a_head_that_dvc_reads_is_read(tmp_path, head):
    text = (Path(pipeline.__file__).parents[1] / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(head + text)
    assert reader.load(tmp_path / "params.yaml") == reader.load(Path(pipeline.__file__).parents[1] / "params.yaml")
