"""Noise, or images -> inflation.ratio x train_size images in shards -> data/generated/inflation/, sealed."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pipeline.core import files, outputs, store
from pipeline.core.errors import UserError
from pipeline.core.shares import rounded
from pipeline.data import shards
from pipeline.engine import arithmetic, distributed
from pipeline.generators import cards, sampling
from pipeline.params.generators import ceiling
from pipeline.run import machine, stage

SET = Path("data/generated/inflation")


def needs(params: SimpleNamespace) -> machine.Needs:
    real, image = machine.images(Path("data/real"), shards.TRAIN)
    size = rounded(params.inflation.ratio, real) * image
    return machine.Needs(params.outs, size, size, params.generate.shard_size * image, params.compute.device)


def main(params: SimpleNamespace) -> None:
    arithmetic.prepare(params.compute)
    images, _ = shards.read_real(Path("data/real")).part(shards.TRAIN)
    generator = Path("data/generator")
    n, made, fingerprint = rounded(params.inflation.ratio, len(images)), {}, None
    card = cards.of_generator(generator)
    if n:
        if card["source"] == "none":
            raise UserError(
                f"inflation.ratio asks for {n:,} images", generator, "generator.source is none: ratio must be 0"
            )
        made, fingerprint = sampling.sample(params.generate, card, generator, n, images.shape[1], params.compute)
    distributed.leave()
    if not distributed.first():
        return
    source = card["source"] if n else "none"
    facts = {"n": n, "shard_size": params.generate.shard_size, "source": source, "fingerprint": fingerprint}
    files.assemble(SET, made, lambda folder: store.seal(folder, sorted(made), facts))
    generated = shards.map_generated(SET)  # mapped: they need not fit into memory together
    first = np.concatenate([images[:0], *shards.of_parts(generated, np.arange(min(n, 64)))])
    what = "real, in their place" if source == "real" else "generated"
    outputs.contact_sheet(
        Path("plots/generated.png"), [(f"{what} ({n:,})", first), (f"real ({len(images):,})", images)]
    )
    means = {"mean_pixel": sum(int(part.sum()) for part in generated) / (n * images[0].size)} if n else {}
    found = {"images": n, "shards": len(made), "mean_pixel_real": float(images.mean()), **means}
    outputs.metrics(Path("metrics/generate.json"), found | ceiling(source))


if __name__ == "__main__":
    stage.run("generate", main, needs, parallel=True)
