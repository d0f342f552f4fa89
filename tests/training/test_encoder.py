import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.augment import recipes
from pipeline.core import files, seeds
from pipeline.core.errors import UserError
from pipeline.data import mixture, shards
from pipeline.engine import loop
from pipeline.generators import gan
from pipeline.measures import geometry, probes
from pipeline.methods import View, clsp_simclr, joint_gan, mixed_ae, simclr
from pipeline.networks import backbones, heads
from pipeline.params.methods import CLSPSimCLR, SimCLR
from pipeline.params.schema import Augment
from pipeline.training import batches, encoder
from tests import toys
from tests.methods import contract
from tests.toys import COMPUTE, contents, pretrain_params

NONE, NOWHERE = [], Path("no generator")
OWN = SimCLR(hidden_dim=8, output_dim=4, temperature=0.2, views_together=True)
MIXING = mixture.alone(0).model_copy(update={"ratio": 1.0, "real_weight": 2.0})
TRUST = {"trust_coefficient": 0.02, "trust_clip": True}
OPTIONAL = "crop_min jitter_probability brightness contrast saturation hue grayscale blur solarize flip"
AUGMENT = Augment(
    family="symmetric",
    form="grey",
    strength=1.0,
    seed=0,
    replace=0.0,
    replaced="second",
    interpolation="bicubic",
    **dict.fromkeys(OPTIONAL.split()),
)


@pytest.fixture(scope="module")
def real():
    random = np.random.default_rng(0)
    split = np.repeat(np.array([shards.TRAIN, shards.VALIDATION, shards.TEST], np.uint8), [12, 6, 6])
    images = random.integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
    return shards.RealSet(images, np.arange(24) % 3, split, np.arange(24), ("a", "b", "c"), "toy", 12)


@pytest.fixture(scope="module")
def generated():
    images = np.random.default_rng(1).integers(0, 256, (10, 8, 8, 1), dtype=np.uint8)
    return [images[:4], images[4:]]


@pytest.fixture
def steps(monkeypatch):
    """The steps whose loss was computed; `crash` stops before one of them."""
    return toys.counted(monkeypatch, simclr.SimCLR, "loss")


def pretrain(real, generated, mixing=MIXING, augment=AUGMENT, own=OWN, positives=NONE, folder=NOWHERE, **changes):
    setting = encoder.Setting(pretrain_params(**changes), own, augment, mixing)
    return encoder.pretrain(setting, batches.Images(real, generated, positives), folder, COMPUTE)


def test_pretraining_twice_and_on_from_crashes_gives_the_same_files(real, generated, steps, monkeypatch, tmp_path):
    made, rows, facts = pretrain(real, generated)
    straight = contents(made)
    assert set(straight) == {"encoder.safetensors", "card.json"}
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "other"))
    for crash in (1, 3):
        steps.crash = crash
        with pytest.raises(KeyboardInterrupt):
            pretrain(real, generated)
    steps.seen, steps.crash = [], None
    made, *rest = pretrain(real, generated)
    assert steps.seen == [2, 3, 4]
    assert contents(made) == straight
    assert rest == [rows, facts]


def test_finished_work_is_found_and_no_step_is_repeated(real, generated, steps):
    first = pretrain(real, generated)
    assert steps.seen == list(range(5))
    assert pretrain(real, generated) == first
    assert steps.seen == list(range(5))


@pytest.mark.fault(7)
def test_anything_that_decides_the_encoder_makes_other_work(real, generated, steps):
    def fingerprint(*arguments, **named):
        return json.loads(pretrain(*arguments, steps=2, **named)[0]["card.json"].read_text())["fingerprint"]

    pixel = dataclasses.replace(real, images=real.images.copy())
    pixel.images[0, 0, 0, 0] ^= 1
    found = [
        fingerprint(real, generated),
        fingerprint(pixel, generated),
        fingerprint(real, [generated[0], generated[1][:5]]),
        fingerprint(real, generated, mixing=MIXING.model_copy(update={"seed": 1})),
        fingerprint(real, generated, mixing=MIXING.model_copy(update={"real_weight": 1.0})),
        fingerprint(real, generated, augment=AUGMENT.model_copy(update={"seed": 1})),
        fingerprint(real, generated, seed=1),
    ]
    assert len(set(found)) == len(found)
    assert len(steps.seen) == 2 * len(found)
    assert fingerprint(real, [np.concatenate(generated)]) == found[0]  # the size of shards decides nothing
    # The ratio itself is not read here: the generated images say it.
    assert fingerprint(real, generated, mixing=MIXING.model_copy(update={"ratio": 3.0})) == found[0]


