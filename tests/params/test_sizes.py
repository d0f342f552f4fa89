"""Sizes that fit: whatever the number of pictures, the values that are named make parameters that pass."""

import pytest

from pipeline.params import reader, sizes


def of_a_folder(**dataset):
    """The committed parameters with a folder of pictures for a data set."""
    own = {"name": "folder", "path": "mine", "image_size": 32, "channels": 1, "resize": "crop", "test_size": 2000}
    values = reader.load().model_dump()
    values["dataset"] |= own | dataset
    params, faults = reader.validate(values)
    assert not faults
    return params


@pytest.mark.parametrize("drawn", [True, False])
@pytest.mark.parametrize("images", [6, 7, 11, 30, 300, 3_000, 17_000, 20_000, 100_000])
@pytest.mark.parametrize("validation", [5000, 0])
def test_what_is_named_makes_parameters_that_pass_and_fit(images, drawn, validation):
    params = of_a_folder(**({} if drawn else {"test_size": None}))
    without = {} if validation else {("dataset", "validation_size"): 0, ("quality", "images"): 0}
    params = params.model_copy(
        update={
            section: getattr(params, section).model_copy(update={name: value})
            for (section, name), value in without.items()
        }
    )
    params, faults = reader.changed(params, sizes.fitting(params, images, images, drawn))
    assert not faults
    d = params.dataset
    left = images - (d.test_size or 0)
    assert drawn == (d.test_size is not None)
    assert list(d.beyond(left, left)) == []
    assert d.train_size >= min(5000, images // 2 - 1)
    assert (d.validation_size > 0) == (validation > 0)


@pytest.mark.parametrize("known", [6, 30, 100, 299])
def test_of_pictures_with_few_labels_those_are_shared_out_and_all_are_learned_from(known):
    params = of_a_folder()
    params, faults = reader.changed(params, sizes.fitting(params, 300, known, drawn=True))
    assert not faults
    d = params.dataset
    assert d.test_size + d.validation_size + d.labelled_size == known
    assert d.test_size + d.validation_size + d.train_size == 300
    assert d.test_size == d.validation_size == {6: 2, 30: 10, 100: 33, 299: 49}[known]  # thirds; sixths of most of all
    assert list(d.beyond(300 - d.test_size, known - d.test_size)) == []


def test_values_that_fit_are_left_as_they_are_and_three_thousand_pictures_give_the_guides_numbers():
    named = sizes.fitting(of_a_folder(spare_size=0), 3_000, 3_000, drawn=True)
    assert named == {
        ("dataset", "test_size"): 500,
        ("dataset", "validation_size"): 500,
        ("dataset", "train_size"): 2000,
        ("dataset", "labelled_size"): 2000,
        ("quality", "images"): 250,
    }
    assert sizes.fitting(of_a_folder(), 100_000, 100_000, drawn=True) == {}
    assert sizes.fitting(of_a_folder(), 5, 5, drawn=True) == {}


def test_of_many_labels_a_third_is_not_needed_though_most_pictures_have_none():
    """500 test images are enough of 1,500 labels and of 3,000; from there on a sixth is more."""
    for known, test in ((1_499, 499), (1_500, 500), (3_000, 500), (6_000, 1_000), (12_000, 2_000)):
        assert sizes.fitting(of_a_folder(test_size=2001), 40_000, known, drawn=True)["dataset", "test_size"] == test


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("images", [30, 300, 3_000, 17_000])
def test_real_images_in_the_place_of_generated_ones_get_their_share_of_a_small_set(images, ratio):
    values = of_a_folder().model_dump()
    values["generator"]["source"], values["dataset"]["ceiling_size"] = "real", 40_000
    values["inflation"]["ratio"] = ratio
    params, _ = reader.validate(values)
    params, faults = reader.changed(params, sizes.fitting(params, images, images, drawn=True))
    assert not faults
    d, left = params.dataset, images - params.dataset.test_size
    assert list(d.beyond(left, left)) == []
    assert d.ceiling_size >= ratio * d.train_size - 0.5
    assert d.train_size >= min(5000, (left - d.validation_size) / (1 + ratio) - 1)


def test_a_batch_that_is_halved_is_no_longer_taken_in_parts_that_do_not_divide_it():
    values = of_a_folder().model_dump()
    values["pretrain"]["accumulate"] = 64
    params, faults = reader.validate(values)
    assert not faults
    named = sizes.fitting(params, 40, 40, drawn=True)
    assert (named["pretrain", "batch_size"], named["pretrain", "accumulate"]) == (32, 1)
    assert not reader.changed(params, named)[1]
