import shutil

import pytest

from pipeline.params import reader
from pipeline.study import cells
from tests.pipeline.clones import ROOT
from tests.study.toy import STUDY


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes studies/toy.yaml in a folder that has this repository's params.yaml, and goes there."""
    shutil.copy(ROOT / reader.FILE, tmp_path)
    monkeypatch.chdir(tmp_path)

    def written(text: str = STUDY, old: str = "", new: str = "") -> cells.Study:
        assert text.count(old) == 1 or not old
        (tmp_path / "studies").mkdir(exist_ok=True)
        (tmp_path / "studies/toy.yaml").write_text(text.replace(old, new) if old else text)
        return cells.load("toy")

    return written