def test_the_rows_hold_loss_and_validation_knn_at_their_steps(real, generated):
    _, rows, _ = pretrain(real, generated)
    assert [row["step"] for row in rows] == [2, 4, 5]
    assert ["validation_knn" in row for row in rows] == [False, True, True]
    assert all(row["loss"] > 0 and 0 <= row["agreement"] <= 1 for row in rows)
    assert all(0 <= row["validation_knn"] <= 100 for row in rows[1:])


def test_the_encoder_can_be_loaded_and_its_card_tells_how_it_was_made(real, generated):
    made, _, facts = pretrain(real, generated)
    found = backbones.load(made["card.json"].parent)
    train = real.images[:12] / 255
    assert found.mean.item() == pytest.approx(train.mean(), rel=1e-6)
    assert found.std.item() == pytest.approx(train.std(), rel=1e-6)
    assert found.card["method"] == "simclr"
    assert found.card["augment"]["strength"] == 1.0
    assert {name: found.card[name] for name in facts} == facts
    fresh = backbones.untrained(found)
    assert not torch.equal(fresh.backbone.conv1.weight, found.backbone.conv1.weight)


def test_without_generated_images_all_draws_are_real(real):
    _, rows, facts = pretrain(real, NONE)
    assert rows[-1]["step"] == 5
    expected = {"beta": 1.0, "n_real": 12, "n_generated": 0, "real_drawn": 30, "generated_drawn": 0}
    assert facts == expected | {"real_passes": 2.5, "views": 60, "forwards": 180}


@pytest.mark.parametrize("rows", [slice(None), slice(0, 12), slice(17, 18)], ids=["all", "train", "a validation"])
def test_a_set_without_labels_to_learn_or_to_judge_from_is_watched_by_rankme(real, generated, rows):
    labels = real.labels.copy()
    labels[rows] = -1
    unlabelled = dataclasses.replace(real, labels=labels)
    _, rows, _ = pretrain(unlabelled, generated)
    assert ["rankme" in row for row in rows] == [False, True, True]
    assert not any("validation_knn" in row for row in rows)
    assert all(1 <= row["rankme"] <= 12.01 for row in rows[1:])  # twelve train images


@pytest.mark.parametrize("head", [None, 0.5])
def test_a_set_without_validation_is_watched_by_rankme_of_its_train_images(real, generated, head):
    """The last measurement is that of the encoder that is saved."""
    without = dataclasses.replace(
        real, **{name: getattr(real, name)[real.split != shards.VALIDATION] for name in ("images", "labels", "split")}
    )
    made, rows, _ = pretrain(without, generated, online_head=head)
    assert ["rankme" in row for row in rows] == [False, True, True]
    assert not any({"validation_knn", "validation_online"} & row.keys() for row in rows)
    features = probes.features(backbones.load(made["card.json"].parent), real.images[:12], COMPUTE)
    assert rows[-1]["rankme"] == pytest.approx(geometry.rankme(features), rel=1e-6)
    assert rows[-1]["feature_spread"] == pytest.approx(float(heads.spread(features)), rel=1e-6)
    assert (heads.ONLINE in made) == (head is not None)


def test_without_validation_reconstructions_are_of_train_images(real):
    """Of noise, so that no other image passes for one of them."""
    kept = real.split != shards.VALIDATION
    without = dataclasses.replace(real, **{name: getattr(real, name)[kept] for name in ("images", "labels", "split")})
    own, vit = contract.METHODS["mixed_ae"], backbones.vit(8, 1, 2, 4)
    named = {"method": "mixed_ae", "own": own, "backbone": vit, "optimizer": "adamw", "beta2": 0.95, "lr": 0.001}
    for given, first in ((without, 0), (real, 12)):
        made, *_ = pretrain(given, NONE, steps=2, **named)
        titles, shown = zip(*mixed_ae.MixedAE.pictures(made), strict=True)
        assert titles[0] == "images"
        assert np.array_equal(shown[0][:4], real.images[first : first + 4])


