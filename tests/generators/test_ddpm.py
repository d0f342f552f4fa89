import json
import math
import pickle
import shutil
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from diffusers.models.attention_processor import Attention

from pipeline.core.errors import DIVERGED, UserError
from pipeline.generators import ddpm, diffusers_folder, pretrained
from tests.toys import ddpm_params

ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # the paper's linear schedule


def params(**changes):
    return ddpm_params(**{"attention": [-1]} | changes)


def images(n=9, size=8, channels=1):
    return torch.randint(0, 256, (n, size, size, channels), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture(scope="module")
def model():
    """A small UNet with all weights away from their initial zeros."""
    built = ddpm.unet(params(), 8, 1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return built.eval()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    ddpm.save(model, ddpm.scheduler(params()), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def output(model):
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(x, torch.tensor([3, 700])).sample


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_the_mean_squared_error_to_the_papers_target(prediction):
    """What the network sees gives the noise back by equation 4; from it follow the targets and the loss."""
    training, seen = ddpm.Training(params(prediction=prediction), images()), []

    def network(noisy, t):
        seen.append((noisy.double().numpy(), t.numpy()))
        return SimpleNamespace(sample=0.5 * noisy)

    training.unet = network
    x = training.batch(0)
    loss = training.loss(x, 0)["loss"].item()
    noisy, t = seen[0]
    signal, noise = (np.sqrt(a)[t][:, None, None, None] for a in (ALPHA_BAR, 1 - ALPHA_BAR))
    epsilon = (noisy - signal * x.double().numpy()) / noise
    assert abs(epsilon.mean()) < 0.2
    assert abs(epsilon.std() - 1) < 0.15
    target = {
        "epsilon": epsilon,
        "v_prediction": signal * epsilon - noise * x.double().numpy(),  # Salimans and Ho 2022
        "sample": x.double().numpy(),
    }[prediction]
    assert loss == pytest.approx(((0.5 * noisy - target) ** 2).mean(), rel=1e-3)


def test_noise_and_times_are_new_each_step_uniform_and_the_same_when_repeated():
    training, seen = ddpm.Training(params(batch_size=8), images()), []
    training.unet = lambda noisy, t: seen.append((noisy, t)) or SimpleNamespace(sample=noisy)
    x = training.batch(0)
    for step in [*range(100), 7]:
        training.loss(x, step)
    assert torch.equal(seen[7][0], seen[100][0])
    assert torch.equal(seen[7][1], seen[100][1])
    assert not torch.equal(seen[7][0], seen[8][0])
    times = torch.cat([t for _, t in seen[:100]])
    assert np.bincount(times // 250, minlength=4).tolist() == pytest.approx([200] * 4, abs=50)
    assert times.max() <= 999


@pytest.mark.parametrize(("mean", "std"), [(-1.5, 1.0), (0.0, 0.5)])
def test_logit_normal_times_have_the_quantiles_of_that_distribution_in_every_step(mean, std):
    how = {"timestep_sampling": "logit_normal", "logit_mean": mean, "logit_std": std, "timesteps": 100_000}
    training, n = ddpm.Training(params(**how), images(2)), 40
    steps = [training.timesteps(n, training._generator("ddpm-noise", step)) for step in (0, 1)]
    edges = [100_000 / (1 + math.exp(-NormalDist(mean, std).inv_cdf(k / n))) for k in range(1, n)]
    for t in steps:
        assert [sum(float(v) < edge for v in t) for edge in edges] == list(range(1, n))  # one in each n-th
        assert t.tolist() != sorted(t.tolist())
    assert not torch.equal(*steps)


def test_no_time_is_past_the_last_however_wide_the_logits():
    how = {"timestep_sampling": "logit_normal", "logit_mean": 10.0, "logit_std": 10.0}
    training = ddpm.Training(params(**how), images(2))
    t = training.timesteps(1000, training._generator("ddpm-noise", 0))
    assert t.max() == 999
    assert t.min() >= 0


def test_dropout_is_a_function_of_the_step_and_differs_among_processes(monkeypatch):
    training = ddpm.Training(params(dropout=0.5), images())
    training.unet.train()
    x = training.batch(0)
    first, again = (training.loss(x, 3)["loss"].item() for _ in range(2))
    with monkeypatch.context() as another:
        another.setattr(ddpm.distributed, "first", lambda: False)
        assert training.loss(x, 3)["loss"].item() != first
    training.unet.eval()
    assert first == again != training.loss(x, 3)["loss"].item()


def test_each_pass_over_the_data_holds_every_image_once_between_minus_one_and_one():
    data = images(9)
    training = ddpm.Training(params(batch_size=6), data)
    known = [tuple(image.flatten().tolist()) for image in data]
    x = torch.cat([training.batch(step) for step in range(6)])  # 36 images, four passes, batches straddle them
    assert x.shape == (36, 1, 8, 8)
    pixels = ((x.double() + 1) * 127.5).round().long()
    assert torch.allclose(x.double(), pixels.double() / 127.5 - 1, atol=1e-6)
    order = [known.index(tuple(image.flatten().tolist())) for image in pixels]
    passes = [order[i : i + 9] for i in range(0, 36, 9)]
    assert all(sorted(one) == list(range(9)) for one in passes)
    assert len(set(map(tuple, passes))) == 4


def test_about_half_of_the_images_are_mirrored_when_asked():
    data = images(9)
    plain, flipped = (ddpm.Training(params(flip=flip), data) for flip in (False, True))
    mirrored = 0
    for step in range(20):
        for one, other in zip(plain.batch(step), flipped.batch(step), strict=True):
            same, turned = torch.equal(one, other), torch.equal(one.flip(2), other)
            assert same != turned
            mirrored += turned
    assert 40 <= mirrored <= 80


def test_the_average_starts_at_the_first_weights_and_ends_in_the_samples_network():
    """diffusers' warm-up: at the k-th step, from 1 on, the decay is 1 - k^(-3/4), at most ema_decay."""
    training = ddpm.Training(params(ema_decay=0.5), images())
    weight = training.unet.conv_in.weight
    average = None
    for step in range(4):
        with torch.no_grad():
            weight.add_(step + 1.0)
        training.task.after_step(step, 0.0)
        decay = min(0.5, 1 - (step + 1) ** -0.75)
        average = weight.detach().double() if average is None else decay * average + (1 - decay) * weight.detach()
    last = weight.detach().clone()
    averaged = training.averaged()
    assert not averaged.training
    assert torch.allclose(averaged.conv_in.weight.double(), average, atol=1e-5)
    assert not torch.allclose(averaged.conv_in.weight, last, atol=0.1)


def test_the_network_is_a_function_of_the_seed_and_of_what_is_asked():
    first, again, other = (ddpm.unet(params(seed=seed), 8, 3) for seed in (0, 0, 1))
    assert torch.equal(first.conv_in.weight, again.conv_in.weight)
    assert not torch.equal(first.conv_in.weight, other.conv_in.weight)
    assert (first.config.in_channels, first.config.out_channels, first.config.sample_size) == (3, 3, 8)
    assert any(isinstance(module, Attention) for module in first.modules())
    plain = ddpm.unet(params(attention=[]), 8, 1)
    assert not any(isinstance(module, Attention) for module in plain.modules())


@pytest.mark.parametrize(("asked", "levels"), [([-1], [2]), ([2], [2]), ([1], [1]), ([0, -1], [0, 2])])
def test_attention_is_at_the_levels_that_are_named_on_both_ways_and_in_the_middle(asked, levels):
    built = ddpm.unet(params(channels=[8, 8, 8], attention=asked), 8, 1)
    ways = (built.down_blocks, reversed(built.up_blocks))  # finest first
    for blocks in ways:
        has = [any(isinstance(module, Attention) for module in block.modules()) for block in blocks]
        assert [level for level, there in enumerate(has) if there] == levels
    assert any(isinstance(module, Attention) for module in built.mid_block.modules())


def draw(model, numbers, sampler="ddpm", steps=3, eta=0.0, clip=True, seed=0, noise=None):
    how = SimpleNamespace(steps=steps, eta=eta, clip=clip)
    return ddpm.sample(model, noise or ddpm.scheduler(params()), how, numbers, seed, sampler)


SAMPLERS = [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 1.0), ("dpmsolver++", 0.0), ("sde-dpmsolver++", 0.0)]


@pytest.mark.parametrize(("sampler", "eta"), SAMPLERS)
def test_an_image_does_not_depend_on_what_was_sampled_before_it(model, sampler, eta):
    alone = draw(model, range(4, 8), sampler, eta=eta)
    draw(model, range(4), sampler, eta=eta)
    assert torch.equal(draw(model, range(4, 8), sampler, eta=eta), alone)


@pytest.mark.parametrize(("sampler", "eta"), SAMPLERS)
def test_the_noise_of_an_image_depends_on_its_number_and_not_on_its_batch(model, sampler, eta):
    """The network's arithmetic does depend on the batch, in the last bits: so the grid is fixed."""
    together = draw(model, range(3, 7), sampler, eta=eta)
    for i in range(4):
        assert torch.allclose(draw(model, range(3 + i, 4 + i), sampler, eta=eta)[0], together[i], atol=1e-3)
    assert (together[0] - together[1]).abs().max() > 0.1
    assert (draw(model, range(3, 7), sampler, eta=eta, seed=1) - together).abs().max() > 0.1


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_the_first_timestep_is_the_last_of_training_and_the_others_are_evenly_spaced(sampler):
    for steps, expected in ((10, range(999, 0, -100)), (4, [999, 749, 499, 249]), (1, [999])):
        solver, _ = ddpm.solver(sampler, ddpm.scheduler(params()), 0.0, True)
        solver.set_timesteps(steps)
        assert solver.timesteps.tolist() == list(expected)


@pytest.mark.parametrize("sampler", ["dpmsolver++", "sde-dpmsolver++"])
def test_the_solvers_noise_levels_are_evenly_spaced_in_their_seventh_roots_and_end_at_none(sampler):
    solver, _ = ddpm.solver(sampler, ddpm.scheduler(params()), 0.0, True)
    solver.set_timesteps(10)
    trained = ((1 - ALPHA_BAR) / ALPHA_BAR) ** 0.5
    levels = np.linspace(trained[-1] ** (1 / 7), trained[0] ** (1 / 7), 10) ** 7
    assert solver.sigmas.tolist() == pytest.approx([*levels, 0.0], rel=1e-3)
    nearest = [np.abs(np.log(trained / level)).argmin() for level in levels]
    assert solver.timesteps.tolist() == pytest.approx(nearest, abs=1)
    for steps in (1, 10):
        solver.set_timesteps(steps)
        assert solver.timesteps[0] == 999


class Gaussian:
    """The exact network for independent pixels distributed as N(mean, std^2)."""

    config = SimpleNamespace(sample_size=8, in_channels=1)
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, mean, std, prediction):
        self.mean, self.variance, self.prediction = mean, std**2, prediction

    def __call__(self, x, t):
        a = float(ALPHA_BAR[int(t)])
        clean = self.mean + a**0.5 * self.variance / (a * self.variance + 1 - a) * (x - a**0.5 * self.mean)
        noise = (x - a**0.5 * clean) / (1 - a) ** 0.5
        velocity = a**0.5 * noise - (1 - a) ** 0.5 * clean
        return SimpleNamespace(sample={"epsilon": noise, "v_prediction": velocity, "sample": clean}[self.prediction])


@pytest.mark.parametrize(
    ("prediction", "clip"), [("epsilon", False), ("v_prediction", False), ("sample", False), ("epsilon", True)]
)
@pytest.mark.parametrize(
    ("sampler", "eta", "steps"),
    [
        ("ddpm", 0.0, 500),
        ("ddim", 0.0, 200),
        ("ddim", 1.0, 500),
        ("dpmsolver++", 0.0, 100),
        ("sde-dpmsolver++", 0.0, 100),
    ],
)
def test_samplers_draw_from_a_gaussian_whose_exact_network_they_are_given(sampler, eta, steps, prediction, clip):
    x = draw(
        Gaussian(0.1, 0.3, prediction),
        range(48),
        sampler,
        steps,
        eta,
        clip,
        noise=ddpm.scheduler(params(prediction=prediction)),
    )
    assert x.mean().item() == pytest.approx(0.1, abs=0.02)  # of 3072 values, standard error 0.005
    assert x.std().item() == pytest.approx(0.3, abs=0.02)  # the first-order ones are a few percent too narrow
    assert abs(np.corrcoef(x.flatten(1))[0, 1:].mean()) < 0.1


@pytest.mark.parametrize(("sampler", "eta"), SAMPLERS)
def test_clipping_keeps_samples_between_minus_one_and_one(sampler, eta):
    bright = Gaussian(0.9, 0.3, "epsilon")
    assert draw(bright, range(16), sampler, 20, eta, clip=True).abs().max() <= 1.001
    assert draw(bright, range(16), sampler, 20, eta, clip=False).max() > 1.2


@pytest.mark.fault(16)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_stop_the_run_and_the_first_is_named(value):
    def network(x, t):
        made = torch.zeros_like(x)
        made[2:, 0, 3, 4] = value
        return SimpleNamespace(sample=made)

    network.config, network.device, network.dtype = Gaussian.config, Gaussian.device, Gaussian.dtype
    with pytest.raises(UserError, match="image 12 has values that are not finite") as caught:
        draw(network, range(10, 14), "ddim", clip=False)
    assert caught.value.code == DIVERGED
    assert "\n" not in str(caught.value)


def test_diffusers_reads_what_is_saved_and_computes_the_same(saved, model):
    pipeline = DDPMPipeline.from_pretrained(saved, use_safetensors=True)
    assert torch.equal(output(pipeline.unet.eval()), output(model))
    assert np.allclose(pipeline.scheduler.alphas_cumprod, ALPHA_BAR, rtol=1e-4)


def test_the_named_files_are_all_of_the_folder_and_the_same_when_saved_again(saved, model, tmp_path):
    names = ddpm.save(model, ddpm.scheduler(params()), tmp_path)
    assert sorted(str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()) == sorted(names)
    assert all((saved / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_the_pipelines_layout_and_the_flat_one_load_alike(folder, model, tmp_path):
    noise = ddpm.scheduler(params(prediction="v_prediction", beta_schedule="squaredcos_cap_v2"))
    ddpm.save(model, noise, folder)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in [*(folder / "unet").iterdir(), *(folder / "scheduler").iterdir()]:
        shutil.copy(path, flat)
    for place in (folder, flat):
        loaded, forward = ddpm.load(place)
        assert not loaded.training
        assert torch.equal(output(loaded), output(model))
        assert forward.config.prediction_type == "v_prediction"
        assert torch.equal(forward.alphas_cumprod, noise.alphas_cumprod)
    assert diffusers_folder.paths_of(flat)[diffusers_folder.WEIGHTS].parent == flat


def test_another_schedulers_configuration_gives_its_betas(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "PNDMScheduler", "beta_start": 0.001, "beta_end": 0.01}))
    _, forward = ddpm.load(folder)
    assert forward.betas[[0, -1]].tolist() == pytest.approx([0.001, 0.01])


def changed(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


UNET, SCHEDULER, WEIGHTS = diffusers_folder.UNET, diffusers_folder.SCHEDULER, diffusers_folder.WEIGHTS


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        (UNET, {"class_embed_type": "timestep"}, "class-conditional"),
        (UNET, {"num_class_embeds": 10}, "class-conditional"),
        (UNET, {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        (UNET, {"_class_name": None}, "unconditional"),
        (SCHEDULER, {"_class_name": "EulerDiscreteScheduler"}, "EulerDiscreteScheduler"),
        (UNET, {"out_channels": 2}, "variances"),
        (UNET, {"norm_num_groups": 3}, "diffusers"),
        (UNET, {"norm_num_groups": 0}, "diffusers"),
        (UNET, {"block_out_channels": None}, "levels is None, not a number from 1 to 10"),
        (UNET, {"block_out_channels": 16}, "levels is 16, not a number from 1 to 10"),
        (UNET, {"block_out_channels": []}, "levels is 0, not a number from 1 to 10"),
        (UNET, {"down_block_types": ["Nope", "Nope"]}, "diffusers"),
        (SCHEDULER, {"beta_schedule": "nope"}, "diffusers"),
        (SCHEDULER, {"num_train_timesteps": -1}, "is -1, not a number from 1 to 100,000"),
        (SCHEDULER, {"num_train_timesteps": True}, "is True, not a number"),
        (SCHEDULER, {"num_train_timesteps": 10**9}, "is 1000000000, not a number"),
        (SCHEDULER, {"variance_type": "learned"}, "wants variances of the network"),
        (UNET, {"layers_per_block": 10**9}, "layers_per_block is 1000000000, not a number"),
        (UNET, {"block_out_channels": [8] * 3000}, "levels is 3000, not a number"),
        (UNET, {"a note": "x" * 200_000}, "more than 100,000 bytes"),
        (SCHEDULER, {"prediction_type": "flow"}, "prediction_type flow is none of epsilon, sample, v_prediction"),
    ],
)
def test_a_configuration_that_cannot_be_sampled_is_refused(folder, name, changes, says):
    changed(folder, name, **changes)
    with pytest.raises(UserError, match=says) as caught:
        ddpm.load(folder)
    assert caught.value.code == 2
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (UNET, {"freq_shift": "a"}),
        (UNET, {"downsample_padding": 3}),
        (UNET, {"sample_size": 9}),
        (SCHEDULER, {"trained_betas": [0.1]}),
        (SCHEDULER, {"clip_sample_range": "a"}),
    ],
)
def test_what_can_be_built_and_not_be_sampled_is_refused_before_it_is_kept(folder, name, changes):
    changed(folder, name, **changes)
    try:
        built = ddpm.load(folder)
    except UserError:
        return  # diffusers looks at more in some releases than in others
    with pytest.raises(UserError, match="diffusers cannot sample with it") as caught:
        pretrained.try_out(*built, "given")
    assert caught.value.code == 2
    assert len(str(caught.value).splitlines()) == 1


def test_what_can_be_sampled_is_tried_in_one_step(folder):
    model, noise = ddpm.load(folder)
    seen = []
    model.register_forward_hook(lambda module, given, made: seen.append(given[0].shape))
    pretrained.try_out(model, noise, "given")
    assert seen == [(1, 1, 8, 8)]


@pytest.mark.parametrize("name", [UNET, SCHEDULER])
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff"])
def test_a_configuration_that_is_no_json_object_is_refused(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=name.split("/")[1]):
        ddpm.load(folder)


@pytest.mark.fault(22)
def test_weights_that_do_not_fit_or_are_damaged_are_refused_by_name(folder):
    for change in (
        lambda: changed(folder, UNET, layers_per_block=2),
        lambda: changed(folder, UNET, layers_per_block=1, block_out_channels=[4, 12]),
        lambda: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]),
        lambda: (folder / WEIGHTS).write_bytes(b"PK"),
    ):
        change()
        with pytest.raises(UserError, match="weights do not fit") as caught:
            ddpm.load(folder)
        assert str(folder / WEIGHTS) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [UNET, SCHEDULER, WEIGHTS])
