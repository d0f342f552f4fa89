"""How near the machine's limit a step is: its FLOPs and bytes, and what this machine does of either at most.

python -m bench.roofline      half a minute; prints a table, records nothing
"""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import pretrain, views
from pipeline.engine import arithmetic
from pipeline.generators import ddpm
from pipeline.methods import simclr
from pipeline.params import reader


def fastest(work: Callable[[], object], times: int = 9) -> float:
    """Seconds of the fastest of several runs: a limit is what the machine can do when nothing disturbs it."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def limits() -> dict[str, float]:
    """FLOP/s of large matrix products by precision, and bytes/s of copying a tensor that no cache holds."""
    a = torch.randn(2048, 2048)
    b, long = a.bfloat16(), torch.zeros(2**26)
    other = torch.empty_like(long)
    return {
        "fp32": 2 * 2048**3 / fastest(lambda: a @ a),
        "bf16": 2 * 2048**3 / fastest(lambda: b @ b),
        "bytes": 2 * long.nbytes / fastest(lambda: other.copy_(long)),
    }


def activations(network: torch.nn.Module, work: Callable[[], object]) -> int:
    """Bytes that a backward pass needs of its forward pass."""
    kept = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        work()
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    return sum(size for place, size in kept.items() if place not in parameters)


def main() -> None:
    """SimCLR's step at both widths, and the forward pass that samples."""
    compute = reader.load().compute
    arithmetic.prepare(compute)
    most = limits()
    print("limits: " + ", ".join(f"{name} {value / 1e9:.0f}" for name, value in most.items()) + " G/s")
    print(f"{'step':<32} {'GFLOP':>7} {'MB kept':>8} {'ms':>6} {'% of FLOP/s':>13} {'% of bytes/s':>13}")
    pixels = views.images()
    for width in (16, 32):
        batch = pretrain.Ours(pixels, width, compute).batch(0)
        for precision in ("bf16", "fp32"):
            method = simclr.SimCLR.build(pretrain.HEAD, pretrain.encoder(width), 0).train()
            exact = compute.model_copy(update={"precision": precision})

            def forward(method=method, batch=batch, exact=exact) -> torch.Tensor:
                with arithmetic.autocast(exact):
                    return method.loss(batch, 0)["loss"]

            with FlopCounterMode(display=False) as counter:
                forward().backward()
            flops, size = counter.get_total_flops(), activations(method, forward)
            seconds = fastest(lambda forward=forward: forward().backward())
            # What is kept is written once and read once, and so are gradients of the same size.
            shares = [flops / most[precision] / seconds, 4 * size / most["bytes"] / seconds]
            print(_line(f"SimCLR, width {width}, {precision}", flops, size, seconds, shares))
    model, x = ddpm.unet(reader.load().ddpm, 28, 1), torch.randn(128, 1, 28, 28)
    with torch.inference_mode():
        made = ddpm.for_sampling(model, compute)
        with FlopCounterMode(display=False) as counter:
            made(x.to(made.dtype), 500)
        seconds = fastest(lambda: made(x.to(made.dtype), 500))
    flops = counter.get_total_flops()
    share = flops / most[compute.precision] / seconds
    print(_line(f"UNet forward, 128 images, {compute.precision}", flops, None, seconds, [share]))


def _line(name: str, flops: float, size: float | None, seconds: float, shares: list[float]) -> str:
    kept = "" if size is None else f"{size / 1e6:.0f}"
    numbers = f"{name:<32} {flops / 1e9:7.0f} {kept:>8} {1e3 * seconds:6.0f}"
    return numbers + "".join(f" {100 * share:13.0f}" for share in shares)


if __name__ == "__main__":
    main()