def test_a_layer_that_learns_labels_beside_leaves_the_same_encoder_and_is_saved(real, generated):
    plain, rows, facts = pretrain(real, generated)
    made, beside, same = pretrain(real, generated, online_head=0.5)
    assert made.keys() - plain.keys() == {heads.ONLINE}
    assert contents(made)["encoder.safetensors"] == contents(plain)["encoder.safetensors"]
    assert same == facts
    added = {"online_loss", "online_agreement"}
    assert [set(two) - set(one) for one, two in zip(rows, beside, strict=True)] == [
        added,
        added | {"validation_online"},
        added | {"validation_online"},
    ]
    for one, two in zip(rows, beside, strict=True):  # the norm is of all gradients
        assert {k: two[k] for k in one if k != "gradient_norm"} == {
            k: v for k, v in one.items() if k != "gradient_norm"
        }
    folder = made["card.json"].parent
    network = backbones.load(folder)
    matrix, bias = backbones.load_online_head(folder, network, 3)
    images, labels = real.part(shards.VALIDATION)
    found = (probes.features(network, images, COMPUTE) @ matrix.T + bias).argmax(dim=1)
    assert beside[-1]["validation_online"] == probes.accuracy(found, labels)
    folder = plain["card.json"].parent
    assert backbones.load_online_head(folder, backbones.load(folder), 3) is None


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2, "optimizer": "lars", **TRUST}], ids=["sgd", "lars in parts"])
def test_the_layer_that_learns_labels_goes_on_from_crashes_to_the_same_bytes(
    real, generated, steps, monkeypatch, tmp_path, changes
):
    named = {"online_head": 0.5, **changes}
    made, *rest = pretrain(real, generated, **named)
    straight = contents(made)
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "other"))
    for crash in (1, 3):
        steps.crash = crash
        with pytest.raises(KeyboardInterrupt):
            pretrain(real, generated, **named)
    steps.crash = None
    again, *others = pretrain(real, generated, **named)
    assert contents(again) == straight
    assert others == rest


def test_a_layer_to_learn_labels_wants_a_label(real, generated):
    """One of a train image; those of validation are not learned from."""
    labels = real.labels.copy()
    labels[:12] = -1
    with pytest.raises(UserError, match=r"online_head: no train image has a label - .*null") as caught:
        pretrain(dataclasses.replace(real, labels=labels), generated, online_head=0.5)
    assert (caught.value.code, len(str(caught.value).splitlines())) == (2, 1)
    labels[3] = 1
    _, rows, _ = pretrain(dataclasses.replace(real, labels=labels), generated, online_head=0.5)
    assert all(math.isfinite(row["online_loss"]) for row in rows)
    assert "validation_online" in rows[-1]


@pytest.mark.fault(15)
@pytest.mark.parametrize("labelled", [True, False])
def test_features_that_are_all_alike_are_told_and_those_of_an_encoder_are_not(real, labelled, capsys):
    network = backbones.build(backbones.resnet(4, [1, 1, 1, 1]), [0.5], [0.25], 0)
    (images, labels), validation = real.part(shards.TRAIN), real.part(shards.VALIDATION)
    train = (images, labels if labelled else np.full_like(labels, -1))
    found = encoder.validate(network, None, train, validation, COMPUTE)
    assert found["feature_spread"] > heads.COLLAPSED
    assert "COLLAPSED" not in capsys.readouterr().err
    with torch.no_grad():
        network.backbone.conv1.weight.zero_()  # biases alone speak
        network.backbone.bn1.bias.fill_(1.0)
    found = encoder.validate(network, None, train, validation, COMPUTE)
    assert found["feature_spread"] < heads.COLLAPSED
    assert "COLLAPSED: features of all images are alike, their spread is 0" in capsys.readouterr().err


def test_neighbours_are_the_train_images_that_have_labels(real):
    network = backbones.build(backbones.resnet(4, [1, 1, 1, 1]), [0.5], [0.25], 0)
    (images, labels), validation = real.part(shards.TRAIN), real.part(shards.VALIDATION)
    some = labels.copy()
    some[::2] = -1
    found = encoder.validate(network, None, (images, some), validation, COMPUTE)
    assert found == encoder.validate(network, None, (images[1::2], labels[1::2]), validation, COMPUTE)
    judged = encoder.validate(network, None, (images, some), (images, labels), COMPUTE)
    bank, seen = (probes.features(network, each, COMPUTE) for each in (images[1::2], images))
    votes = probes.knn(bank, torch.from_numpy(labels[1::2]), seen)
    assert judged["validation_knn"] == pytest.approx(100 * float((votes.numpy() == labels).mean()))
    assert 0 < judged["validation_knn"] < 100


