"""`leaven sample` in real programs: any number of them, in any order, killed and started again, fill one set."""

import shutil

import pytest

from tests.pipeline import clones

SAMPLE = ("python", "-m", "pipeline", "sample")


@pytest.fixture
def clone(base, tmp_path):
    """A copy of the uninterrupted run without its generated images, in the store or beside it."""
    clone = clones.copy(base.clone, tmp_path / "clone")
    shutil.rmtree(clone / ".cache/shards")
    shutil.rmtree(clone / "data/generated/inflation")
    return clone


@pytest.fixture
def asked(base):
    """How many shards it has."""
    return len(list((base.clone / "data/generated/inflation").glob("shard-*.h5")))


def there(clone) -> list[str]:
    return sorted(path.stem for path in (clone / ".cache/shards").rglob("*.sha256"))


@pytest.mark.slow
def test_programs_that_are_killed_and_started_again_fill_the_set_that_dvc_finds(base, clone, asked):
    assert asked > 2
    first = {}
    with clones.background(clone, *SAMPLE) as one, clones.background(clone, *SAMPLE, "--shards", "0-2") as two:
        for process, log in (one, two):
            clones.until(lambda: there(clone), process, log)
        first = clones.stats(clone, ".cache/shards")
        clones.kill(one[0])  # the other goes on
        for process, log in (one, two):
            assert process.wait(120) in (0, -9), log.read_text()
    said = clones.run(clone, *SAMPLE)
    assert f": shards 0-{asked - 1} are there; {asked} in all, " in said
    assert len(there(clone)) == asked
    after = clones.stats(clone, ".cache/shards")
    whole = [name for name in first if name.endswith(".sha256")]
    assert whole
    assert {name: after[name] for name in whole} == {name: first[name] for name in whole}  # none was made twice
    clones.run(clone, "dvc", "repro", "generate")
    assert "generate.forwards" not in clones.counts(clone)
    assert clones.digests(clone) == clones.digests(base.clone)


@pytest.mark.slow
def test_a_set_may_be_larger_than_what_is_asked_for_now(clone, asked):
    said = clones.run(clone, *SAMPLE, "--shards", str(asked))
    assert f": shards {asked} are there; 1 in all, of 100 images each" in said.splitlines()[-1]
    assert there(clone) == [f"shard-{asked:05d}"]
    clones.edit(clone, inflation__ratio="0.0")
    said = clones.run(clone, *SAMPLE, code=2)
    assert clones.fault(said) == "params.yaml: inflation.ratio: asks for no images - name them: --shards A-B"


@pytest.mark.slow
def test_what_cannot_be_sampled_is_a_line(clone):
    for words in ("2-1", "a", "-1", "1-2-3", "0-100000"):
        said = clones.run(clone, *SAMPLE, f"--shards={words}", code=2)
        assert clones.fault(said) == f"--shards {words}: must be a number from 0 to 99999, or two as in 0-179"
    said = clones.run(clone, "env", "LEAVEN_STORE=off", *SAMPLE, code=2)
    assert clones.fault(said).startswith("LEAVEN_STORE=off: keeps nothing that `dvc repro` could find - ")
    clones.edit(clone, generator__source="pretrained")
    said = clones.run(clone, *SAMPLE, code=2)
    told = "data/generator: is of generator.kind ddpm and source train, not those of params.yaml - "
    assert clones.fault(said) == f"{told}run `dvc repro generator`"
    clones.edit(clone, generator__source="train", ddpm__steps="9")
    said = clones.run(clone, *SAMPLE, code=2)
    told = "data/generator: params.yaml has another ddpm.steps than when it was made - run `dvc repro generator`"
    assert clones.fault(said) == told
    clones.edit(clone, generator__source="none", ddpm__steps="8")
    clones.edit(clone, inflation__ratio="0.0", quality__images="0")
    clones.run(clone, "dvc", "repro", "generator")
    said = clones.run(clone, *SAMPLE, code=2)
    assert clones.fault(said) == "data/generator: its source is none, so there is nothing to sample"
    shutil.rmtree(clone / "data/generator")
    said = clones.run(clone, *SAMPLE, code=2)
    assert clones.fault(said).startswith("data/generator/card.json: not found")
    assert there(clone) == []
