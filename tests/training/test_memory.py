"""What trainings take of a GPU at least, against what autograd keeps of their losses on a CPU."""

from types import SimpleNamespace

import pytest
import torch

from pipeline.data import mixture
from pipeline.engine import footprint
from pipeline.generators import ddpm, gan
from pipeline.run import machine
from pipeline.training import encoder_memory, generator_memory
from stages import generator, pretrain
from tests.methods import contract
from tests.toys import COMPUTE, ddpm_params, gan_params, pretrain_params

IMAGE = (contract.SIZE, contract.SIZE, 1)
N = 16


def weights(network: torch.nn.Module) -> int:
    return sum(4 * weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("name", ["simclr", "moco", "swav", "mixed_ae", "joint_gan"])
def test_an_encoders_step_takes_what_is_counted_and_not_twice_as_much(name):
    method, views = contract.build(name), contract.views(N, name=name)
    backbone = contract.BACKBONES.get(name, contract.RESNET)
    params = pretrain_params(method=name, backbone=backbone.model_dump(), batch_size=4 * N, accumulate=4)
    least = encoder_memory.of_step(params, contract.METHODS[name], IMAGE, COMPUTE)
    counted = method.encoder if name == "joint_gan" else method  # its networks of the game come on top
    fixed = footprint.step(counted, 1, 0, COMPUTE)
    found = footprint.kept(method, lambda: method.loss(views, 0))
    assert 0 < least - fixed <= found
    assert found < (2 if name != "mixed_ae" else 8) * (least - fixed)  # its decoder is not counted


@pytest.mark.parametrize(("optimizer", "states"), [("sgd", 1), ("adamw", 2)])
def test_an_encoders_optimizer_keeps_its_states(optimizer, states):
    params = pretrain_params(backbone=contract.RESNET.model_dump(), batch_size=N)
    with_sgd = encoder_memory.of_step(params, contract.METHODS["simclr"], IMAGE, COMPUTE)
    found = encoder_memory.of_step(
        params.model_copy(update={"optimizer": optimizer}), contract.METHODS["simclr"], IMAGE, COMPUTE
    )
    assert found - with_sgd == (states - 1) * weights(contract.build("simclr"))


def test_a_diffusion_models_step_takes_what_is_counted():
    training = ddpm.Training(ddpm_params(batch_size=N), torch.zeros(20, 8, 8, 1, dtype=torch.uint8))
    found = footprint.kept(training.unet, lambda: training.loss(training.batch(0), 0))
    least = generator_memory.of_step("ddpm", ddpm_params(batch_size=N), (8, 8, 1), COMPUTE)
    assert least - 5 * weights(training.unet) <= found < 1.2 * (least - 5 * weights(training.unet))


def test_a_gans_step_takes_what_is_counted():
    training = gan.Training(gan_params(batch_size=N), torch.zeros(20, 8, 8, 1, dtype=torch.uint8))
    found = footprint.kept(training.gan, lambda: training.generator_loss(training.batch(0), 0))
    least = generator_memory.of_step("gan", gan_params(batch_size=N), (8, 8, 1), COMPUTE)
    assert 0 < least - 5 * weights(training.gan) <= found < 2 * (least - 5 * weights(training.gan))


def test_half_the_batch_for_each_of_two_processes(monkeypatch):
    def least(n):
        return generator_memory.of_step("ddpm", ddpm_params(batch_size=n), (8, 8, 1), COMPUTE)

    alone = least(N // 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert least(N) == alone


def test_on_a_gpu_stages_ask_for_a_step_and_for_what_must_lie_there_and_on_a_cpu_nothing_is_counted(monkeypatch):
    monkeypatch.setattr(machine, "pictured", lambda *_: (100, IMAGE))
    cuda, images = COMPUTE.model_copy(update={"device": "cuda"}), 100 * contract.SIZE**2
    training = SimpleNamespace(
        outs=(),
        compute=cuda,
        pretrain=pretrain_params(backbone=contract.RESNET.model_dump()),
        method_params=contract.METHODS["simclr"],
        generator=SimpleNamespace(source="train", kind="ddpm"),
        inflation=mixture.alone(0),
        kind_params=ddpm_params(),
    )
    step = encoder_memory.of_step(training.pretrain, training.method_params, IMAGE, cuda)
    assert pretrain.needs(training).gpu == step  # its images may stay in memory
    assert generator.needs(training).gpu == images + generator_memory.of_step("ddpm", ddpm_params(), IMAGE, cuda)
    training.compute = COMPUTE
    monkeypatch.setattr(footprint, "kept", lambda *_: 1 / 0)
    assert pretrain.needs(training).gpu == generator.needs(training).gpu == 0
