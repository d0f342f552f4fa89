import sys

from pipeline.core import progress


def test_what_is_told_of_a_fault_begins_a_line_though_a_bar_was_left_open(capsys):
    try:
        with progress.ended_bars():
            moving = progress.bar("work", 3, "step")
            moving.update()
            raise ValueError
    except ValueError:
        print("told", file=sys.stderr)
    assert capsys.readouterr().err.endswith("\ntold\n")
