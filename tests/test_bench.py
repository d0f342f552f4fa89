"""The harness of the benches; the benches themselves are run by hand, with nothing beside them."""

import itertools

import pytest

from bench import pairs


@pytest.fixture
def clock(monkeypatch):
    """A clock that work moves on by hand."""
    now = [0.0]
    monkeypatch.setattr(pairs.time, "perf_counter", lambda: now[0])

    def takes(*seconds):
        left = itertools.cycle(seconds)

        def work():
            now[0] += next(left)
            order.append(seconds)

        return work

    order = []
    takes.order = order
    return takes


def test_the_two_run_by_turns_after_a_warm_up_and_the_median_of_the_ratios_counts(clock):
    ours, peer = clock(1.0), clock(9.0, 2.0, 3.0, 4.0)  # the first is the warm-up
    row = pairs.compare("x", ours, peer, target=3, pairs=3)
    assert row.pairs == [(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]
    assert (row.ratio, row.met) == (3.0, True)
    assert clock.order == [(1.0,), (9.0, 2.0, 3.0, 4.0)] * 4
    assert not pairs.compare("x", ours, peer, target=3.5, pairs=3).met


def test_at_most_turns_the_ratio_round(clock):
    row = pairs.compare("x", clock(2.1), clock(2.0), target=1.05, at_most=True, pairs=5)
    assert (row.ratio, row.met) == (pytest.approx(1.05), True)
    assert not pairs.compare("x", clock(2.2), clock(2.0), target=1.05, at_most=True).met


def test_without_a_target_a_row_is_reported_and_met(clock):
    row = pairs.compare("x", clock(2.0), clock(4.0), None, note="words")
    assert (row.met, row.target) == (True, None)
    assert "2.00" in row.line()
    assert "words" in row.line()
