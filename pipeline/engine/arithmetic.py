"""What a machine computes with: threads, precision, determinism, memory, and the facts that decide a result's bits."""

import ctypes
import os
import platform
import timeit
from importlib.metadata import version

import torch
import torch.nn.functional as F

from pipeline.core import devices, processes, store
from pipeline.core.progress import log
from pipeline.engine import distributed
from pipeline.params.schema import Compute

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_NOTABLY = 1.25  # times: a step's time varies by a tenth


def autocast(compute: Compute) -> torch.autocast:
    """The arithmetic of forward passes."""
    return torch.autocast(compute.device, torch.bfloat16, enabled=compute.precision == "bf16")


def prepare(compute: Compute) -> None:
    """Set threads, determinism and what malloc keeps; meet the job's other processes.

    To be called before any tensor. UserError if the device is not there.
    """
    if fault := devices.lacking(compute.device):
        raise fault
    _keep_freed_memory()
    torch.set_num_threads(compute.threads)
    if compute.device == "cuda":  # on a CPU all is deterministic anyway, and asking costs an import of seconds
        exact_on_gpu()
    distributed.join(compute)


def exact_on_gpu() -> None:
    """Let a GPU compute the same bits each time, or refuse; and fp32 in fp32."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what torch.empty leaves
    torch.backends.cudnn.allow_tf32 = False  # or convolutions in fp32 would have ten bits of mantissa
    torch.backends.cuda.matmul.allow_tf32 = False  # the default, unless the environment says otherwise


def advise(compute: Compute) -> None:
    """Say so where the other precision is notably the better one here; once, which a note in the store remembers.

    Nothing is changed by it: what runs is what params.yaml says. On a CPU a small step is measured.
    """
    name = f"precision-{store.fingerprint(**facts(compute))[:16]}.txt"
    if processes.rank() or (store.place() / name).exists():
        return
    other, better, why = _compared(compute)
    if better:
        log(f"{'warning: ' if other == 'fp32' else ''}{why}; to use {other}: leaven run -S compute.precision={other}")
    store.note(name, [why])


def faster(compute: Compute) -> Compute:
    """The same in the other precision, where that is notably the better one here."""
    other, better, _ = _compared(compute)
    return compute.model_copy(update={"precision": other}) if better else compute


def _compared(compute: Compute) -> tuple[str, bool, str]:
    """The other precision, whether it is notably the better one here, and why."""
    other = {"fp32": "bf16", "bf16": "fp32"}[compute.precision]
    if compute.device == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
        return other, has == (other == "bf16"), f"this GPU has {'' if has else 'no '}bf16"
    gain = step_seconds(compute) / step_seconds(compute.model_copy(update={"precision": other}))
    return other, gain > _NOTABLY, f"{other} is {gain:.1f} times as fast as {compute.precision} on this processor"


def step_seconds(compute: Compute) -> float:
    """The least time of two normalised convolutions, forwards and backwards, in the arithmetic of training.

    Instructions do not tell: Intel's for bf16 of AVX-512 without AMX work at half the rate of fp32's. Nor does a
    product of matrices: where bf16 is emulated it takes a hundred times as long, a step eight times. Nor do smaller
    images, in which calls cost more than arithmetic.
    """
    x = torch.ones(32, 48, 14, 14).to(memory_format=torch.channels_last)
    kernels = [torch.ones(48, 48, 3, 3, requires_grad=True) for _ in range(2)]

    def step() -> None:
        with autocast(compute):
            h = x
            for kernel in kernels:
                h = F.batch_norm(F.conv2d(h, kernel, padding=1), None, None, training=True).relu()
        h.float().mean().backward()

    return min(timeit.repeat(step, number=1, repeat=4))  # the first makes the kernels


def _keep_freed_memory() -> None:
    # glibc would give freed tensors back to the system, and each step would fault every page in anew
    # (docs/performance.md). Other C libraries have no mallopt, and Windows cannot open itself as a library.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: tensors of 2 MB and more in pages of 2 MB
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**30)  # bytes that may lie free at the heap's end
    libc.mallopt(_M_MMAP_MAX, 0)  # large tensors on the heap, too


def facts(compute: Compute) -> dict:
    """What decides the bits of a computation beside its code and its inputs; part of every fingerprint."""
    card = f"{torch.cuda.get_device_name()} beside " if compute.device == "cuda" else ""
    hardware = f"{card}{processor()}"  # beside a GPU, it draws noise and solves probes
    packages = ("torch", "torchvision", "diffusers", "numpy")
    return {"compute": compute.model_dump(), "hardware": hardware, "versions": {p: version(p) for p in packages}}


def processor() -> str:
    """What a CPU's bits depend on: make, instructions, caches. MKL and oneDNN choose their kernels by them.

    AVX-512 on AMD's and on Intel's are not the same bits. The number of cores is left out: compute.threads counts.
    """
    facts = {name: fact for name, fact in torch.cpu.get_capabilities().items() if not name.startswith("num_")}
    of = f"{platform.machine()} {facts.get('cpu_name', '')} {torch.backends.cpu.get_cpu_capability()}"
    return f"{of} {store.fingerprint(**facts)[:8]}"
