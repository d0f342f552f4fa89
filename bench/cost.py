"""What the parameters cost on paper: FLOPs counted on one image, times how often it is computed; bytes; shards.

python -m bench.cost adainf-cifar10                  presets, as `leaven run` takes them; none: params.yaml as it is
python -m bench.cost adainf-cifar10 --tflops 100     the sustained rate in TFLOP/s that GPU-hours are reckoned with

No rate was measured on a GPU: the 60 that stand for one are a fifth of what an A100's data sheet says of bf16.
"""

import argparse
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline import methods
from pipeline.core.shares import rounded
from pipeline.generators import ddpm
from pipeline.networks import backbones
from pipeline.params import presets, reader
from pipeline.params.data import shape
from pipeline.params.schema import Params

FEW = 4  # images, or groups of those that are mixed, that a step is counted with: batch norm wants more than one


def composed(names: list[str]) -> Params:
    """params.yaml with presets over it."""
    return reader.with_values(reader.load(), presets.compose(names), "presets")


def counted(work: Callable[[], object]) -> int:
    """FLOPs of some work, a multiplication and an addition apiece."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def stages(params: Params) -> dict[str, tuple[str, float]]:
    """Stage -> (how often what is computed, FLOPs in all)."""
    d, g, p, real = params.ddpm, params.generate, params.pretrain, params.dataset.train_size
    side, channels, _ = shape(params.dataset)
    made = rounded(params.inflation.ratio, real)
    unet, x = ddpm.unet(d, side, channels), torch.zeros(1, channels, side, side)
    with torch.no_grad():
        forward = counted(lambda: unet(x, 0))
    encoder, own = backbones.build(p.backbone, [0.5] * channels, [0.25] * channels, 0, side), getattr(params, p.method)
    method, n = methods.load(p.method).build(own, encoder, 0).train(), FEW * getattr(own, "sources", 1)
    views = [torch.rand(n, channels, side, side) for _ in method.views]
    step = counted(lambda: method.loss(views, 0)["loss"].backward()) / n
    with torch.no_grad():
        features = counted(lambda: encoder.eval()(views[0])) / n
    seen = real + params.dataset.labelled_size + params.dataset.validation_size
    trained, sampled = params.generator.source == "train", params.generator.source in ("train", "pretrained")
    return {
        "generator": (
            f"{d.steps:,} steps of {d.batch_size} images, forward and back" if trained else "not trained",
            3 * forward * d.steps * d.batch_size * trained,
        ),
        "generate": (f"{made:,} images, {g.steps} steps each", forward * made * g.steps * sampled),
        "pretrain": (f"{p.steps:,} steps of {p.batch_size} images, {len(views)} views", step * p.steps * p.batch_size),
        "linear_eval": (
            f"{seen:,} images at most and the test images, two encoders; {real:,} of them mirrored",
            features * (2 * seen + real),
        ),
    }


def main() -> None:
    """Print the reckoning."""
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description=main.__doc__)
    parser.add_argument("presets", nargs="*")
    parser.add_argument("--tflops", type=float, default=60.0, help="sustained TFLOP/s of the GPU (60)")
    asked = parser.parse_args()
    params = composed(asked.presets)
    total = 0.0
    print(f"{'stage':<12} {'PFLOP':>10} {'GPU-hours':>10}  of")
    for stage, (what, flops) in stages(params).items():
        total += flops
        print(f"{stage:<12} {flops / 1e15:10,.1f} {flops / asked.tflops / 3.6e15:10.2f}  {what}")
    print(f"{'sum':<12} {total / 1e15:10,.1f} {total / asked.tflops / 3.6e15:10.2f}  at {asked.tflops:g} TFLOP/s")
    made = rounded(params.inflation.ratio, params.dataset.train_size)
    side, channels, _ = shape(params.dataset)
    size, each = side * side * channels, params.generate.shard_size
    print(
        f"{made:,} generated images of {size:,} bytes: {made * size / 1e9:.2f} GB in {-(-made // each):,} shards of "
        f"{each * size / 1e6:.1f} MB;\nas much again in the store and, where files cannot be linked, in DVC's cache"
    )


if __name__ == "__main__":
    main()