def test_a_damaged_encoder_in_the_store_is_refused(real, generated):
    made, _, _ = pretrain(real, generated)
    path = made["encoder.safetensors"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="sha256") as caught:
        pretrain(real, generated)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("n_real", "n_generated", "weight", "batch", "steps"),
    [(12, 10, 2.0, 6, 7), (50, 500, 10.0, 16, 31), (7, 0, 3.0, 5, 9), (30, 7, 1.0, 8, 1)],
)
def test_the_facts_count_what_the_mixture_really_draws(n_real, n_generated, weight, batch, steps):
    walk = mixture.Mixture(n_real, n_generated, weight, batch, 0)
    drawn = np.concatenate([walk.rows(step) for step in range(steps)])
    facts = encoder.mixture_facts(walk, steps)
    assert facts["real_drawn"] == (drawn < n_real).sum()
    assert facts["generated_drawn"] == (drawn >= n_real).sum()
    assert facts["beta"] == pytest.approx(weight * n_real / (weight * n_real + n_generated))
    assert facts["real_passes"] == pytest.approx((drawn < n_real).sum() / n_real)
    assert (facts["n_real"], facts["n_generated"]) == (n_real, n_generated)


def one_step(optimizer, gradients, rate, **changes):
    """A matrix and a vector after one step of the loop's own update, from weights of 2 and of 1."""
    matrix, vector = torch.nn.Parameter(torch.full((2, 2), 2.0)), torch.nn.Parameter(torch.ones(3))
    chosen = pretrain_params(
        optimizer=optimizer, lr=rate, steps=1, warmup_steps=0, momentum=0.0, weight_decay=0.1, **changes
    )
    module = torch.nn.ParameterList([matrix, vector])
    loss = lambda batch, step: {"loss": (gradients[0] * matrix).sum() + (gradients[1] * vector).sum()}  # noqa: E731
    method = SimpleNamespace(phases=lambda: [loop.Phase(loop.groups_of(module), loss)])
    task = loop.Task(encoder.phases_of(method, chosen.decay_vectors), batch=lambda step: None, objects={})
    build = lambda groups, lr: encoder.optimiser(chosen, groups, lr)  # noqa: E731
    plan = loop.Optimisation(chosen, build=build)
    return matrix, vector, task, plan


def test_lars_adapts_matrices_with_a_clipped_trust_ratio_and_leaves_vectors_alone(tmp_path):
    """|W| = 4, |g| = 6: trust = 0.02 x 4 / (6 + 0.1 x 4) = 0.0125, over the rate 0.05 it is 1/4; below 1, so kept."""
    trust = 0.02 * 4 / (6 + 0.1 * 4)
    matrix, vector, task, plan = one_step("lars", (3.0, 5.0), 0.05, trust_coefficient=0.02, trust_clip=True)
    loop.train("toy", task, plan, COMPUTE, tmp_path, "work")
    expected = 2 - 0.05 * (trust / 0.05) * (3 + 0.1 * 2)
    assert matrix.detach().flatten().tolist() == pytest.approx([expected] * 4, rel=1e-6)
    assert vector.detach().tolist() == pytest.approx([1 - 0.05 * 5] * 3, rel=1e-6)  # plain, and no decay


def test_lars_never_takes_a_longer_step_than_the_rate_allows(tmp_path):
    """|g| = 0.006: trust = 0.2 and more, over the rate 0.05 about 4, clipped to 1."""
    matrix, vector, task, plan = one_step("lars", (0.003, 0.005), 0.05, trust_coefficient=0.02, trust_clip=True)
    loop.train("toy", task, plan, COMPUTE, tmp_path, "work")
    assert matrix.detach().flatten().tolist() == pytest.approx([2 - 0.05 * (0.003 + 0.1 * 2)] * 4, rel=1e-6)
    assert vector.detach().tolist() == pytest.approx([1 - 0.05 * 0.005] * 3, rel=1e-6)


def test_lars_without_clipping_steps_by_the_trust_ratio_times_the_rate(tmp_path):
    """You et al. 2017, equation 6: 0.02 |W| / (|g| + 0.1 |W|) is the local rate, .05 the global one."""
    trust = 0.02 * 4 / (0.006 + 0.1 * 4)
    matrix, vector, task, plan = one_step("lars", (0.003, 0.005), 0.05, trust_coefficient=0.02, trust_clip=False)
    loop.train("toy", task, plan, COMPUTE, tmp_path, "work")
    assert matrix.detach().flatten().tolist() == pytest.approx([2 - 0.05 * trust * (0.003 + 0.1 * 2)] * 4, rel=1e-6)
    assert vector.detach().tolist() == pytest.approx([1 - 0.05 * 0.005] * 3, rel=1e-6)


