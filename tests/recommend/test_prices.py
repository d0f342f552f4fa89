"""What runs cost: by a loop whose steps are known, and by the real one."""

from types import SimpleNamespace

import pytest

from pipeline.params import presets, reader
from pipeline.recommend import prices


def test_a_steps_price_leaves_out_what_a_run_does_once(monkeypatch):
    """20 ms a step and 150 ms once."""
    asked, now = [], [0.0]

    def train(name, task, plan, compute, folder, told):
        asked.append(plan.schedule.steps)
        now[0] += 0.15 + 0.02 * plan.schedule.steps

    monkeypatch.setattr(prices.loop, "train", train)
    monkeypatch.setattr(prices, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    params = reader.load()
    assert prices._timed(params, None, params.pretrain, None) == pytest.approx(0.02)
    assert asked == [2, 2, 10, 34, 130]  # 8 and 32 steps are not yet a second


def test_finished_runs_tell_better_what_a_run_costs():
    """The median of three, of which one made the generator as well."""
    assert prices.of_rows([]) is None
    assert prices.of_rows([{"seconds": seconds} for seconds in ("50.0", "600.5", "54.5")]) == 54.5


def test_the_real_steps_of_encoder_and_generator_are_timed_and_a_longer_run_costs_more():
    base = {**presets.load("smoke"), ("pretrain", "steps"): 1_000, ("ddpm", "steps"): 1_000}
    params, faults = reader.changed(reader.load(), base)
    assert not faults
    found = prices._measured(params, 1.0)
    step = (found.run - prices.OVERHEAD) / 1_000
    assert 0.0005 < step < 20.0  # beside other work it may be slow
    assert found.generator > 0.5
    imported, faults = reader.changed(params, {("generator", "source"): "import"})
    assert not faults
    assert prices._measured(imported, 1.0).generator == 0.0
    assert prices.OVERHEAD < found.short < prices.OVERHEAD + (found.run - prices.OVERHEAD) / 3


def test_prices_by_hand(monkeypatch):
    """10 ms a step of the encoder, 20 of the generator; a third of that for an image in each step of the sampler."""
    params = reader.load()
    params = params.model_copy(update={"pretrain": params.pretrain.model_copy(update={"steps": 2000})})
    timed = {id(params.pretrain): 0.01, id(params.ddpm): 0.02}
    monkeypatch.setattr(prices, "_timed", lambda whole, task, plan, *more: timed[id(plan)])
    for ratio in (1.0, 10.0):
        found = prices._measured(params, ratio)
        assert found.run == pytest.approx(prices.OVERHEAD + 20)
        assert found.short == pytest.approx(prices.OVERHEAD + 5)
        sampled = ratio * params.dataset.train_size * params.generate.steps * 0.02 / params.ddpm.batch_size / 3
        assert found.generator == pytest.approx(0.02 * params.ddpm.steps + sampled)


def test_words():
    line = "a run of the whole length takes about 1.5 minutes, a short one 0.8"
    assert prices.Prices(90, 48, 600).told() == f"{line}, the generator and its images 10.0"
    assert prices.Prices(90, 48, 0.0).told() == line
    assert prices.Prices(90, 48, None).told() == f"{line}; what the generator's images take is not known"
