"""docs/parameters.md and the JSON schema are what the schema makes of itself, and every key has its sentence."""

import json
import re
from pathlib import Path
from typing import get_args, get_origin

import pytest

import pipeline
from pipeline.params import documentation, judge, reader
from pipeline.params.schema import SECTIONS, Params
from pipeline.params.types import Section

REPOSITORY = Path(pipeline.__file__).parent.parent
ALL = [get_args(kind)[1] if get_origin(kind) is dict else kind for kind in SECTIONS.values()]
ALL += [field.annotation for kind in ALL for field in kind.model_fields.values() if judge.is_section(field.annotation)]


def test_committed_files_are_those_of_the_schema(tmp_path):
    documentation.write(tmp_path)
    for name in (documentation.PAGE, documentation.SCHEMA):
        committed = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
        assert (tmp_path / name).read_text(encoding="utf-8") == committed, "run `leaven params`"


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_section_and_every_key_has_its_sentence(kind):
    assert kind.__doc__ not in (None, Section.__doc__)
    for name, field in kind.model_fields.items():
        assert re.fullmatch(r"[^|\n]{10,140}\.", field.description or ""), (kind.__name__, name, field.description)


def test_page_has_a_row_for_every_key():
    page = documentation.text()
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    known = reader.keys()
    assert rows == {key[-1] for key in known if reader.section(key) is None or len(key) > 1} | {"name"}
    assert next(line for line in page.split("\n") if line.startswith("## ")) == "## compute"


def test_params_file_names_the_schema_that_editors_check_it_by():
    first = (REPOSITORY / "params.yaml").read_text(encoding="utf-8").split("\n")[0]
    path = first.removeprefix("# yaml-language-server: $schema=")
    found = json.loads((REPOSITORY / path).read_text(encoding="utf-8"))
    assert set(found["required"]) == set(Params.model_fields)
    assert found["additionalProperties"] is False
