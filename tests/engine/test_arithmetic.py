"""What a machine computes with: the warning about bf16, a processor's name, and memory that is used again."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.engine import arithmetic
from tests.toys import COMPUTE


@pytest.mark.parametrize(("seconds", "warned"), [(1.9, True), (1.3, True), (1.2, False), (0.4, False)])
def test_bf16_that_is_notably_slower_here_raises_a_warning(seconds, warned, monkeypatch, capsys):
    monkeypatch.setattr(arithmetic, "product_seconds", {torch.bfloat16: seconds, torch.float32: 1.0}.get)
    arithmetic.prepare(COMPUTE.model_copy(update={"precision": "bf16"}))
    said = f"warning: bf16 takes {seconds} times fp32's time on this processor; see compute.precision\n"
    assert capsys.readouterr().err == (said if warned else "")
    arithmetic.prepare(COMPUTE)
    assert capsys.readouterr().err == ""


def test_a_product_takes_some_time():
    # between ten teraflops and a thirtieth of a gigaflop
    assert 2 * 256**3 / 1e13 < arithmetic.product_seconds(torch.float32) < 1


def test_a_processors_make_and_instructions_decide_its_bits_and_its_cores_do_not(monkeypatch):
    def named(**changes):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: here | changes)
        return arithmetic.facts(COMPUTE)["hardware"]

    here = torch.cpu.get_capabilities()
    alone = named()
    assert named(num_logical_cores=1000) == alone
    others = [named(cpu_name="another"), named(avx512_fp16=not here.get("avx512_fp16")), named(l2_cache_size=7)]
    assert len({alone, *others}) == 4


_FAULTS = """
import resource, torch
from pipeline.engine import arithmetic
from tests.toys import COMPUTE

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        x + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

x = torch.rand(10_000_000)
faults(3)
before = faults(10)
arithmetic.prepare(COMPUTE)
faults(3)
print(before, faults(10))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again_without_a_fault_a_page():
    words, root = [sys.executable, "-c", _FAULTS], Path(__file__).parents[2]
    done = subprocess.run(words, cwd=root, stdout=-1, text=True, check=True)
    before, after = map(int, done.stdout.split())
    pages = 40_000_000 // os.sysconf("SC_PAGESIZE")
    if before < 9 * pages:
        pytest.skip("this machine does without the setting: huge pages, or another allocator")
    assert after < 3 * pages  # a small block may lie in the way: then the heap grows by a tensor, once