def test_sgd_decays_vectors_where_it_is_told_to(tmp_path):
    matrix, vector, task, plan = one_step("sgd", (3.0, 5.0), 0.05, decay_vectors=True)
    loop.train("toy", task, plan, COMPUTE, tmp_path, "work")
    assert matrix.detach().flatten().tolist() == pytest.approx([2 - 0.05 * (3 + 0.1 * 2)] * 4, rel=1e-6)
    assert vector.detach().tolist() == pytest.approx([1 - 0.05 * (5 + 0.1 * 1)] * 3, rel=1e-6)


def test_lars_adapts_vectors_where_they_are_decayed(tmp_path):
    """|b| = sqrt 3, |g| = 5 sqrt 3: trust = 0.02 / (5 + 0.1)."""
    _, vector, task, plan = one_step(
        "lars", (3.0, 5.0), 0.05, trust_coefficient=0.02, trust_clip=False, decay_vectors=True
    )
    loop.train("toy", task, plan, COMPUTE, tmp_path, "work")
    assert vector.detach().tolist() == pytest.approx([1 - 0.05 * 0.02 / 5.1 * (5 + 0.1)] * 3, rel=1e-6)


def test_sgd_decays_matrices_alone(tmp_path):
    matrix, vector, task, plan = one_step("sgd", (3.0, 5.0), 0.05)
    loop.train("toy", task, plan, COMPUTE, tmp_path, "work")
    assert matrix.detach().flatten().tolist() == pytest.approx([2 - 0.05 * (3 + 0.1 * 2)] * 4, rel=1e-6)
    assert vector.detach().tolist() == pytest.approx([1 - 0.05 * 5] * 3, rel=1e-6)


def test_adamw_decays_matrices_alone_and_its_first_step_is_as_long_as_the_rate(tmp_path):
    """Of any gradient: g / (sqrt(g^2) + 1e-8), whatever the betas, and decay apart from it."""
    matrix, vector, task, plan = one_step("adamw", (3.0, -5.0), 0.05, beta2=0.95)
    loop.train("toy", task, plan, COMPUTE, tmp_path, "work")
    assert matrix.detach().flatten().tolist() == pytest.approx([2 - 0.05 * 0.1 * 2 - 0.05] * 4, rel=1e-6)
    assert vector.detach().tolist() == pytest.approx([1 + 0.05] * 3, rel=1e-6)


def test_adamw_has_the_betas_that_it_is_given():
    """Gradients 1 and 0, betas 1/2 and 1/4: m = 1/4 over 1 - 1/4, v = 3/16 over 1 - 1/16 at the second step."""
    vector = torch.nn.Parameter(torch.zeros(1))
    chosen = pretrain_params(optimizer="adamw", momentum=0.5, beta2=0.25)
    built = encoder.optimiser(chosen, [{"params": [vector], "weight_decay": 0.0}], 0.1)
    for gradient in (1.0, 0.0):
        vector.grad = torch.full((1,), gradient)
        built.step()
    assert vector.item() == pytest.approx(-0.1 * (1 + (1 / 3) / math.sqrt(1 / 5)), rel=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_momentum_carries_the_last_step_on(optimizer):
    """Two equal gradients with momentum 1/2: steps of one and of one and a half, on a vector under either."""
    vector = torch.nn.Parameter(torch.zeros(1))
    chosen = pretrain_params(optimizer=optimizer, momentum=0.5, **TRUST if optimizer == "lars" else {})
    built = encoder.optimiser(chosen, [{"params": [vector], "weight_decay": 0.0}], 0.1)
    for _ in range(2):
        vector.grad = torch.ones(1)
        built.step()
    assert vector.item() == pytest.approx(-0.1 * (1 + 1.5), rel=1e-6)


def test_a_vit_under_adamw_is_pretrained_and_on_from_a_crash_to_the_same_bits(
    real, generated, steps, monkeypatch, tmp_path
):
    """By SimCLR, and its card says for which size it is."""
    named = {"backbone": backbones.vit(8, 1, 2, 4), "optimizer": "adamw", "beta2": 0.95, "lr": 0.01}
    made, rows, _ = pretrain(real, generated, **named)
    straight = contents(made)
    found = backbones.load(made["card.json"].parent)
    assert (found.card["kind"], found.card["size"], found.width) == ("vit", 8, 8)
    assert all("validation_knn" in row for row in rows[1:])
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "other"))
    steps.crash = 3
    with pytest.raises(KeyboardInterrupt):
        pretrain(real, generated, **named)
    steps.crash = None
    assert contents(pretrain(real, generated, **named)[0]) == straight


