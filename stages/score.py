"""Generated images -> a score of each -> data/generated/scores/, sealed; or none (inflation.score)."""

from pathlib import Path
from types import SimpleNamespace

from pipeline.core import files, outputs, store
from pipeline.run import machine, stage

SHOWN = 32
RANKS = 1e9  # bytes of distances and ranks at once


def needs(params: SimpleNamespace) -> machine.Needs:
    if params.inflation.score == "none":
        return machine.Needs(params.outs)
    from pipeline.data import shards

    real, image = machine.images(Path("data/real"), shards.TRAIN)
    memory = 3 * real * image + (RANKS if params.inflation.score == "coverage" else 0)
    return machine.Needs(params.outs, memory=memory, device=params.compute.device)


def main(params: SimpleNamespace) -> None:
    if params.inflation.score != "none":
        score(params)
    else:  # without torch: every run passes here
        files.assemble(Path("data/generated/scores"), {}, lambda folder: store.seal(folder, [], {"n": 0}))
        outputs.contact_sheet(Path("plots/scores.png"), [])
        outputs.metrics(Path("metrics/score.json"), {"scored": 0})


def score(params: SimpleNamespace) -> None:
    import numpy as np

    from pipeline.core import sources
    from pipeline.data import scores, shards
    from pipeline.engine import arithmetic
    from pipeline.evaluation import score as measures
    from pipeline.training import stored

    arithmetic.prepare(params.compute)
    manifest = store.verify(Path("data/generated/inflation"), "generate")
    real, _ = shards.read_real(Path("data/real")).part(shards.TRAIN)
    generated = shards.map_generated(Path("data/generated/inflation"))
    decided = {
        "real": stored.digest(real),
        "generated": manifest["files"],
        "n": manifest["n"],
        "kind": params.inflation.score,
        "params": [params.quality.steps, params.quality.seed],
        "code": sources.digest("evaluation/score"),
        "arithmetic": arithmetic.facts(params.compute),
    }

    def make(folder: Path, fingerprint: str) -> list[str]:
        found, facts = getattr(measures, params.inflation.score)(real, generated, params.quality, params.compute)
        scores.write(folder, found)
        outputs.metrics(folder / "score.json", {"scored": len(found), **facts})
        return [scores.FILE, "score.json"]

    made = store.once("scores", decided, make) if manifest["n"] else None
    sealed = scores.facts(params.inflation.score, manifest, store.verify(Path("data/real"), "prepare"))
    there = {scores.FILE: made / scores.FILE} if made else {}
    files.assemble(scores.FOLDER, there, lambda folder: store.seal(folder, sorted(there), sealed))
    outputs.metrics(Path("metrics/score.json"), files.read_json(made / "score.json") if made else {"scored": 0})
    sheets = []
    if made:
        order = np.argsort(-shards.read_array(made / scores.FILE, "score"), kind="stable")
        for words, rows in (("highest scores", order[:SHOWN]), ("lowest scores", order[::-1][:SHOWN])):
            shown = np.concatenate(shards.of_parts(generated, np.sort(rows)))
            sheets.append((words, shown[np.argsort(np.argsort(rows))]))
    outputs.contact_sheet(Path("plots/scores.png"), sheets, rows=2)


if __name__ == "__main__":
    stage.run("score", main, needs)
