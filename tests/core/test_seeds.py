import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import seeds

ARGUMENTS = [(7, "views", 3), (8, "views", 3), (7, "noise", 3), (7, "views", 4), (7, "views"), (7, "views", 3, 0)]


def whole(seed: int, purpose: str, index: int, n: int) -> np.ndarray:
    return seeds.permutation(seed, purpose, index, n, np.arange(n))


def chi_square(values: np.ndarray, cells: int) -> float:
    """Deviations of the chi-square statistic of `values` in range(cells) from its mean under uniformity."""
    expected = len(values) / cells
    statistic = ((np.bincount(values, minlength=cells) - expected) ** 2 / expected).sum()
    return (statistic - (cells - 1)) / np.sqrt(2 * (cells - 1))


def test_key_is_blake2b_of_the_words_of_its_arguments():
    # the first half of printf '7/views/3' | b2sum -l 128, and of '7/views'; bytes in little-endian order
    assert seeds.key(7, "views", 3) == int.from_bytes(bytes.fromhex("2fef4daa0dd805e4"), "little")
    assert seeds.key(7, "views") == int.from_bytes(bytes.fromhex("918ac8d5410d3008"), "little")


def test_keys_of_different_arguments_differ():
    grid = itertools.product((0, 1, 12, 123), ("a", "b", "ab"), [(), *itertools.product((0, 1, 2, 12, 23), repeat=2)])
    arguments = [(seed, purpose, *index) for seed, purpose, index in grid]
    arguments += [(seed, "a", i) for seed in (0, 1, 12) for i in range(300)]
    assert len({seeds.key(*a) for a in arguments}) == len(arguments)


def test_generator_repeats_for_its_arguments_and_differs_in_each():
    draws = [torch.rand(8, generator=seeds.generator(*a)) for a in ARGUMENTS]
    torch.rand(3)  # neither the global state nor other generators matter
    for a, draw in zip(ARGUMENTS, draws, strict=True):
        assert torch.equal(torch.rand(8, generator=seeds.generator(*a)), draw)
    for one, other in itertools.combinations(draws, 2):
        assert not torch.equal(one, other)


def test_generators_of_consecutive_indices_are_uniform_together():
    first = torch.stack([torch.rand(2, generator=seeds.generator(0, "x", i)) for i in range(2000)]).numpy()
    eighths = (first * 8).astype(int)
    assert abs(chi_square(eighths[:, 0] * 8 + eighths[:, 1], 64)) < 4
    assert abs(chi_square(eighths[:-1, 0] * 8 + eighths[1:, 0], 64)) < 4


def test_scope_seeds_inside_and_restores_outside():
    torch.manual_seed(5)
    expected = torch.rand(6)
    torch.manual_seed(5)
    before = torch.rand(3)
    with seeds.scope(7, "views", 3):
        inside = torch.rand(4)
        with seeds.scope(7, "other"):
            torch.rand(9)
        inside = torch.cat([inside, torch.rand(4)])
    assert torch.equal(torch.cat([before, torch.rand(3)]), expected)
    assert torch.equal(inside, torch.rand(8, generator=seeds.generator(7, "views", 3)))


def test_scope_restores_after_an_exception():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="inside"), seeds.scope(1, "x"):
        raise ValueError(f"inside {torch.rand(1)}")
    assert torch.equal(torch.get_rng_state(), state)


def test_permutation_is_a_bijection_for_every_small_n():
    for n in range(1, 201):
        assert sorted(whole(n, "p", n, n)) == list(range(n)), n


@given(seed=st.integers(0, 2**63 - 1), index=st.integers(0, 10**9), n=st.integers(1, 5000), data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_permutation_is_a_bijection_and_each_place_is_its_own(seed, index, n, data):
    full = whole(seed, "p", index, n)
    assert np.array_equal(np.sort(full), np.arange(n))
    positions = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=20)), dtype=np.int64)
    asked = positions.copy()
    found = seeds.permutation(seed, "p", index, n, positions)
    assert found.dtype == np.int64
    assert np.array_equal(found, full[positions])
    assert np.array_equal(positions, asked), "the caller's positions were changed"


@pytest.mark.parametrize("n", [2**20 - 1, 2**20, 2**20 + 1])
def test_permutation_of_a_large_range_is_even(n):
    positions = np.concatenate([np.arange(500), n - 1 - np.arange(500)])
    found = seeds.permutation(0, "p", 0, n, positions)
    assert found.min() >= 0
    assert found.max() < n
    assert len(np.unique(found)) == 1000
    assert abs(chi_square(found * 16 // n, 16)) < 4


def test_permutation_is_numpys_with_the_128_bit_key_of_its_arguments():
    # printf '3/p/1' | b2sum -l 128, as a little-endian number
    key = int.from_bytes(hashlib.blake2b(b"3/p/1", digest_size=16).digest(), "little")
    assert whole(3, "p", 1, 50).tolist() == np.random.Generator(np.random.Philox(key=key)).permutation(50).tolist()


@pytest.mark.parametrize("other", [(1, "p", 0), (0, "q", 0), (0, "p", 1)])
def test_permutations_of_other_arguments_are_other_permutations(other):
    same_places = (whole(0, "p", 0, 2000) == whole(*other, 2000)).sum()
    assert same_places <= 8  # Poisson(1)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13, 16])
def test_every_value_stands_in_every_place_equally_often(n):
    table = np.array([whole(3, "p", index, n) for index in range(1200)])
    for place in range(n):
        assert chi_square(table[:, place], n) < 5, place
    # over all places together, and each place with the same one of the next permutation
    assert abs(chi_square((table + n * np.arange(n)).reshape(-1), n * n)) < 6
    assert chi_square(table[:-1, 0] * n + table[1:, 0], n * n) < 5


def test_all_orders_of_four_occur_equally_often():
    orders = {order: number for number, order in enumerate(itertools.permutations(range(4)))}
    found = np.array([orders[tuple(whole(3, "p", index, 4).tolist())] for index in range(2400)])
    assert chi_square(found, 24) < 5