def test_another_version_of_timm_is_other_work(real, generated, steps, monkeypatch):
    pretrain(real, generated, steps=2)
    monkeypatch.setattr(backbones, "version", lambda package: "0")
    pretrain(real, generated, steps=2)
    assert steps.seen == [0, 1, 0, 1]


def test_with_lars_the_whole_of_pretraining_runs(real, generated):
    _, rows, _ = pretrain(real, generated, optimizer="lars", **TRUST, lr=0.4)
    assert all(math.isfinite(row["loss"]) for row in rows)


# ---- positives, and views of other sizes

CLSP = CLSPSimCLR(hidden_dim=8, output_dim=4, temperature=0.2, alignment=1.0, third_view="candidate")
CONTROL = CLSP.model_copy(update={"third_view": "augmented"})


@pytest.fixture(scope="module")
def positives():
    """Two candidates of each of the twelve train images, in shards of seven."""
    images = np.random.default_rng(2).integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
    return [images[k : k + 7] for k in range(0, 24, 7)]


@pytest.fixture
def drawn_batches(monkeypatch):
    """What reached the loss of CLSP on SimCLR: uint8 (views, B, H, W, C) a step."""
    seen, loss = [], clsp_simclr.CLSPSimCLR.loss

    def noting(self, batch, step):
        seen.append((torch.stack(batch) * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy())
        return loss(self, batch, step)

    monkeypatch.setattr(clsp_simclr.CLSPSimCLR, "loss", noting)
    return seen


def test_positives_live_beside_inflation(real, generated, positives, drawn_batches):
    """Without augmentation: a real image's third view is one of its own candidates, a generated image's itself."""
    plain = AUGMENT.model_copy(update={"strength": 0.0})
    made, _, facts = pretrain(real, generated, method="clsp_simclr", own=CLSP, positives=positives, augment=plain)
    train, candidates = real.images[:12], np.concatenate(positives).reshape(2, 12, 8, 8, 1)
    number = {image.tobytes(): k for k, image in enumerate(train)}
    chosen, generated_seen = [], 0
    for one, two, third in drawn_batches:
        assert np.array_equal(one, two)
        for image, other in zip(one, third, strict=True):
            k = number.get(image.tobytes())
            if k is None:
                generated_seen += 1
                assert np.array_equal(other, image)
            else:
                chosen.append([other.tobytes() == c.tobytes() for c in candidates[:, k]])
    assert (len(chosen), generated_seen) == (facts["real_drawn"], facts["generated_drawn"])
    assert (np.sum(chosen, axis=1) == 1).all()
    assert np.sum(chosen, axis=0).min() > 0
    card = backbones.load(made["card.json"].parent).card
    assert card["candidates"] == 2
    assert (facts["views"], facts["forwards"]) == (5 * 6 * 3, 5 * 6 * 9)


@pytest.mark.parametrize(("replaced", "first"), [("second", 1), ("both", 0)])
def test_views_show_a_positive_in_the_images_place_as_often_as_asked(
    real, generated, positives, monkeypatch, replaced, first
):
    """Of SimCLR, without augmentation: views before `first` are the image, others its positive or the image."""
    seen, loss = [], simclr.SimCLR.loss

    def noting(self, batch, step):
        seen.append((torch.stack(batch) * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy())
        return loss(self, batch, step)

    monkeypatch.setattr(simclr.SimCLR, "loss", noting)
    plain = AUGMENT.model_copy(update={"strength": 0.0, "replace": 1.0, "replaced": replaced})
    made, *_ = pretrain(real, generated, positives=positives, augment=plain)
    candidates = np.concatenate(positives).reshape(2, 12, 8, 8, 1)
    whose = {image.tobytes(): k for k, image in enumerate(real.images[:12])}
    of = {candidates[c, k].tobytes(): k for c in range(2) for k in range(12)}
    shown = {image.tobytes() for part in generated for image in part}
    for batch in seen:
        for views in zip(*batch, strict=True):
            keys = [view.tobytes() for view in views]
            if keys[0] in shown:
                assert keys[0] == keys[1]  # a generated image has no positives
                continue
            owners = [whose[key] if k < first else of[key] for k, key in enumerate(keys)]
            assert owners[0] == owners[1]
    assert backbones.load(made["card.json"].parent).card["candidates"] == 2


def test_without_replacing_positives_beside_change_nothing(real, generated, positives):
    plain, _, _ = pretrain(real, generated)
    beside, _, _ = pretrain(real, generated, positives=positives)
    other, _, _ = pretrain(real, generated, positives=positives, augment=AUGMENT.model_copy(update={"replace": 0.5}))
    assert contents(plain) == contents(beside)
    assert contents(plain)["encoder.safetensors"] != contents(other)["encoder.safetensors"]


def test_replacing_is_refused_without_positives(real, generated):
    with pytest.raises(UserError, match=r"data/generated/positives: is empty, and augment\.replace wants positives"):
        pretrain(real, generated, augment=AUGMENT.model_copy(update={"replace": 0.5}))


def test_positives_and_images_as_they_are_are_not_replaced():
    asked = AUGMENT.model_copy(update={"replace": 0.5})
    both = asked.model_copy(update={"replaced": "both"})
    views = (View(), View(source="positive"), View(), View(recipe=None))
    assert batches.replaced_views(asked, views) == [2]
    assert batches.replaced_views(both, views) == [0, 2]
    assert batches.replaced_views(AUGMENT, views) == []


@pytest.mark.parametrize("name", contract.METHODS)
def test_every_method_has_a_view_to_replace_but_mixed_ae_no_second(name):
    """Which its rule refuses."""
    asked, views = AUGMENT.model_copy(update={"replace": 0.5}), contract.build(name).views
    assert bool(batches.replaced_views(asked, views)) == (name != "mixed_ae")
    assert batches.replaced_views(asked.model_copy(update={"replaced": "both"}), views)


def test_the_controls_third_view_is_of_the_image_itself(real, generated, positives, drawn_batches):
    plain = AUGMENT.model_copy(update={"strength": 0.0})
    pretrain(real, generated, method="clsp_simclr", own=CONTROL, positives=positives, augment=plain)
    assert all(np.array_equal(one, third) for one, _, third in drawn_batches)


def test_positives_decide_the_encoder_of_a_method_that_looks_at_them_alone(real, generated, positives):
    def fingerprint(own, method, positives):
        made, *_ = pretrain(real, generated, method=method, own=own, positives=positives, steps=2)
        return json.loads(made["card.json"].read_text())["fingerprint"]

    fewer, other = [np.concatenate(positives)[:12]], [np.concatenate(positives)[::-1].copy()]
    looking = [fingerprint(CLSP, "clsp_simclr", some) for some in (positives, fewer, other)]
    assert len(set(looking)) == 3
    assert fingerprint(CLSP, "clsp_simclr", [np.concatenate(positives)]) == looking[0]  # whatever the shards' size
    assert fingerprint(CONTROL, "clsp_simclr", positives) == fingerprint(CONTROL, "clsp_simclr", NONE)
    assert fingerprint(OWN, "simclr", positives) == fingerprint(OWN, "simclr", NONE)


def test_a_method_that_wants_positives_is_refused_without(real, generated):
    with pytest.raises(UserError, match=r"data/generated/positives: is empty, and clsp_simclr wants positives"):
        pretrain(real, generated, method="clsp_simclr", own=CLSP)


def test_interrupted_training_on_positives_ends_with_the_same_bits(real, generated, positives, monkeypatch, tmp_path):
    named = {"method": "clsp_simclr", "own": CLSP, "positives": positives}
    straight = contents(pretrain(real, generated, **named)[0])
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "other"))
    loss = clsp_simclr.CLSPSimCLR.loss
    for crash in (1, 3):
        with monkeypatch.context() as patch:
            patch.setattr(clsp_simclr.CLSPSimCLR, "loss", lambda s, b, t, c=crash: loss(s, b, t) if t != c else stop())
            with pytest.raises(KeyboardInterrupt):
                pretrain(real, generated, **named)
    assert contents(pretrain(real, generated, **named)[0]) == straight


