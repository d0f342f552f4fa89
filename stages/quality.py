"""Generated images beside real ones that no generator saw -> metrics/ and a picture: how good, varied, copied."""

from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files, outputs, sources, store
from pipeline.core.errors import UserError
from pipeline.data import scores, shards
from pipeline.engine import arithmetic
from pipeline.evaluation import quality
from pipeline.run import machine, stage
from pipeline.training import stored

REAL, GENERATED = Path("data/real"), Path("data/generated/inflation")


def needs(params: SimpleNamespace) -> machine.Needs:
    _, image = machine.images(REAL, shards.VALIDATION)
    return machine.Needs(params.outs, memory=2 * params.quality.images * image, device=params.compute.device)


def main(params: SimpleNamespace) -> None:
    arithmetic.prepare(params.compute)
    generated = store.verify(GENERATED, "generate")
    real = store.verify(REAL, "prepare")
    kept = scores.kept(params.inflation, generated, real)
    rows = scores.judged(kept, params.quality.images, params.quality.seed)
    inception = params.quality.inception
    if inception is not None and not Path(inception).is_file():
        raise UserError("not found", inception, "set quality.inception to the weights, or to null")
    decided = {
        "real": real["files"],
        "generated": generated,
        "rows": stored.digest(rows),
        "taking_part": scores.told(params.inflation, generated["n"], kept),
        "params": params.quality.model_dump(),
        "inception": inception and files.sha256(Path(inception)),
        "code": sources.of_stage(__file__, "evaluation/quality"),
        "arithmetic": arithmetic.facts(params.compute),
    }

    def make(folder: Path, fingerprint: str) -> list[str]:
        images = shards.read_generated(GENERATED, rows=rows)
        judged = quality.judge(images, generated["source"], shards.read_real(REAL), params.quality, params.compute)
        outputs.metrics(folder / "quality.json", judged.metrics)
        made_of = {"real_sha256": decided["real"][shards.FILE], "generated_fingerprint": generated.get("fingerprint")}
        made_of |= {"taking_part": decided["taking_part"]}
        files.write_json(folder / "quality.protocol.json", judged.protocol | made_of)
        outputs.pairs(folder / "closest.png", judged.pairs)
        return [Path(out).name for out in params.outs]

    made = store.once("quality", decided, make)
    for out in params.outs:
        files.copy(made / Path(out).name, out)


if __name__ == "__main__":
    stage.run("quality", main, needs)
