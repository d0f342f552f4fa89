"""What a machine computes with: which precision is faster, a processor's name, and memory that is used again."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.engine import arithmetic
from tests.toys import COMPUTE


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """told(precision, **changes) -> what is said of a precision, in a store of its own."""
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path))

    def of(precision: str, device: str = "cpu") -> str:
        arithmetic.advise(COMPUTE.model_copy(update={"precision": precision, "device": device}))
        return capsys.readouterr().err

    return of


def takes(monkeypatch, **seconds: float) -> list[str]:
    """A step takes these seconds; returns the precisions that were measured, so far."""
    measured = []

    def step(compute):
        measured.append(compute.precision)
        return seconds[compute.precision]

    monkeypatch.setattr(arithmetic, "step_seconds", step)
    return measured


SLOWER = (
    "warning: fp32 is {} times as fast as bf16 on this processor; to use fp32: leaven run -S compute.precision=fp32\n"
)
FASTER = "bf16 is {} times as fast as fp32 on this processor; to use bf16: leaven run -S compute.precision=bf16\n"


@pytest.mark.parametrize(
    ("bf16", "of_bf16", "of_fp32"),
    [(1.9, SLOWER.format(1.9), ""), (1.2, "", ""), (0.9, "", ""), (0.4, "", FASTER.format(2.5))],
)
def test_the_notably_faster_precision_is_proposed_once_with_its_command(bf16, of_bf16, of_fp32, told, monkeypatch):
    measured = takes(monkeypatch, fp32=1.0, bf16=bf16)
    assert [told("bf16"), told("fp32")] == [of_bf16, of_fp32]
    assert len(measured) == 4
    assert [told("bf16"), told("fp32")] == ["", ""]
    assert len(measured) == 4  # the store remembers


def test_of_several_processes_the_first_alone_asks(told, monkeypatch):
    measured = takes(monkeypatch, fp32=1.0, bf16=0.1)
    monkeypatch.setenv("RANK", "1")
    assert told("fp32") == ""
    assert not measured


@pytest.mark.parametrize("has", [True, False])
def test_a_gpu_is_asked_for_bf16_and_not_measured(has, told, monkeypatch):
    measured = takes(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "toy")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    use = "to use {0}: leaven run -S compute.precision={0}\n"
    assert told("fp32", "cuda") == (f"this GPU has bf16; {use.format('bf16')}" if has else "")
    assert told("bf16", "cuda") == ("" if has else f"warning: this GPU has no bf16; {use.format('fp32')}")
    assert not measured


def test_preparing_measures_nothing(monkeypatch):
    measured = takes(monkeypatch, fp32=1.0, bf16=9.0)
    arithmetic.prepare(COMPUTE.model_copy(update={"precision": "bf16"}))
    assert not measured


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_takes_some_time_and_draws_nothing(precision):
    before = torch.get_rng_state()
    # between ten teraflops and a tenth of a gigaflop
    assert (
        12 * 2 * 14**2 * 9 * 32**2 / 1e13
        < arithmetic.step_seconds(COMPUTE.model_copy(update={"precision": precision}))
        < 1
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_a_processors_make_and_instructions_decide_its_bits_and_its_cores_do_not(monkeypatch):
    def named(**changes):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: here | changes)
        return arithmetic.facts(COMPUTE)["hardware"]

    here = torch.cpu.get_capabilities()
    alone = named()
    assert named(num_logical_cores=1000) == alone
    others = [named(cpu_name="another"), named(avx512_fp16=not here.get("avx512_fp16")), named(l2_cache_size=7)]
    assert len({alone, *others}) == 4
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card 1")
    beside = arithmetic.facts(COMPUTE.model_copy(update={"device": "cuda"}))["hardware"]
    assert "Card 1" in beside
    assert others[2] in beside  # the processor draws noise and solves probes for the card


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
