"""The protocol of a kind of positives: a kind is one file, and everything else finds it by its name alone."""

import importlib
from types import ModuleType
from typing import get_args

import numpy as np
import pytest

from pipeline import positives
from pipeline.params import positives as named
from pipeline.params.schema import Params, Positives
from tests import toys

KINDS = [name for name in get_args(Positives.model_fields["kind"].annotation) if name != "none"]


pytestmark = pytest.mark.usefixtures("store")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_the_parameters_is_a_file_of_that_name(name):
    kind = positives.load(name)
    assert importlib.import_module(f"pipeline.positives.{name}").KIND is kind
    assert named.KINDS[name].uses in Positives.model_fields
    assert list(kind.ladder) == sorted(kind.ladder)
    assert kind.outside_data == (name == "unclip")
    assert (name in Params.model_fields) == (named.KINDS[name].section is not None)
    assert list(named.absent(name)) == []  # here everything is installed


@pytest.fixture
def toy(monkeypatch):
    """A kind that paints its images: the number in each pixel, the value in the first."""
    loaded = []

    def start():
        loaded.append(1)

        def batch(numbers, value):
            images = np.broadcast_to(np.array(numbers, np.uint8)[:, None, None, None], (len(numbers), 2, 2, 1)).copy()
            images[:, 0, 0] = round(10 * value)
            return images

        return batch

    kind = positives.Kind(
        lambda inputs: positives.Sampler({"colour": "grey"}, start),
        ladder=(0.0, 0.5),
        outside_data=True,
    )
    module = ModuleType("toy")
    module.KIND = kind
    monkeypatch.setitem(importlib.sys.modules, "pipeline.positives.toy", module)
    monkeypatch.setitem(named.KINDS, "toy", named.Kind(None, "weight"))
    monkeypatch.setattr(positives.sources, "digest", lambda *names: "/".join(names))
    return loaded


def inputs(**changes):
    given = {
        "kind": "anchored",
        "candidates": 2,
        "weight": 0.3,
        "guidance": None,
        "steps": 1,
        "eta": 0.0,
        "clip": False,
    }
    given |= {"batch_size": 2, "shard_size": 4, "seed": 0} | changes
    section = Positives(**given).model_copy(update={"kind": "toy"})
    return toys.inputs(np.zeros((3, 2, 2, 1), np.uint8), positives=section)


def test_a_kind_says_how_its_numbers_are_sampled_and_the_room_does_the_rest(toy):
    given = inputs()
    sampler = positives.load("toy").prepare(given)
    made, fingerprint = positives.sample(sampler, given, np.array([7, 8, 9]))
    images, names, candidates = toys.positives(made)
    assert names == [7, 8, 9, 7, 8, 9, 7, 8]  # whole shards: two of a third candidate too
    assert candidates == [0, 0, 0, 1, 1, 1, 2, 2]
    assert images[:, 1, 1, 0].tolist() == list(range(8))
    assert images[:, 0, 0, 0].tolist() == [3] * 8
    assert len(toy) == 1
    assert positives.sample(sampler, given, np.array([7, 8, 9])) == (made, fingerprint)
    assert len(toy) == 1  # all shards are there: the model is not loaded again
    others = [positives.sample(sampler, inputs(weight=0.5), np.array([7, 8, 9]))[1]]
    others.append(positives.sample(sampler, given, np.array([7, 8, 0]))[1])
    others.append(positives.sample(positives.Sampler({"colour": "red"}, sampler.start), given, np.array([7, 8, 9]))[1])
    assert len({fingerprint, *others}) == 4


def test_the_picture_compares_the_values_of_the_ladder_and_the_runs_own(toy):
    given = inputs()
    found = positives.picture(positives.load("toy").prepare(given), given, 2)
    captions = [f"positives of these with outside data, weight {value}" for value in ("0", "0.3", "0.5")]
    assert [caption for caption, _ in found] == captions
    assert [images[:, 0, 0, 0].tolist() for _, images in found] == [[0, 0], [3, 3], [5, 5]]


def test_a_package_that_is_not_there_is_a_fault_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(named.KINDS, "toy", named.Kind(None, "weight", packages=("no_such_package",)))
    (fault,) = named.absent("toy")
    assert "toy needs no_such_package" in str(fault)
    assert str(fault).endswith("pip install no_such_package, or choose another")
