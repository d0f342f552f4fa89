"""Views of several steps are made at once: each is still what its step alone makes."""

import pytest
import torch

from pipeline.augment import recipes
from pipeline.core import seeds
from pipeline.data import mixture
from pipeline.data.bank import ImageBank
from pipeline.methods import View
from pipeline.training import batches
from tests.batches import noise, section

N, SIDE = 6, 12
AUGMENT = section("asymmetric").model_copy(update={"seed": 4, "replace": 0.5, "replaced": "second"})
VIEWS = (View(recipe=0), View(recipe=1), View(source="positive", recipe=1), View(recipe=1, size=8, crop=(0.1, 0.4)))
NUMBERS = N * 3 * (3 * SIDE**2 + 8**2)  # of a step's views


def given(draw):
    real, made, positives = (noise(20, (SIDE, SIDE, 3), 0, high).numpy() for high in (250, 240, 230))
    return batches.Batches(draw, ImageBank(real, [made, positives], "cpu"), 1, VIEWS, AUGMENT)


def of_step(found, draw, step):
    """The views of a step by themselves, of the images that the mixture and the positives name."""
    rows, there = draw.rows(step), (20, 20, 1, AUGMENT.seed, step)
    shown = [rows, mixture.replaced(rows, 0.5, *there, 1), mixture.positives(rows, *there)]
    shown.append(mixture.replaced(rows, 0.5, *there, 3))
    chosen = [batches.view_recipe(AUGMENT, view) for view in VIEWS]
    return recipes.views([found.bank[each] for each in shown], chosen, seeds.generator(AUGMENT.seed, "views", step))


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_views_are_those_of_their_step_whichever_is_asked_for_first(monkeypatch, steps):
    """Forwards, as a run asks; in a group's middle, as a resumed one; back and forth, as nobody does."""
    monkeypatch.setattr(batches, "NUMBERS", steps * NUMBERS + NUMBERS // 2)
    draw = mixture.Mixture(20, 20, 1.0, N, 0)
    found = given(draw)
    expected = {step: of_step(found, draw, step) for step in range(20)}
    for step in (*range(20), 5, 19, 2, 3, 3, 0):
        for view, alone in zip(found(step), expected[step], strict=True):
            assert view.shape == alone.shape
            assert torch.allclose(view, alone, rtol=0, atol=1e-6)
    assert not torch.equal(expected[0][0], expected[1][0])


@pytest.mark.parametrize(("room", "groups"), [(1, 16), (4, 4), (1000, 2)])
def test_a_group_is_as_long_as_its_numbers_allow_and_no_longer_than_eight(monkeypatch, room, groups):
    made = []
    views = recipes.views
    monkeypatch.setattr(recipes, "views", lambda *given: made.append(len(given[2])) or views(*given))
    monkeypatch.setattr(batches, "NUMBERS", room * NUMBERS)
    found = given(mixture.Mixture(20, 20, 1.0, N, 0))
    for step in range(16):
        found(step)
    assert made == [16 // groups] * groups


def test_a_resumed_run_makes_the_same_groups(monkeypatch):
    """On a GPU another number of rows may be another kernel, and other bits."""
    asked = []
    monkeypatch.setattr(batches, "NUMBERS", 4 * NUMBERS)
    draw = mixture.Mixture(20, 20, 1.0, N, 0)
    rows = draw.rows
    monkeypatch.setattr(draw, "rows", lambda step: asked.append(step) or rows(step))
    given(draw)(6)
    assert asked == [4, 5, 6, 7]
    found = given(draw)
    straight = [[view.clone() for view in found(step)] for step in range(8)]
    assert all(torch.equal(a, b) for a, b in zip(given(draw)(6), straight[6], strict=True))


def test_processes_have_their_rows_of_what_one_makes(monkeypatch):
    monkeypatch.setattr(batches, "NUMBERS", 4 * NUMBERS)
    draw = mixture.Mixture(20, 20, 1.0, N, 0)
    alone = given(draw)
    whole = [alone(step) for step in range(10)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        found = given(draw)
        for step, views in enumerate(whole):
            for share, view in zip(found(step), views, strict=True):
                assert torch.allclose(share, view[rank * N // 2 : (rank + 1) * N // 2], rtol=0, atol=1e-6)


def test_batches_in_parts_are_made_one_by_one(monkeypatch):
    asked = []
    draw = mixture.Mixture(20, 20, 1.0, N, 0)
    rows = draw.rows
    monkeypatch.setattr(draw, "rows", lambda step: asked.append(step) or rows(step))
    found = given(draw)
    for k in range(2):
        with batches.distributed.part(k, 2):
            assert [len(view) for view in found(5)] == [N // 2] * len(VIEWS)
    assert asked == [5, 5]