def stop():
    raise KeyboardInterrupt


def test_a_views_crop_and_size_are_the_methods_and_the_rest_is_the_users():
    usual = recipes.recipe(AUGMENT, 1)
    assert batches.view_recipe(AUGMENT, View(recipe=1)) == usual
    small = batches.view_recipe(AUGMENT.model_copy(update={"crop_min": 0.7}), View(recipe=1, size=6, crop=(0.1, 0.5)))
    assert small == dataclasses.replace(usual, crop_min=0.1, crop_max=0.5, size=6)


def test_a_small_view_counts_by_its_pixels():
    method = SimpleNamespace(views=(View(), View(size=4), View(size=6)), passes=lambda step: (3, 3, 1))
    of_a_step, none = 3 + 3 * 16 / 64 + 36 / 64, np.empty((0, 8, 8, 1), np.uint8)
    assert encoder.forwards(method, none, 7) == pytest.approx(7 * of_a_step)
    method.passes = lambda step: (3, 3, 1) if step < 4 else (3, 0, 0)
    assert encoder.forwards(method, none, 7) == pytest.approx(4 * of_a_step + 3 * 3)


@pytest.fixture(scope="module")
def trained_gan(tmp_path_factory):
    """What the generator stage leaves of a GAN of images of 8 pixels."""
    folder = tmp_path_factory.mktemp("gan")
    with seeds.scope(0, "toy"):
        names = gan.save(gan.GAN(6, 4, 5, 8, 1), folder)
    digests = {name: files.sha256(folder / name) for name in names}
    files.write_sealed(folder / "card.json", {"kind": "gan", "source": "train", "files": digests})
    return folder


