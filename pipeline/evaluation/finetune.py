"""Fine-tuning: the whole network trained on few labels, beside the same training of the untrained encoder.

The number of steps is given, so that nothing is chosen: validation and test images are looked at once, after the last.
The linear layer sees features standardised over the batch, as MAE's linear probe does (He et al., CVPR 2022): those of
a masked autoencoder are nearly alike, and a layer that learns from nothing would begin by telling them apart.
"""

from pipeline.augment import recipes
from pipeline.core.errors import UserError
from pipeline.data import shards
from pipeline.evaluation import label_free, linear_eval
from pipeline.measures import probes
from pipeline.networks import backbones
from pipeline.params.schema import Compute, FineTune, Training
from pipeline.training import classifier


def judge(
    encoder: backbones.Encoder, real: shards.RealSet, share: float, params: FineTune, compute: Compute
) -> tuple[dict[str, float], dict]:
    """Metrics of an encoder trained on with `share` of the fixed labelled images, and their protocol."""
    backbones.refuse_other_channels(encoder, real.images.shape[3])
    rows, held_out = linear_eval.share_of(real, share), linear_eval.held_out(real)
    if not len(real.rows(shards.VALIDATION)):
        del held_out["validation"]
    for name, found in {"labelled": rows, **held_out}.items():
        if len(found) < 2:
            raise UserError(f"{len(found)} {name} images have a label", "data/real", "set finetune.labels to []")
    schedule = Training(**{name: getattr(params, name) for name in Training.model_fields})
    recipe = recipes.recipe(label_free.at_strength(encoder, params.strength), 0)
    labelled, classes = (real.images[rows], real.labels[rows]), len(real.classes)

    def accuracies(what: str, start: backbones.Encoder) -> dict[str, float]:
        words, rate = f"fine-tuning {what}, {len(rows):,} labels", params.head_lr
        model = classifier.fit(words, start, schedule, labelled, classes, recipe, compute, rate, standardise=True)
        return {
            name: probes.accuracy(probes.features(model, real.images[r], compute).argmax(dim=1), real.labels[r])
            for name, r in held_out.items()
        }

    before = backbones.untrained(encoder).to(compute.device)
    tuned, scratch = accuracies("the encoder", encoder), accuracies("from scratch", before)
    n = len(held_out["test"])
    low, high = probes.wilson(round(tuned["test"] * n / 100), n)
    metrics = {"top1": tuned["test"], "top1_low": low, "top1_high": high, "from_scratch": scratch["test"]}
    if "validation" in held_out:
        metrics |= {"validation_top1": tuned["validation"], "validation_from_scratch": scratch["validation"]}
    metrics["labels"] = len(rows)
    protocol = {
        "labels": f"the first {len(rows):,} of {len(real.labelled_rows()):,} fixed ones, {share:g} asked for",
        "training": "all weights, a linear layer of standardised features, cross-entropy, AdamW, "
        f"{params.steps:,} steps of {min(params.batch_size, len(rows))} images; the last step's weights",
        "from_scratch": "the same training, from fresh weights of the same network",
        "test_images": n,
        "validation_images": len(held_out.get("validation", ())),
        "top1_interval": "Wilson, 95 %",
        **linear_eval.made_of(encoder.card),
    }
    return metrics, protocol
