"""What a machine computes with: threads, precision, determinism, memory, and the facts that decide a result's bits."""

import ctypes
import os
import platform
import timeit
from importlib.metadata import version

import torch

from pipeline.core import store
from pipeline.core.progress import log
from pipeline.engine import distributed
from pipeline.params.schema import Compute

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_NOTABLY = 1.25  # times: a product's time varies by a tenth


def autocast(compute: Compute) -> torch.autocast:
    """The arithmetic of forward passes."""
    return torch.autocast(compute.device, torch.bfloat16, enabled=compute.precision == "bf16")


def prepare(compute: Compute) -> None:
    """Set threads, determinism and what malloc keeps; warn where bf16 does not pay; meet the job's other processes.

    To be called before any tensor.
    """
    _keep_freed_memory()
    torch.set_num_threads(compute.threads)
    if compute.device == "cuda":  # on a CPU all is deterministic anyway, and asking costs an import of seconds
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    if compute.device == "cpu" and compute.precision == "bf16":
        slower = product_seconds(torch.bfloat16) / product_seconds(torch.float32)
        if slower > _NOTABLY:
            log(f"warning: bf16 takes {slower:.1f} times fp32's time on this processor; see compute.precision")
    distributed.join(compute)


def product_seconds(dtype: torch.dtype) -> float:
    """The least time of a product of two matrices of 256 x 256, which tells what training in that arithmetic costs.

    Having bf16 instructions does not make it fast: Intel's of AVX-512 without AMX work at half the rate of fp32's.
    """
    square = torch.ones(256, 256, dtype=dtype)
    return min(timeit.repeat(lambda: square @ square, number=1, repeat=6))  # the first makes the kernel


def _keep_freed_memory() -> None:
    # glibc would give freed tensors back to the system, and each step would fault every page in anew
    # (docs/performance.md). Other C libraries have no mallopt, and Windows cannot open itself as a library.
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**30)  # bytes that may lie free at the heap's end
    libc.mallopt(_M_MMAP_MAX, 0)  # large tensors on the heap, too


def facts(compute: Compute) -> dict:
    """What decides the bits of a computation beside its code and its inputs; part of every fingerprint."""
    hardware = torch.cuda.get_device_name() if compute.device == "cuda" else processor()
    packages = ("torch", "torchvision", "diffusers", "numpy")
    return {"compute": compute.model_dump(), "hardware": hardware, "versions": {p: version(p) for p in packages}}


def processor() -> str:
    """What a CPU's bits depend on: make, instructions, caches. MKL and oneDNN choose their kernels by them.

    AVX-512 on AMD's and on Intel's are not the same bits. The number of cores is left out: compute.threads counts.
    """
    facts = {name: fact for name, fact in torch.cpu.get_capabilities().items() if not name.startswith("num_")}
    of = f"{platform.machine()} {facts.get('cpu_name', '')} {torch.backends.cpu.get_cpu_capability()}"
    return f"{of} {store.fingerprint(**facts)[:8]}"
