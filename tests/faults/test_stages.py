"""Faults of the machine and of the user's hand, done to real stages: what is told, its code, and what is left."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.pipeline import clones

GENERATE, PRETRAIN = (("python", "-m", f"stages.{name}") for name in ("generate", "pretrain"))
SET = "data/generated/inflation"


@pytest.fixture(scope="module")
def whole(base):
    """Digests of an uninterrupted run."""
    return clones.digests(base.clone)


@pytest.fixture
def clone(base, tmp_path):
    """A finished run, without what generate and pretrain keep in the store."""
    copy = clones.copy(base.clone, tmp_path / "clone")
    for kind in ("shards", "encoder"):
        shutil.rmtree(copy / ".cache" / kind)
    return copy


def limited(kilobytes: int, *words: str) -> tuple[str, ...]:
    """A command that can write no file of more bytes: a full disk, as far as write() tells."""
    return "bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "bash", *words


@pytest.mark.slow
@pytest.mark.fault(3)
def test_killed_when_all_shards_are_there_it_only_gives_them_their_name(clone, whole):
    shutil.rmtree(clone / SET)
    clones.killed_at(clone, "generate.assembles:1", *GENERATE)
    assert clones.counts(clone)["generate.forwards"] == 4 * 2 * 2
    assert not (clone / SET).exists()
    clones.run(clone, *GENERATE)
    assert "generate.forwards" not in clones.counts(clone)
    assert clones.digests(clone) == whole


@pytest.mark.slow
@pytest.mark.fault(12)
def test_a_full_disk_while_sampling_leaves_no_shard_and_what_was_made_before(clone, whole):
    """A shard of 100 images has 81 KB."""
    output = clones.run(clone, *limited(60, *GENERATE), code=3)
    assert re.search(r"(?m)^generate: .*shard-00000\.h5: disk full, [\d,]+ MB free - make room", output)
    assert "Traceback" not in output
    assert not list((clone / ".cache/shards").rglob("*.h5"))
    assert clones.digests(clone) == whole
    clones.run(clone, *GENERATE)
    assert clones.digests(clone) == whole


@pytest.mark.slow
@pytest.mark.fault(12)
def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(clone, whole):
    """The encoder's checkpoint has some 900 KB; there is none before the first."""
    shutil.rmtree(clone / "data/encoder")
    output = clones.run(clone, *limited(300, *PRETRAIN), code=3)
    assert re.search(r"(?m)^pretrain: .*checkpoint\.pt: disk full, [\d,]+ MB free - make room", output)
    assert not list((clone / ".cache/encoder").rglob("checkpoint*"))
    assert not (clone / "data/encoder").exists()
    clones.run(clone, *PRETRAIN)
    assert clones.digests(clone) == whole


@pytest.mark.fault(13)
def test_an_output_that_cannot_be_written_is_refused_before_any_step(clone):
    clones.counts(clone)
    shutil.rmtree(clone / "data/encoder")
    (clone / "data/encoder").write_text("mine")
    output = clones.run(clone, *PRETRAIN, code=2)
    assert output == "pretrain: data/encoder: cannot write: a file is in the way - move it away\n"
    assert set(clones.counts(clone)) == {"pretrain.starts"}
    assert (clone / "data/encoder").read_text() == "mine"


@pytest.mark.fault(14)
def test_training_that_diverges_stops_with_its_step_and_leaves_the_encoder_before(clone, whole):
    clones.edit(clone, pretrain__lr="1e30", pretrain__warmup_steps="0")
    output = clones.run(clone, *PRETRAIN, code=4)
    (line,) = [line for line in output.splitlines() if "not finite" in line]
    assert re.match(r"pretrain: .* not finite .*step \d+.*at rate .*; there is no checkpoint yet", line), line
    assert "Traceback" not in output
    assert clones.digests(clone) == whole


@pytest.mark.slow
@pytest.mark.fault(31)
def test_an_object_of_dvcs_cache_that_was_changed_in_place_is_found_by_its_reader(clone, whole):
    """Of the same size and time: DVC puts it into the workspace without a word."""
    name = f"{SET}/shard-00002.h5"
    shard = clone / name
    healthy = shard.read_bytes()
    objects = [path for path in (clone / ".dvc/cache").rglob("*") if path.is_file() and path.read_bytes() == healthy]
    (kept,) = objects
    then = kept.stat()
    os.chmod(kept, 0o644)
    harmed = bytearray(healthy)
    harmed[-1000] ^= 1
    kept.write_bytes(harmed)
    os.utime(kept, ns=(then.st_atime_ns, then.st_mtime_ns))
    shutil.rmtree(clone / SET)
    clones.run(clone, "dvc", "checkout", "generate")
    assert shard.read_bytes() == bytes(harmed)

    clones.counts(clone)
    output = clones.fault(clones.run(clone, *PRETRAIN, code=2))
    found = re.fullmatch(rf"pretrain: {name}: damaged: .* - delete (\S+) and (\S+), then run `(.*)`", output)
    assert found, output
    assert "pretrain.steps" not in clones.counts(clone)
    folder, named, command = found.groups()
    assert clone / named == kept
    shutil.rmtree(clone / folder)
    (clone / named).unlink()
    clones.run(clone, *command.split())
    assert clones.digests(clone) == whole


@pytest.mark.slow
@pytest.mark.fault(27)
def test_a_second_repro_is_turned_away_by_dvc_and_changes_nothing(clone, whole):
    clones.run(clone, "git", "status")  # takes in the copies' new inodes
    clones.edit(clone, pretrain__seed="5")
    with clones.background(clone, "dvc", "repro", hold="pretrain.steps:3") as (first, log):
        clones.held(clone, first, log)
        during = clones.digests(clone)
        output = clones.run(clone, "dvc", "repro", code=None)
        assert re.search(r"is busy, it is being blocked by", output), output
        assert "rwlock" in output
        assert clones.digests(clone) == during
    clones.edit(clone, pretrain__seed="0")
    clones.run(clone, "dvc", "repro")
    assert clones.digests(clone) == whole


@pytest.mark.slow
@pytest.mark.fault(25)
def test_pictures_of_any_name_and_number_are_read_in_the_order_of_their_bytes(tmp_path):
    """Of ten thousand, some with names that are no text: the order is the same however they were made."""
    import numpy as np
    from PIL import Image

    from pipeline.data import pictures

    picture = tmp_path / "one.png"
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(picture)
    names = [b"line\nbreak.png", "äöü.png".encode(), b"\xff\xfe.png", b" .png", b"-rf.png"]
    names += [b"%05d.png" % i for i in range(10_000)]
    folders = []
    for order in (names, names[::-1]):
        folder = Path(tmp_path / f"folder{len(folders)}")
        folder.mkdir()
        for name in order:
            os.link(picture, os.fsencode(folder) + b"/" + name)
        folders.append(folder)
    first, second = ([os.fsencode(path.name) for path in pictures.find(folder)] for folder in folders)
    assert first == second == sorted(names)
    images = pictures.read_all(pictures.find(folders[0]), 8, 1)
    assert images.shape == (10_005, 8, 8, 1)
    assert (images == 7).all()
