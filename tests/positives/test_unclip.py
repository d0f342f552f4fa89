"""Stable Diffusion's unCLIP: the pipeline itself as oracle, what a folder is held to, the set. Of random weights."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableUnCLIPImg2ImgPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline import positives
from pipeline.core import seeds
from pipeline.core.errors import DIVERGED, REFUSED, UserError
from pipeline.params import positives as kinds
from pipeline.params.schema import Positives, UnCLIP
from pipeline.positives import unclip
from tests import toys
from tests.toys import COMPUTE

SIZE, N, STEPS = 16, 6, 4


def params(**changes):
    given = {"kind": "unclip", "candidates": 2, "weight": None, "guidance": 2.0, "steps": STEPS, "eta": 0.5}
    return Positives(**given | {"clip": False, "batch_size": 2, "shard_size": 4, "seed": 0} | changes)


def own(folder, **changes):
    return UnCLIP(**{"path": str(folder), "size": None, "noise_level": 10} | changes)


def sampler(given, own, images, compute=COMPUTE):
    inputs = toys.inputs(images, positives=given, unclip=own)
    inputs.params.compute = compute
    return unclip.start(inputs)


def pictures(channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (N, SIZE, SIZE, channels), dtype=np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return toys.unclip(tmp_path_factory.mktemp("unclip"))


@pytest.fixture
def folder(saved, tmp_path):
    """One that may be spoilt."""
    return shutil.copytree(saved, tmp_path / "pipeline")


pytestmark = pytest.mark.usefixtures("store")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder, *words, **changes):
    with pytest.raises(UserError) as caught:
        sampler(params(**changes), own(folder), pictures())
    line = str(caught.value)
    assert caught.value.code == REFUSED
    assert "\n" not in line
    for word in words:
        assert word in line, line
    return line


# ---- the sampler


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("guidance", "eta", "size"), [(1.0, 0.0, None), (3.0, 0.7, 24)])
def test_a_version_is_what_the_pipeline_makes_of_its_image_with_its_noise_alone(saved, channels, guidance, eta, size):
    """Loaded by diffusers itself, called image by image; resized by Pillow, which rounds and clips in between."""
    pipe = StableUnCLIPImg2ImgPipeline.from_pretrained(saved, use_safetensors=True, local_files_only=True)
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    pipe.set_progress_bar_config(disable=True)
    images, numbers = pictures(channels), range(4, 8)  # two of the first versions and two of the second
    made = sampler(params(eta=eta), own(saved, size=size), images)(numbers, guidance)
    assert made.shape == (4, SIZE, SIZE, channels)
    assert made.dtype == np.uint8
    for row, number in zip(made, numbers, strict=True):
        image = Image.fromarray(images[number % N].squeeze()).convert("RGB")
        (x,) = pipe(
            [image],
            "",
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            eta=eta,
            height=size,
            width=size,
            noise_level=10,
            generator=[seeds.generator(seeds.key(0, "unclip"), "sample", number)],
        ).images
        assert x.size == (size or 16,) * 2
        expected = x.convert("L" if channels == 1 else "RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        difference = np.abs(row.squeeze().astype(int) - np.asarray(expected).astype(int))
        assert difference.max() <= (1 if size is None else 8), number
        assert difference.mean() < 1


def test_a_version_is_the_same_in_any_batch_and_others_are_not(saved):
    batch = sampler(params(), own(saved), pictures())
    whole = batch(range(4, 8), 2.0).astype(int)
    for k, number in enumerate(range(4, 8)):
        alone = batch(range(number, number + 1), 2.0)[0]
        assert np.abs(whole[k] - alone).max() <= 1  # to rounding: sums of another batch run in another order
    assert np.abs(batch(range(1), 2.0).astype(int) - batch(range(N, N + 1), 2.0)).max() > 2  # another version
    same = np.repeat(pictures()[:1], N, axis=0)
    others = sampler(params(), own(saved), same)(range(4, 8), 2.0)
    assert np.abs(whole - others).max() > 2  # the same noise, another image


def test_noise_on_the_embedding_precision_and_seed_change_what_is_made(saved):
    of = {"plain": (params(), own(saved), COMPUTE)}
    of["level"] = (params(), own(saved, noise_level=900), COMPUTE)
    of["seed"] = (params(seed=1), own(saved), COMPUTE)
    of["bf16"] = (params(), own(saved), COMPUTE.model_copy(update={"precision": "bf16"}))
    made = {name: sampler(p, o, pictures(), compute)(range(4), 2.0) for name, (p, o, compute) in of.items()}
    assert len({array.tobytes() for array in made.values()}) == 4
    assert np.abs(made["plain"].astype(int) - made["bf16"]).mean() < 3


def test_sampling_starts_where_no_signal_is_left(saved):
    scheduler = unclip.load(own(saved), COMPUTE).scheduler
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == [99 + 100 * k for k in range(9, -1, -1)]
    assert scheduler.alphas_cumprod[-1] == 0


def test_values_that_are_not_finite_are_told_in_one_line(folder):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_out.bias"] += torch.inf
    save_file(weights, path, {"format": "pt"})
    batch = sampler(params(), own(folder), pictures())
    with pytest.raises(UserError, match="not finite") as caught:
        batch(range(2), 2.0)
    assert caught.value.code == DIVERGED


# ---- the folder


def test_the_layout_of_published_weights_is_read(folder, saved):
    """Names of the text encoder have a prefix there, the vocabulary is two files, the scheduler is another."""
    path = folder / "text_encoder/model.safetensors"
    weights = {f"text_model.{name}": tensor for name, tensor in load_file(path).items()}
    position = {"text_model.embeddings.position_ids": torch.arange(4)[None]}
    save_file(weights | position, path, {"format": "pt"})
    (folder / "tokenizer/tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(saved.parent / "spoken" / name, folder / "tokenizer" / name)
    edit(folder / "scheduler/scheduler_config.json", _class_name="PNDMScheduler", skip_prk_steps=True)
    made, before = (sampler(params(), own(f), pictures())(range(2), 2.0) for f in (folder, saved))
    assert np.array_equal(made, before)


def test_other_files_are_not_opened(folder, saved):
    """Pickles, adapters and code beside them: what is not named is not there for the libraries."""
    for part in ("unet", "text_encoder"):
        for name in ("pytorch_model.bin", "diffusion_pytorch_model.bin", "adapter_config.json", "modeling.py"):
            (folder / part / name).write_bytes(b"spoilt")
    made, before = (sampler(params(), own(f), pictures())(range(2), 2.0) for f in (folder, saved))
    assert np.array_equal(made, before)
    assert set(unclip.files_of(folder)) == set(unclip.files_of(saved))


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_pickled_weights_alone_are_refused(folder, name):
    path = folder / f"{name}.safetensors"
    path.rename(path.with_suffix(".bin"))
    refused(folder, f"{name}.safetensors: not found", "pickled .bin weights are not read")


def test_a_part_that_is_not_there_is_named(folder):
    shutil.rmtree(folder / "image_encoder")
    refused(folder, "image_encoder/config.json: not found", "StableUnCLIPImg2ImgPipeline")


def test_another_pipeline_is_refused(folder):
    edit(folder / "model_index.json", _class_name="StableDiffusionPipeline")
    refused(folder, "model_index.json: a StableDiffusionPipeline, not a StableUnCLIPImg2ImgPipeline")


CHANGES = {
    "another width": ("unet", {"block_out_channels": [8, 16]}, ["configuration wants"]),
    "a fewer width": ("vae", {"block_out_channels": [2, 4]}, ["no AutoencoderKL"]),
    "a smaller text": ("text_encoder", {"intermediate_size": 4}, ["no CLIPTextModel"]),
    "no end of layers": ("image_encoder", {"num_hidden_layers": 10**9}, ["num_hidden_layers is 1000000000", "100"]),
    "no end of levels": ("unet", {"layers_per_block": [1] * 11}, ["layers_per_block"]),
    "all memory": ("text_encoder", {"intermediate_size": 10**9}, ["configuration wants"]),
    "remote code": ("image_encoder", {"auto_map": {"AutoModel": "a.B"}}, ["auto_map"]),
    "another package": ("text_encoder", {"quantization_config": {"quant_method": "gptq"}}, ["quantization_config"]),
    "nonsense": ("unet", {"norm_num_groups": "two"}, ["no UNet2DConditionModel"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_configuration_that_is_not_its_weights_is_refused_in_one_line(folder, name):
    part, changes, words = CHANGES[name]
    edit(folder / part / "config.json", **changes)
    refused(folder, part, *words)


def test_parts_that_do_not_fit_one_another_are_refused(folder):
    for name in ("conv_in.weight", "conv_out.weight", "conv_out.bias"):
        path = folder / "unet/diffusion_pytorch_model.safetensors"
        weights = load_file(path)
        weights[name] = weights[name][:, :3] if name == "conv_in.weight" else weights[name][:3]
        save_file({key: tensor.contiguous() for key, tensor in weights.items()}, path, {"format": "pt"})
    edit(folder / "unet/config.json", in_channels=3, out_channels=3)
    refused(folder, "its parts do not fit together")


@pytest.mark.parametrize("name", ["unet/config.json", "tokenizer/tokenizer.json", "scheduler/scheduler_config.json"])
def test_a_damaged_configuration_is_refused_by_its_own_place(folder, name):
    (folder / name).write_text("{")
    line = refused(folder, str(folder / name.partition("/")[0]))
    assert "unclip-" not in line.replace(str(folder), "")


def test_damaged_weights_are_refused(folder):
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(folder, "vae/diffusion_pytorch_model.safetensors", "not readable")


def test_weights_that_lack_a_tensor_are_refused(folder):
    path = folder / "image_encoder/model.safetensors"
    weights = load_file(path)
    weights["spare"] = weights.pop("visual_projection.weight")
    save_file(weights, path, {"format": "pt"})
    refused(folder, "image_encoder/model.safetensors: its weights lack visual_projection.weight")


def test_a_pipeline_that_predicts_noise_is_refused(folder):
    edit(folder / "scheduler/scheduler_config.json", prediction_type="epsilon")
    refused(folder, "scheduler_config.json: predicts epsilon")


def test_numbers_that_the_pipeline_does_not_have_are_refused(saved, folder):
    refused(saved, "positives.steps: 30 does not divide the 1000 timesteps", steps=30)
    with pytest.raises(UserError, match=r"unclip\.size: 17 is not a multiple of 2"):
        sampler(params(), own(saved, size=17), pictures())
    edit(folder / "image_noising_scheduler/scheduler_config.json", num_train_timesteps=10)
    refused(folder, "unclip.noise_level: 10 is not one of the 10 levels")


# ---- the set


def fill(folder, images=None, names=None, further=None, **changes):
    images = pictures() if images is None else images
    names = 100 + np.arange(N) if names is None else names
    inputs = toys.inputs(images, positives=params(**changes), unclip=own(folder, **further or {}))
    return positives.sample(unclip.prepare(inputs), inputs, names)


def test_a_set_goes_version_by_version_more_versions_add_shards_and_lost_ones_are_made_again(saved):
    small, fingerprint = fill(saved, candidates=1)
    before = {name: path.read_bytes() for name, path in small.items()}
    large, again = fill(saved, candidates=2)
    assert fingerprint == again
    assert {name: large[name].read_bytes() for name in before} == before
    images, anchors, versions = toys.positives(large)
    assert anchors == 2 * list(range(100, 106))
    assert versions == [0] * 6 + [1] * 6
    batch = sampler(params(), own(saved), pictures())
    assert np.array_equal(images, np.concatenate([batch(range(k, k + 2), 2.0) for k in range(0, 12, 2)]))
    whole = {name: path.read_bytes() for name, path in large.items()}
    large[sorted(large)[1]].unlink()
    assert {name: path.read_bytes() for name, path in fill(saved)[0].items()} == whole


@pytest.mark.slow
def test_whatever_decides_the_pixels_makes_another_set_and_the_folders_place_does_not(saved, folder):
    found = [fill(saved)[1], fill(saved, pictures(seed=1))[1], fill(saved, names=np.arange(N))[1]]
    assert fill(folder)[1] == found[0]
    changes = (("guidance", 1.0), ("steps", 5), ("eta", 0.0), ("seed", 1))
    found += [fill(saved, **{name: value})[1] for name, value in changes]
    found += [fill(saved, further=further)[1] for further in ({"size": 24}, {"noise_level": 0})]
    edit(folder / "feature_extractor/preprocessor_config.json", do_center_crop=False)
    found.append(fill(folder)[1])
    path = folder / "text_encoder/model.safetensors"
    weights = load_file(path)
    weights["final_layer_norm.bias"] += 1
    save_file(weights, path, {"format": "pt"})
    found.append(fill(folder)[1])
    assert len(set(found)) == len(found)


def test_without_transformers_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    (fault,) = kinds.absent("unclip")
    line = "params.yaml: positives.kind: unclip needs transformers, which is not installed"
    assert str(fault) == f"{line} - pip install transformers, or choose another"