@pytest.mark.slow
def test_a_game_goes_on_from_crashes_to_the_same_files_snapshots_and_all(real, trained_gan, monkeypatch, tmp_path):
    own = contract.METHODS["joint_gan"]
    named = {"method": "joint_gan", "own": own, "folder": trained_gan}
    made, rows, facts = pretrain(real, NONE, **named)
    straight = contents(made)
    assert set(straight) == {"encoder.safetensors", "card.json", "gan_snapshots.h5"}
    # Played in steps 2 and 4: 6 passes in the first, 12 in 1 and 3, and of mode both 20 in the others.
    assert facts["forwards"] == 6 * (6 + 2 * 12 + 2 * 20)
    assert {"generator_cosine", "discriminator_loss"} <= set(rows[1])
    monkeypatch.setenv("LEAVEN_STORE", str(tmp_path / "other"))
    loss = joint_gan.JointGAN.loss
    for crash in (1, 3):
        with monkeypatch.context() as patch:
            patch.setattr(joint_gan.JointGAN, "loss", lambda s, b, t, c=crash: loss(s, b, t) if t != c else stop())
            with pytest.raises(KeyboardInterrupt):
                pretrain(real, NONE, **named)
    again, *rest = pretrain(real, NONE, **named)
    assert contents(again) == straight
    assert rest == [rows, facts]


@pytest.mark.parametrize(("replace", "replaced"), [(0.0, "second"), (1.0, "second"), (1.0, "both")])
def test_the_images_as_they_are_reach_the_game(real, trained_gan, positives, monkeypatch, replace, replaced):
    """Its third view, which the discriminator takes for real, whatever takes the place of the first two."""
    seen, loss = [], joint_gan.JointGAN.loss
    monkeypatch.setattr(joint_gan.JointGAN, "loss", lambda s, b, t: (seen.append(b), loss(s, b, t))[1])
    plain = AUGMENT.model_copy(update={"strength": 0.0, "replace": replace, "replaced": replaced})
    named = {"own": contract.METHODS["joint_gan"], "folder": trained_gan, "augment": plain, "steps": 2}
    pretrain(real, NONE, method="joint_gan", positives=positives, **named)
    images = {image.tobytes() for image in real.images[:12]}
    others = {image.tobytes() for part in positives for image in part}
    pixels = [torch.cat(views).mul(255).round().byte().numpy() for views in zip(*seen, strict=True)]
    found = [{image.tobytes() for image in views} for views in pixels]
    assert found[2] == images
    assert found[0] <= (others if replaced == "both" else images)
    assert found[1] <= (others if replace else images)


def test_a_game_wants_a_trained_gan_whose_files_are_its_cards(real, trained_gan, tmp_path):
    own = contract.METHODS["joint_gan"]
    files.write_sealed(tmp_path / "card.json", {"kind": "ddpm", "source": "train", "files": {}})
    with pytest.raises(UserError, match="is a ddpm of source train, and joint_gan wants a trained gan"):
        pretrain(real, NONE, method="joint_gan", own=own, folder=tmp_path)
    for name in ("card.json", "gan.json"):
        (tmp_path / name).write_bytes((trained_gan / name).read_bytes())
    (tmp_path / "gan.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="damaged"):
        pretrain(real, NONE, method="joint_gan", own=own, folder=tmp_path)
