from pathlib import Path

import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.generators import ddpm, diffusers_folder, gan
from pipeline.training import generator
from tests import toys
from tests.toys import COMPUTE, contents, ddpm_params


def own(**changes):
    given = {"dropout": 0.2, "timesteps": 100, "prediction": "v_prediction", "flip": True, "steps": 5, "batch_size": 4}
    given |= {
        "lr": 0.01,
        "min_lr": 0.0,
        "warmup_steps": 2,
        "warmup_lr": None,
        "weight_decay": 0.01,
        "log_every": 3,
        "checkpoint_every": 2,
    }
    return ddpm_params(**given | changes)


@pytest.fixture(scope="module")
def images():
    made = torch.randint(0, 256, (10, 8, 8, 1), generator=torch.Generator().manual_seed(0))
    return made.to(torch.uint8).numpy()


@pytest.fixture
def steps(monkeypatch):
    """The steps whose loss was computed; `crash` stops before one of them."""
    return toys.counted(monkeypatch, ddpm.Training, "loss")


def test_trained_twice_it_has_the_same_bytes_and_trained_on_from_a_crash_too(images, steps, monkeypatch, tmp_path):
    made, rows = generator.train(ddpm.Training, own(), images, COMPUTE)
    assert [row["step"] for row in rows] == [3, 5]
    straight = contents(made)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "other"))
    steps.crash = 3
    with pytest.raises(KeyboardInterrupt):
        generator.train(ddpm.Training, own(), images, COMPUTE)
    steps.seen, steps.crash = [], None
    made, rows_again = generator.train(ddpm.Training, own(), images, COMPUTE)
    assert steps.seen == [2, 3, 4]
    assert contents(made) == straight
    assert rows_again == rows


def test_finished_work_is_found_and_no_step_is_taken(images, steps):
    made, rows = generator.train(ddpm.Training, own(), images, COMPUTE)
    assert steps.seen == list(range(5))
    assert not list(Path(made["unet/config.json"]).parent.parent.glob("checkpoint*"))
    again, rows_again = generator.train(ddpm.Training, own(), images, COMPUTE)
    assert (again, rows_again) == (made, rows)
    assert steps.seen == list(range(5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "params", "networks"),
    [
        (ddpm.Training, own(dropout=0.0), ["UNet2DModel"]),
        (gan.Training, toys.gan_params(steps=4), ["Generator", "Discriminator"]),
    ],
)
def test_compiled_networks_learn_what_plain_ones_learn(kind, params, networks, images, monkeypatch):
    """Traced, that is: what a compiler makes of the trace is torch's affair."""
    _, rows = generator.train(kind, params, images, COMPUTE)
    traced, compiling = [], torch.nn.Module.compile

    def tracing(module):
        traced.append(type(module).__name__)
        compiling(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", tracing)
    _, again = generator.train(kind, params, images, COMPUTE.model_copy(update={"compile": True}))
    assert traced == networks
    for one, other in zip(rows, again, strict=True):
        assert other == pytest.approx(one, rel=1e-4)


@pytest.mark.fault(7)
def test_other_images_or_parameters_are_other_work(images, steps):
    first, _ = generator.train(ddpm.Training, own(steps=3), images, COMPUTE)
    changed = images.copy()
    changed[3, 3, 3, 0] ^= 1
    for other in ((own(steps=3, seed=1), images), (own(steps=3, lr=0.02), images), (own(steps=3), changed)):
        made, _ = generator.train(ddpm.Training, *other, COMPUTE)
        assert contents(made) != contents(first)
    assert len(steps.seen) == 4 * 3


def test_what_is_trained_is_the_average_and_can_be_loaded(images):
    made, _ = generator.train(ddpm.Training, own(ema_decay=0.0), images, COMPUTE)
    folder = made["model_index.json"].parent
    assert set(made) == {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {
        "manifest.json",
        "rows.json",
        "last-used",
    }
    slow, _ = generator.train(ddpm.Training, own(ema_decay=0.9), images, COMPUTE)
    weights = [ddpm.load(m["model_index.json"].parent)[0].conv_in.weight for m in (made, slow)]
    assert not torch.equal(*weights)


def test_a_damaged_result_in_the_store_is_refused(images):
    made, _ = generator.train(ddpm.Training, own(steps=3), images, COMPUTE)
    path = made[diffusers_folder.WEIGHTS]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="sha256") as caught:
        generator.train(ddpm.Training, own(steps=3), images, COMPUTE)
    assert str(path) in str(caught.value)