def test_a_missing_file_is_refused_by_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match="not found") as caught:
        ddpm.load(folder)
    assert str(folder / name) in str(caught.value)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.marker}",)


@pytest.mark.fault(21)
def test_pickled_weights_are_never_opened(folder, tmp_path):
    (folder / WEIGHTS).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "marker")))
    with pytest.raises(UserError, match=r"pickled \.bin weights are not read"):
        ddpm.load(folder)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("size", "channels", "fits"),
    [
        ((8, 8), 1, True),
        ((16, 16), 1, True),
        ((2, 2), 1, True),
        ((8, 8), 3, False),
        ((17, 17), 1, False),
        ((1, 1), 1, False),
        ((8, 9), 1, False),
    ],
)
def test_only_a_generator_of_the_datas_channels_and_about_its_size_fits(model, size, channels, fits):
    if fits:
        ddpm.fit_to(size, channels, model, "here")
    else:
        with pytest.raises(UserError, match=r"^here: makes images of") as caught:
            ddpm.fit_to(size, channels, model, "here")
        assert caught.value.code == 2


def test_a_network_without_a_size_does_not_fit():
    with pytest.raises(UserError, match="None pixels"):
        ddpm.fit_to((8, 8), 1, SimpleNamespace(config=SimpleNamespace(sample_size=None, in_channels=1)), "here")


