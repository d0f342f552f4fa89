import json
import os
import signal

import h5py
import numpy as np
import pytest
from diffusers import UNet2DModel

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.data import imports, shards
from pipeline.generators import cards, ddpm, sampling
from pipeline.params.schema import Generate
from tests.toys import COMPUTE, ddpm_params, forked

OWN = ddpm_params()
SIZE, STEPS, BATCH, SHARD = 8, 2, 2, 4


def params(**changes):
    given = {"sampler": "ddpm", "steps": STEPS, "eta": 0.0, "clip": True, "batch_size": BATCH, "shard_size": SHARD}
    return Generate(**given | {"seed": 0} | changes)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A folder such as the generator stage leaves."""
    folder = tmp_path_factory.mktemp("generator")
    names = ddpm.save(ddpm.unet(OWN, SIZE, 1), ddpm.scheduler(OWN), folder)
    digests = {name: files.sha256(folder / name) for name in names}
    files.write_sealed(folder / "card.json", {"kind": "ddpm", "source": "train", "files": digests})
    return folder


pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def calls(monkeypatch):
    """The number of images in each forward pass of a UNet."""
    seen, forward = [], UNet2DModel.forward

    def counting(self, sample, *arguments, **named):
        seen.append(len(sample))
        return forward(self, sample, *arguments, **named)

    monkeypatch.setattr(UNet2DModel, "forward", counting)
    return seen


def fill(generator, n, size=SIZE, **changes):
    made, fingerprint = sampling.sample(params(**changes), cards.of_generator(generator), generator, n, size, COMPUTE)
    return made, fingerprint


def pixels(made):
    parts = []
    for name in sorted(made):
        with h5py.File(made[name]) as file:
            parts.append(file["images"][:])
    return np.concatenate(parts)


def identity(path):
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, path.read_bytes()


PER_SHARD = [BATCH] * (STEPS * SHARD // BATCH)


def test_whole_shards_are_made_for_at_least_the_asked_number(generator, calls):
    made, _ = fill(generator, 9)
    assert list(made) == [shards.shard_name(k) for k in range(3)]
    assert calls == 3 * PER_SHARD
    images = pixels(made)
    assert (images.shape, images.dtype) == ((12, SIZE, SIZE, 1), np.uint8)
    assert len({image.tobytes() for image in images}) == 12


def test_a_larger_set_samples_only_the_further_shards_and_begins_with_the_smaller(generator, calls):
    small, fingerprint = fill(generator, 4)
    before = {name: identity(path) for name, path in small.items()}
    calls.clear()
    large, again = fill(generator, 12)
    assert calls == 2 * PER_SHARD
    assert again == fingerprint
    assert {name: identity(large[name]) for name in before} == before
    calls.clear()
    fewer, _ = fill(generator, 5)
    assert calls == []
    assert list(fewer) == [shards.shard_name(0), shards.shard_name(1)]


def test_a_set_that_grew_has_the_bytes_of_one_made_at_once(generator, monkeypatch, tmp_path):
    for n in (4, 12):
        grown, _ = fill(generator, n)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "other"))
    at_once, _ = fill(generator, 12)
    assert grown[shards.shard_name(2)] != at_once[shards.shard_name(2)]
    for name, path in at_once.items():
        assert path.read_bytes() == grown[name].read_bytes()


@pytest.mark.parametrize("sampler", ["ddpm", "sde-dpmsolver++"])
def test_images_do_not_depend_on_how_many_stand_in_a_shard(generator, sampler):
    """sde-dpmsolver++ keeps history, which must not run on from one batch to the next."""
    small, first = fill(generator, 8, shard_size=4, sampler=sampler)
    large, second = fill(generator, 8, shard_size=8, sampler=sampler)
    assert first != second
    assert np.array_equal(pixels(small), pixels(large))


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".sha256").unlink(),
        lambda path: path.with_suffix(".sha256").write_text(""),
    ],
    ids=["flipped", "truncated", "lost", "digest lost", "digest empty"],
)
def test_a_shard_that_was_damaged_in_the_store_is_made_again_alone(generator, calls, harm):
    made, _ = fill(generator, 12)
    before = {name: identity(path) for name, path in made.items()}
    harm(made[shards.shard_name(1)])
    calls.clear()
    again, _ = fill(generator, 12)
    assert calls == PER_SHARD
    for name, path in again.items():
        assert path.read_bytes() == before[name][2]
        if name != shards.shard_name(1):
            assert identity(path) == before[name]


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"steps": 3}, {"sampler": "ddim"}, {"sampler": "ddim", "eta": 0.5}, {"batch_size": 4}]
)
def test_other_parameters_are_other_work(generator, changes):
    first, fingerprint = fill(generator, 4)
    made, other = fill(generator, 4, **changes)
    assert other != fingerprint
    assert made[shards.shard_name(0)].parent != first[shards.shard_name(0)].parent
    if "batch_size" not in changes:
        assert not np.array_equal(pixels(made), pixels(first))


def test_images_are_resized_to_the_datas_size(generator):
    assert pixels(fill(generator, 4, size=6)[0]).shape == (4, 6, 6, 1)


def fill_and_die(generator, when):
    """Sample into the store, killed at the second shard."""
    write = files.write

    def dying(path, writer):
        if path.name == "shard-00001.h5" and when == "before the shard":
            os.kill(os.getpid(), signal.SIGKILL)
        if path.name == "shard-00001.h5" and when == "within the shard":

            def half(temporary):
                writer(temporary)
                os.truncate(temporary, 500)
                os.kill(os.getpid(), signal.SIGKILL)

            write(path, half)
        if path.name == "shard-00001.sha256" and when == "before its digest":
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, writer)

    files.write = dying
    fill(generator, 12)


@pytest.mark.fault(1, 2)
@pytest.mark.parametrize("when", ["before the shard", "within the shard", "before its digest"])
def test_killed_after_the_first_shard_it_goes_on_there(generator, store, calls, monkeypatch, tmp_path, when):
    child = forked(fill_and_die, generator, when)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    (kept,) = store.rglob(shards.shard_name(0))
    before = identity(kept)
    made, _ = fill(generator, 12)
    assert made[shards.shard_name(0)] == kept
    assert identity(kept) == before
    assert calls == 2 * PER_SHARD
    assert not list(store.rglob(".*.tmp"))
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "other"))
    straight, _ = fill(generator, 12)
    for name, path in straight.items():
        assert path.read_bytes() == made[name].read_bytes()


@pytest.mark.fault(16)
def test_samples_that_are_not_finite_leave_no_shard(generator, store, monkeypatch):
    forward, count = UNet2DModel.forward, []

    def failing(self, sample, *arguments, **named):
        count.append(1)
        found = forward(self, sample, *arguments, **named)
        if len(count) > len(PER_SHARD):
            found.sample.mul_(float("nan"))
        return found

    monkeypatch.setattr(UNet2DModel, "forward", failing)
    with pytest.raises(UserError, match="image 4 has values") as caught:
        fill(generator, 8)
    assert caught.value.code == 4
    assert [path.name for path in store.rglob("shard-*.h5")] == [shards.shard_name(0)]


def test_more_steps_than_the_generator_has_timesteps_are_refused(generator):
    with pytest.raises(UserError, match=r"generate\.steps: 2000 > 1000 timesteps that the generator was trained with"):
        fill(generator, 4, sampler="dpmsolver++", steps=2000)


def test_a_generator_whose_files_are_not_its_cards_is_refused(generator, tmp_path):
    card = json.loads((generator / "card.json").read_text())
    assert card.pop("seal")
    assert card.pop("schema") == files.SEALED
    assert cards.of_generator(generator) == card
    files.write_sealed(tmp_path / "card.json", card | {"files": {"unet/config.json": "0" * 64}})
    (tmp_path / "unet").mkdir()
    for content in (None, "{}"):
        if content:
            (tmp_path / "unet" / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"config\.json: (missing|damaged)") as caught:
            cards.of_generator(tmp_path)
        assert caught.value.code == 2
    files.write_sealed(tmp_path / "card.json", card | {"files": {"../outside": "0" * 64}})
    with pytest.raises(UserError, match=r"names \.\./outside, which is not in its folder"):
        cards.of_generator(tmp_path)
    for name in ("kind", "source"):
        files.write_sealed(tmp_path / "card.json", card | {name: "../evil"})
        with pytest.raises(UserError, match=rf"card\.json: {name} is \.\./evil, which is unknown here"):
            cards.of_generator(tmp_path)
    files.write_sealed(tmp_path / "card.json", {"kind": "ddpm"})
    with pytest.raises(UserError, match=r"card\.json: lacks source as str, files as dict"):
        cards.of_generator(tmp_path)


@pytest.fixture
def imported(tmp_path):
    """A folder such as the generator stage leaves, with 25 imported images."""
    images = np.random.default_rng(0).integers(0, 256, (25, 8, 8, 1), dtype=np.uint8)
    folder = tmp_path / "imported"
    imports.write(images, folder, "import")
    digests = {shards.FILE: files.sha256(folder / shards.FILE)}
    files.write_sealed(folder / "card.json", {"kind": "ddpm", "source": "import", "files": digests})
    return folder, images


def test_shards_of_imported_images_hold_the_first_and_fewer_are_a_prefix(imported):
    folder, images = imported
    made, fingerprint = fill(folder, 25, batch_size=5, shard_size=10)
    assert list(made) == [shards.shard_name(k) for k in range(3)]
    assert np.array_equal(pixels(made), images)
    fewer, same = fill(folder, 11, batch_size=5, shard_size=10)
    assert (list(fewer), same) == ([shards.shard_name(0), shards.shard_name(1)], fingerprint)
    assert files.sha256(fewer["shard-00000.h5"]) == files.sha256(made["shard-00000.h5"])
    assert np.array_equal(pixels(fewer), images[:20])


def test_more_than_were_imported_are_refused(imported):
    told = r"asks for 26 images and data/generator has 25 \(import\) - lower it, or import more"
    with pytest.raises(UserError, match=told) as caught:
        fill(imported[0], 26)
    assert caught.value.code == 2
