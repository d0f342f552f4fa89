"""Sampling into the store beside other programs: each fills shards of its own, and `dvc repro` finds them there."""

import os
import re
from pathlib import Path

from pipeline.core import store
from pipeline.core.errors import UserError, UserErrors
from pipeline.core.progress import log
from pipeline.core.shares import rounded
from pipeline.data import shards
from pipeline.engine import arithmetic
from pipeline.generators import cards, sampling
from pipeline.params import reader
from pipeline.run import graph, launch, machine

_GENERATOR, _REAL = Path("data/generator"), Path("data/real")


def sample(asked: str | None) -> str:
    """Fill shards "A-B", or "A", of the set that the stage generate takes from the store; a line on what is there then.

    asked: None is all that inflation.ratio asks for. Shards that another program is at work on are waited for at the
    end. A killed program loses the shard in hand.
    """
    params = reader.load()
    os.environ.pop(launch.VARIABLE, None)  # this process does the work itself, and asks the GPU what is free
    if store.off():
        raise UserError(
            "keeps nothing that `dvc repro` could find", "LEAVEN_STORE=off", "leave it out, or name a folder"
        )
    card = cards.of_generator(_GENERATOR)
    if card["source"] not in ("train", "pretrained"):
        raise UserError(f"its source is {card['source']}, so there is nothing to sample", _GENERATOR)
    if (card["kind"], card["source"]) != (params.generator.kind, params.generator.source):
        what = f"is of generator.kind {card['kind']} and source {card['source']}, not those of params.yaml"
        raise UserError(what, _GENERATOR, "run `dvc repro generator`")
    changed = [name for stage in ("prepare", "generator") for name in graph.changed(stage, params)]
    if changed:
        what = f"params.yaml has another {', '.join(changed)} than when it was made"
        raise UserError(what, _GENERATOR, "run `dvc repro generator`")
    real, size = shards.read_real(_REAL), params.generate.shard_size
    n = rounded(params.inflation.ratio, len(real.rows(shards.TRAIN)))
    only = _numbers(asked, -(-n // size))
    shard = size * real.images[0].size
    needs = machine.Needs((), kept=len(only) * shard, memory=shard, device=params.compute.device)
    faults, warning = machine.lacking(needs, "generate"), machine.tight(needs)
    if faults:
        raise UserErrors(faults)
    if warning:
        log(warning)
    arithmetic.prepare(params.compute)
    made, _ = sampling.sample(params.generate, card, _GENERATOR, n, real.images.shape[1], params.compute, only)
    folder = next(iter(made.values())).parent
    there = len(list(folder.glob("shard-*.sha256")))
    which = str(only[0]) if len(only) == 1 else f"{only[0]}-{only[-1]}"
    return f"{folder}: shards {which} are there; {there:,} in all, of {size:,} images each"


def _numbers(asked: str | None, needed: int) -> range:
    """The numbers of shards; needed: how many inflation.ratio asks for."""
    if asked is None:
        if not needed:
            raise UserError("asks for no images", "params.yaml: inflation.ratio", "name them: --shards A-B")
        return range(needed)
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", asked)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise UserError("must be a number from 0 to 99999, or two as in 0-179", f"--shards {asked}")
    return range(first, last + 1)