def test_pixels_are_rounded_not_cut_and_clamped():
    grey = torch.tensor([0.0, 1.0, 254.0, 255.0, 99.4, 99.6, 200.5001])
    made = ddpm.to_uint8((grey / 127.5 - 1).reshape(7, 1, 1, 1), 1)
    assert made.dtype == np.uint8
    assert made.flatten().tolist() == [0, 1, 254, 255, 99, 100, 201]
    assert ddpm.to_uint8(torch.tensor([-7.0, 1.01]).reshape(2, 1, 1, 1), 1).flatten().tolist() == [0, 255]


def test_pixels_come_back_through_the_range_of_training():
    data = images(4, 8, 3)
    training = ddpm.Training(params(batch_size=4), data)
    made = ddpm.to_uint8(training.batch(0), 8)
    assert sorted(image.tobytes() for image in made) == sorted(image.numpy().tobytes() for image in data)


def test_resizing_keeps_what_is_smooth_and_averages_what_is_fine():
    ramp = torch.linspace(-0.5, 0.5, 32).expand(1, 3, 32, 32)
    made = ddpm.to_uint8(ramp, 16)
    assert made.shape == (1, 16, 16, 3)
    expected = (ramp[0, 0, 0].reshape(16, 2).mean(dim=1) + 1) * 127.5
    assert np.allclose(made[0, 5, 1:-1, 0], expected[1:-1], atol=1)
    stripes = ((torch.arange(32) + 1) // 2 % 2 * 2.0 - 1).expand(1, 1, 32, 32)  # black, white, white, black
    made = ddpm.to_uint8(stripes, 8)  # without antialiasing: the two white ones of each four
    assert np.abs(made[0, 2:-2, 2:-2].astype(int) - 127.5).max() <= 20


def test_a_saved_networks_class_is_diffusers_own(saved):
    assert isinstance(ddpm.load(saved)[0], UNet2DModel)
