"""What people see of a training while it runs."""

import pytest

from pipeline.core.errors import UserError
from pipeline.run import live


def test_the_log_is_written_at_once_and_then_every_few_seconds(tmp_path, monkeypatch):
    now, written = [100.0], []
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    monkeypatch.delenv(live.BOARD, raising=False)
    monkeypatch.chdir(tmp_path)
    seen, rows = live.follow("pretrain", lambda rows: written.append(len(rows))), []
    for second in (0, 1, 4.9, 5, 6, 10):
        now[0] = 100.0 + second
        rows.append({"step": len(rows) + 1, "loss": 1.0})
        seen(rows)
    assert written == [1, 4, 6]


def test_the_curve_of_an_earlier_run_stays_until_this_one_is_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(live.BOARD, raising=False)
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots/pretrain.csv").write_text("older")
    live.follow("pretrain", lambda rows: pytest.fail("written"))([{"step": 1}])


def test_tensorboard_gets_every_new_row_where_it_is_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv(live.BOARD, str(tmp_path / "board"))
    rows, seen = [], live.follow("generator", lambda rows: None)
    for step in (2, 4, 6):
        rows.append({"step": step, "loss": 1.0 / step, "lr": 0.5})
        seen(rows)
    (folder,) = (tmp_path / "board").iterdir()
    assert folder.name.startswith("generator-")
    found = EventAccumulator(str(folder))
    found.Reload()
    assert found.Tags()["scalars"] == ["generator/loss", "generator/lr"]
    assert [(e.step, e.value) for e in found.Scalars("generator/loss")] == [
        (s, pytest.approx(1 / s)) for s in (2, 4, 6)
    ]


def test_without_tensorboard_it_says_what_to_install(monkeypatch, tmp_path):
    import sys

    monkeypatch.setenv(live.BOARD, str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"LEAVEN_TENSORBOARD: wants .* - pip install tensorboard"):
        live.follow("generator", lambda rows: None)
