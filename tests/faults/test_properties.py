"""What holds for all values, drawn by hypothesis: artefacts written again have the same bytes, schedules their ends.

The other properties are beside what has them: the mixture in data/test_mixture, orders in core/test_seeds, images
in generators/test_sampling and generators/test_ddpm, crashes in engine/test_loop.
"""

import itertools
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.core import files, store
from pipeline.data import shards
from pipeline.engine import loop
from pipeline.generators import ddpm, diffusers_folder
from pipeline.networks import backbones, heads
from pipeline.params.schema import Training as Schedule
from tests.toys import ddpm_params

SEEDS = st.integers(0, 2**32)
NAMES = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def twice():
    """twice(write, again): `again(first, second)` reads one folder and writes another; all bytes are the same."""

    def same(write, again):
        with tempfile.TemporaryDirectory() as place:
            first, second = Path(place) / "first", Path(place) / "second"
            write(first)
            again(first, second)
            one, two = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*.*")} for f in (first, second))
            assert one == two
            assert one

    return same


@given(data=st.data(), n=st.integers(1, 9), size=st.integers(1, 5), channels=st.sampled_from((1, 3)))
@settings(max_examples=60)
def test_real_images_read_and_written_again_have_the_same_bytes(twice, data, n, size, channels):
    real = shards.RealSet(
        images=data.draw(arrays.arrays(np.uint8, (n, size, size, channels))),
        labels=data.draw(arrays.arrays(np.int64, n, elements=st.integers(-1, 9))),
        split=data.draw(arrays.arrays(np.uint8, n, elements=st.integers(0, 4))),
        orig_index=data.draw(arrays.arrays(np.int64, n)),
        classes=tuple(data.draw(st.lists(NAMES, min_size=1, max_size=3))),
        source=data.draw(NAMES),
        labelled_size=data.draw(st.integers(1, 10**6)),
    )
    twice(lambda to: shards.write_real(to, real), lambda a, b: shards.write_real(b, shards.read_real(a)))


@given(n=st.integers(0, 20), each=st.integers(1, 7), seed=SEEDS)
@settings(max_examples=40)
def test_generated_images_read_and_written_again_have_the_same_bytes(twice, n, each, seed):
    images = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 1), np.uint8)

    def write(folder, images):
        names = [shards.shard_name(k) for k in range(-(-len(images) // each))]
        for k, name in enumerate(names):
            shards.write_arrays(folder / name, {"images": images[k * each : (k + 1) * each]}, {"shard": k})
        store.seal(folder, names, {"n": len(images)})

    twice(lambda to: write(to, images), lambda a, b: write(b, shards.read_generated(a)))


@given(width=st.integers(1, 4), blocks=st.lists(st.integers(1, 2), min_size=4, max_size=4), seed=SEEDS)
@settings(max_examples=20)
def test_an_encoder_read_and_written_again_has_the_same_bytes(twice, width, blocks, seed):
    made = backbones.build(backbones.resnet(width, blocks), [0.3], [0.2], seed)

    def again(first, second):
        found = backbones.load(first)
        backbones.save(found, second)

    twice(lambda to: backbones.save(made, to, method="simclr", beta=1 / 3), again)


@given(seed=SEEDS, levels=st.integers(1, 3), prediction=st.sampled_from(diffusers_folder.PREDICTIONS))
@settings(max_examples=10)
def test_a_diffusion_model_read_and_written_again_has_the_same_bytes(twice, seed, levels, prediction):
    own = ddpm_params(seed=seed, channels=[4] * levels, prediction=prediction)

    def write(folder):
        ddpm.save(ddpm.unet(own, 8, 1), ddpm.scheduler(own), folder)

    def same_values(first, second):
        ddpm.save(*ddpm.load(first), second)
        for folder in (first, second):  # diffusers names in its configuration where a model came from
            for path in folder.rglob("config.json"):
                files.write_json(path, {k: v for k, v in files.read_json(path).items() if k != "_name_or_path"})

    twice(write, same_values)


@given(lr=st.floats(1e-8, 1e3), steps=st.integers(1, 2000), warmup=st.integers(0, 2000))
def test_the_rate_has_its_first_its_highest_and_its_last_value_where_they_belong(lr, steps, warmup):
    assume(warmup < steps)
    numbers = {"log_every": 1, "checkpoint_every": 1, "weight_decay": 0.0, "batch_size": 1, "seed": 0, "min_lr": 0.0}
    numbers["warmup_lr"] = None
    plan = Schedule(lr=lr, steps=steps, warmup_steps=warmup, **numbers)
    rates = [loop.learning_rate(plan, step) for step in range(steps)]
    assert rates[0] == (lr / warmup if warmup else lr)
    assert [rates[max(0, warmup - 1)], rates[warmup]] == pytest.approx([lr, lr])
    left = steps - warmup
    assert rates[-1] == pytest.approx(lr * (1 - math.cos(math.pi / left)) / 2 if left > 1 else lr)
    assert all(0 < a < b for a, b in itertools.pairwise(rates[:warmup]))
    assert all(a > b > 0 for a, b in itertools.pairwise(rates[warmup:]))


@given(start=st.floats(0, 1), share=st.floats(0, 1), steps=st.integers(2, 500))
def test_a_momentum_begins_at_its_start_ends_at_its_end_and_never_falls(start, share, steps):
    end = start + share * (1 - start)
    taus = [heads.momentum(start, end, step / (steps - 1)) for step in range(steps)]
    assert (taus[0], taus[-1]) == (pytest.approx(start), pytest.approx(end))
    assert taus[(steps - 1) // 2] == pytest.approx((start + end) / 2, abs=(end - start) / 2 * math.pi / steps + 1e-12)
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(taus))
