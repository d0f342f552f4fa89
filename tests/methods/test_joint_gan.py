"""The game's losses against slow ones and numbers by hand, and that each phase updates what it should."""

import math

import h5py
import numpy as np
import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.engine import distributed, loop
from pipeline.generators import gan
from pipeline.methods import joint_gan
from pipeline.methods.losses import multi_positive, nt_xent
from tests.methods import contract
from tests.methods.contract import unit
from tests.methods.test_contract import LATE, optimisation
from tests.toys import COMPUTE

MODES = tuple(joint_gan.TRAINED)
GAMES = ("hard", "pair", "both")


def built(mode, ramped=0, **changes):
    made = contract.build("joint_gan", mode=mode, **changes)
    made.ramped.fill_(ramped)
    return made


def slow_multi_positive(z, ids, t):
    """Anchor by anchor, by the formula."""
    z, found = z.detach().double(), []
    for a in range(len(z)):
        others = [b for b in range(len(z)) if b != a]
        positives = [p for p in others if ids[p] == ids[a]]
        total = sum(math.exp(z[a].dot(z[b]) / t) for b in others)
        found.append(-sum(math.log(math.exp(z[a].dot(z[p]) / t) / total) for p in positives) / len(positives))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("t", [0.1, 0.5, 2.0])
def test_the_loss_of_many_positives_is_the_slow_one(t):
    z, ids = unit(20, 6), torch.tensor([0, 1, 2, 3] * 2 + [4, 5, 6] * 4)
    found, right = multi_positive(z, ids, t)
    assert (found - slow_multi_positive(z, ids, t)).abs().max() < 1e-5
    near = [max((b for b in range(20) if b != a), key=lambda b: z[a].dot(z[b])) for a in range(20)]
    assert right.tolist() == [bool(ids[a] == ids[b]) for a, b in enumerate(near)]


def test_the_loss_of_many_positives_by_hand():
    """Alike vectors: log(V - 1). Two orthogonal identities of four alike views, t = 1: log(3 e + 4) - 1."""
    ids = torch.tensor([0, 1] * 4)
    alike = torch.tensor([[1.0, 0.0]]).expand(8, 2)
    assert torch.allclose(multi_positive(alike, ids, 0.3)[0], torch.full((8,), math.log(7)))
    found, right = multi_positive(torch.eye(2)[ids], ids, 1.0)
    assert torch.allclose(found, torch.full((8,), math.log(3 * math.e + 4) - 1))
    assert right.all()


def test_with_two_views_of_each_image_it_is_nt_xent():
    z = unit(12, 5)
    found, right = multi_positive(z, torch.arange(6).repeat(2), 0.4)
    wanted = nt_xent(z, 0.4)
    assert found.mean() == pytest.approx(wanted["loss"].item(), rel=1e-6)
    assert right.float().mean() == wanted["agreement"]


def test_identities_are_those_of_two_real_views_and_four_synthetic_ones():
    views = [torch.empty(3, 2)] * 2 + [torch.empty(2, 2)] * 4
    assert joint_gan.identities(views).tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 3, 4, 3, 4, 3, 4]


# --- the encoder


def test_at_first_the_encoder_sees_real_images_alone():
    made, views = built("both", real_steps=5), contract.views(6, name="joint_gan")
    z = torch.nn.functional.normalize(made.network(torch.cat(views[:2])), dim=1)
    assert made.loss(views, 4)["loss"].item() == pytest.approx(nt_xent(z, 0.5)["loss"].item(), rel=1e-5)
    assert set(made.loss(views, 4)) == {"loss", "real", "agreement"}
    assert not [phase for phase in made.phases()[:2] if phase.due(4)]


@pytest.mark.parametrize("mode", MODES)
def test_the_encoders_loss_is_over_real_views_and_four_of_each_synthetic_identity(mode):
    made, views, seen = built(mode), contract.views(6, name="joint_gan"), []
    made.encoder.register_forward_hook(lambda _, x, features: seen.append(x[0]))
    made.projector.register_forward_hook(lambda _, x, z: seen.append(z))
    found = made.loss(views, LATE)
    x, z = seen
    assert len(x) == 2 * 6 + 4 * 3
    assert torch.equal(x[:12], torch.cat(views[:2]))
    ids = torch.tensor([*range(6), *range(6), *range(6, 9), *range(6, 9), *range(6, 9), *range(6, 9)])
    wanted = slow_multi_positive(torch.nn.functional.normalize(z, dim=1), ids, 0.5)
    assert found["loss"].item() == pytest.approx(wanted.mean().item(), rel=1e-5)
    assert found["real"].item() == pytest.approx(wanted[:12].mean().item(), rel=1e-5)
    assert found["synthetic"].item() == pytest.approx(wanted[12:].mean().item(), rel=1e-5)
    assert not x.requires_grad


@pytest.mark.parametrize("mode", MODES)
def test_a_pair_is_what_the_arm_says(mode):
    made = built(mode)
    z, fresh = made.noise("encoder", contract.views(6, name="joint_gan"), 4)
    assert z.shape == fresh.shape == (3, 6)
    one, two = made.pair(z, fresh)
    if mode in ("static", "hard"):
        assert two is one
    elif mode == "static_pair":
        mixed = math.sqrt(0.7) * z + math.sqrt(0.3) * fresh
        assert torch.allclose(two, made.frozen.generator(mixed), atol=1e-6)
    else:
        assert torch.equal(one, two)  # at the start the second generator is a copy of the first
        with torch.no_grad():
            made.generators[1].last.weight.mul_(2)
        one, two = made.pair(z, fresh)
        assert torch.equal(one, made.generators[0](z))
        assert torch.equal(two, made.generators[1](z))
        assert not torch.equal(one, two)
    if mode.startswith("static"):
        assert torch.equal(one, made.frozen.generator(z))
        assert torch.allclose(
            made.pair(z[:1], fresh[:1])[0], one[:1], atol=1e-5
        )  # stored statistics: no other image matters


@pytest.mark.parametrize("mode", MODES)
def test_the_passes_of_the_backbone_in_every_arm(mode):
    made, counted = built(mode), []
    made.network[0].backbone.register_forward_hook(
        lambda _, x, y: counted.append(len(y) * (3 if y.requires_grad else 1))
    )
    for step in range(4):
        counted.clear()
        for phase in made.phases():
            if phase.due(step):
                phase.loss(contract.views(6, name="joint_gan"), step)
        assert sum(counted) == 6 * sum(made.passes(step))


# --- the generators


def generator_loss(made, step=LATE):
    return made.generator_loss(contract.views(6, name="joint_gan"), step)


@pytest.mark.parametrize("mode", GAMES)
def test_the_generators_loss_is_the_sum_of_its_terms(mode):
    made, features = built(mode, ramped=2), []
    with torch.no_grad():
        made.generators[-1].last.weight.mul_(1.5)
    made.projector.register_forward_hook(lambda _, x, z: features.append(torch.nn.functional.normalize(z, dim=1)))
    found = generator_loss(made)
    hard = 0.0
    if mode in ("hard", "both"):
        z = torch.cat(features[:2]).detach()
        wanted = slow_multi_positive(z, torch.tensor([*range(6)] * 2 + [6, 7, 8] * 2), 0.5)[12:].mean()
        assert found["contrast"].item() == pytest.approx(wanted.item(), rel=1e-5)
        hard += wanted.item()
    if mode in ("pair", "both"):
        one, two = features[-1].detach().double().chunk(2)
        cosines = [float(a.dot(b)) for a, b in zip(one, two, strict=True)]
        margin = 0.05 + 2 / 3 * 0.45
        assert found["margin"].item() == pytest.approx(margin)
        assert found["cosine"].item() == pytest.approx(sum(cosines) / 3, rel=1e-5)
        hard += sum(min(1 - cosine, margin) for cosine in cosines) / 3
    assert found["weight"].item() == pytest.approx(2 / 3)
    wanted = found["adversarial"] - found["guard"] * 2 / 3 * hard + 0.1 * found["realism"]
    assert found["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_pairs_cosine_is_fp32_under_autocast():
    """bf16 has steps of 1 / 256 below 1, where pairs begin."""
    made, features = built("pair", 2), []
    with torch.no_grad():
        made.generators[-1].last.weight.mul_(1.1)
    made.projector.register_forward_hook(
        lambda _, x, z: features.append(torch.nn.functional.normalize(z.float(), dim=1))
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = generator_loss(made)["cosine"]
    one, two = features[-1].detach().double().chunk(2)
    assert found.item() == pytest.approx((one * two).sum(dim=1).mean().item(), abs=1e-6)


def test_synthetic_images_that_processes_cannot_share_are_refused_at_the_first_step(monkeypatch):
    """A quarter of four processes' 24 rows are 6."""
    made, views = built("both", real_steps=5, synthetic=0.25), contract.views(6, name="joint_gan")
    monkeypatch.setattr(distributed, "size", lambda: 4)
    with pytest.raises(UserError, match=r"6 synthetic images a step among 4 processes.*joint_gan\.synthetic"):
        made.loss(views, 0)


def test_realism_is_the_mean_squared_distance_of_features_and_zero_for_the_same_images():
    made = built("pair")
    z = torch.randn(3, 6)
    same = [made.frozen.generator(z)]
    assert made.realism(z, same).item() == 0
    others = [torch.rand(3, 1, 12, 12) * 2 - 1 for _ in range(2)]
    wanted, psi = 0.0, made.frozen.discriminator
    for images in others:
        for a, b in zip(psi(images)[1].double(), psi(same[0])[1].double(), strict=True):
            wanted += sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True))
    assert made.realism(z, others).item() == pytest.approx(wanted / 6, rel=1e-5)


@pytest.mark.parametrize("mode", GAMES)
def test_the_gradient_of_hardness_reaches_every_generator_through_views_and_encoder(mode):
    """Along its own direction it is the difference that is seen; the encoder and the discriminator get none."""
    made, views = built(mode, margin_end=2.0, margin_start=2.0), contract.views(6, name="joint_gan")
    with torch.no_grad():
        made.generators[-1].last.weight.mul_(1.5)
        for part in made.generators:
            part.last.bias.fill_(0.1)
    z, _ = made.noise("generator", views, LATE)

    def hardness():
        return made.hardness([generator(z) for generator in made.generators], views, LATE)[0]

    hardness().backward()
    for generator in made.generators:
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.parameters() if p.ndim > 1)
    assert all(p.grad is None for part in (made.network, made.discriminator, made.frozen) for p in part.parameters())
    weights = [generator.last.weight for generator in made.generators]
    slopes = [w.grad.clone() for w in weights]
    length = math.sqrt(sum(float(slope.square().sum()) for slope in slopes))
    seen = []
    for sign in (1, -1):
        with torch.no_grad():
            for w, slope in zip(weights, slopes, strict=True):
                w.add_(slope, alpha=sign * 0.003 / length)
            seen.append(hardness().item())
            for w, slope in zip(weights, slopes, strict=True):
                w.sub_(slope, alpha=sign * 0.003 / length)
    assert (seen[0] - seen[1]) / 0.006 == pytest.approx(length, rel=0.05)


def test_the_guard_holds_at_the_generators_last_layer():
    made = built("hard", ramped=3, weight=1000.0)
    views = contract.views(6, name="joint_gan")
    z, _ = made.noise("generator", views, LATE)
    images = [generator(z) for generator in made.generators]
    last = made.generators[0].last.weight
    with gan.held(made.discriminator):
        scores = [made.scores(each, f"generator {k}, seen", LATE) for k, each in enumerate(images)]
    push, pull = (
        torch.autograd.grad(term, last, retain_graph=True)[0].norm()
        for term in (
            sum(map(gan.generator_hinge, scores)),
            made.hardness(images, views, LATE)[0],
        )
    )
    found = generator_loss(made)
    assert found["guard"].item() == pytest.approx((0.5 * push / (1000 * pull)).item(), rel=1e-3)
    assert found["guard"] < 1


@pytest.mark.parametrize(("mode", "term", "sign"), [("hard", "contrast", 1), ("pair", "cosine", -1)])
def test_the_game_makes_samples_harder_and_pairs_less_alike(mode, term, sign, tmp_path):
    """Where the term rules, the encoder held where it is: the mean over noise that is new to the generators."""
    made = built(
        mode, ramped=3, weight=1e4, guard=1e9, realism=0.0, game_lr=0.01, real_steps=0, every=1, temperature=0.1
    )
    views = contract.views(8, name="joint_gan")

    def measured():
        with torch.no_grad():
            noises = [made.noise("generator", views, step)[0] for step in range(100, 112)]
            images = [[generator(z) for generator in made.generators] for z in noises]
            found = [made.hardness(each, views, 100 + k)[1][term].item() for k, each in enumerate(images)]
        return sum(found) / len(found)

    before = measured()
    generators, *_ = made.phases()
    task = loop.Task([generators], lambda step: views, {"method": made})
    loop.train("game", task, optimisation(30), COMPUTE, tmp_path, "work")
    assert sign * (measured() - before) > 0.1


def test_the_discriminator_tells_the_plain_images_from_both_generators(tmp_path):
    made = built("both", real_steps=0, every=1, game_lr=0.01)
    views = [*contract.views(12, name="joint_gan")[:2], (torch.rand(12, 1, 12, 12) > 0.5).float()]
    _, discriminator, _ = made.phases()
    task = loop.Task([discriminator], lambda step: views, {"method": made})
    rows = loop.train("game", task, optimisation(40), COMPUTE, tmp_path, "work")
    assert rows[-1]["discriminator_real"] > rows[-1]["discriminator_fake"] + 1
    assert rows[-1]["discriminator_loss"] < rows[0]["discriminator_loss"]


# --- the ramp


def test_the_ramp_begins_after_the_real_steps_and_ends():
    made, seen = built("pair", real_steps=2, ramp_steps=4), []
    for step in range(8):
        seen.append((made.ramp().item(), round(made.margin().item(), 4)))
        made.after_step(step, (step + 1) / 9)
    assert [ramp for ramp, _ in seen] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert [margin for _, margin in seen] == [0.05, 0.05, 0.05, 0.1625, 0.275, 0.3875, 0.5, 0.5]


def test_the_ramp_waits_while_the_generators_are_too_far_from_the_images():
    made = built("pair", ramp_steps=10, real_steps=0)
    assert made.monitor.baseline > 0
    for distance, done in ((1.24, 1), (1.26, 1), (5.0, 1), (1.2, 2)):
        made.monitor.distance.copy_(distance * made.monitor.baseline)
        made.after_step(3, 0.5)
        assert made.ramped.item() == done


def test_every_measurement_of_generators_too_far_halves_the_ramp():
    made, seen = built("pair", ramped=9, ramp_steps=10, real_steps=0, monitor_every=3), []
    with torch.no_grad():
        made.generators[1].last.bias.add_(1)
    for step in range(7):
        made.before_step(step, 0.1)
        seen.append(made.ramped.item())
        made.after_step(step, 0.1)
    assert seen == [4, 4, 4, 2, 2, 2, 1]
    made.generators[1].load_state_dict(made.frozen.generator.state_dict())
    for step in (9, 10):
        made.before_step(step, 0.1)
        made.after_step(step, 0.1)
    assert made.ramped.item() == 3  # near again: a step each


def test_the_monitor_measures_the_farthest_generator_when_it_is_time():
    made = built("pair", real_steps=1, monitor_every=3)
    assert made.monitor.distance == made.monitor.baseline
    with torch.no_grad():
        made.generators[1].last.bias.add_(1)
    for step in (0, 2, 3):
        made.before_step(step, 0.1)
        assert made.monitor.distance == made.monitor.baseline
    made.before_step(4, 0.1)
    assert made.monitor.distance > made.monitor.baseline
    grown = made.monitor.distance / made.monitor.baseline - 1
    assert generator_loss(made)["growth"] == grown  # a share of the GAN's as it came
    real = torch.from_numpy(contract.given().images)
    features = made.frozen.discriminator(real.permute(0, 3, 1, 2) / 127.5 - 1)[1]
    whole = built("pair", monitor_images=20)
    found, wanted = (x[x[:, 0].argsort()] for x in (whole.monitor.real, features))
    assert torch.allclose(found, wanted, atol=1e-6)


# --- snapshots


def run(folder, crash_at=None, mode="both", steps=6):
    made = built(mode)

    def batch(step):
        if step == crash_at:
            raise KeyboardInterrupt
        return contract.views(4, step, "joint_gan")

    task = loop.Task(made.phases(), batch, {"method": made}, made.before_step, made.after_step)
    loop.train("game", task, optimisation(steps), COMPUTE, folder, "work")
    return made


def test_snapshots_are_kept_evenly_and_written_alike_after_crashes(tmp_path):
    straight = run(tmp_path / "straight")
    for crash_at in (1, 3, 5):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "chain", crash_at)
    chain = run(tmp_path / "chain")
    files = []
    for name, made in (("straight", straight), ("chain", chain)):
        assert made.save_artifacts(tmp_path / name, contract.given().images) == ["gan_snapshots.h5"]
        files.append((tmp_path / name / "gan_snapshots.h5").read_bytes())
    assert files[0] == files[1]
    with h5py.File(tmp_path / "straight" / "gan_snapshots.h5") as file:
        assert file["step"][:].tolist() == [0, 3, 6]
        assert file["images"].shape == (3, 2, 2, 12, 12, 1)
        assert file["images"].dtype == np.uint8
        assert file["images"].chunks is None
        assert file.attrs["mode"] == "both"
        z, images, cosine = (file[name][:] for name in ("z", "images", "cosine"))
    fresh = built("both")
    with torch.no_grad():
        wanted = gan.to_uint8(fresh.frozen.generator(torch.from_numpy(z)))
    assert np.array_equal(images[0, :, 0], wanted)
    assert np.array_equal(images[0, :, 1], wanted)
    assert np.allclose(cosine[0], 1)
    assert not np.array_equal(images[2], images[0])
    assert cosine[2].max() < 1


def test_static_arms_have_one_phase_and_images_that_stay(tmp_path):
    for mode in ("static", "static_pair"):
        made = run(tmp_path / mode, mode=mode)
        assert len(made.phases()) == 1
        assert torch.equal(made.snapshots.images[0], made.snapshots.images[2])
        alike = torch.equal(made.snapshots.images[:, :, 0], made.snapshots.images[:, :, 1])
        assert alike == (mode == "static")


def test_a_gan_of_other_images_is_refused():
    params, given = contract.METHODS["joint_gan"], contract.given()
    other = joint_gan.Given(given.generator, np.zeros((20, 8, 8, 1), np.uint8), given.augmentation)
    encoder = contract.build("simclr").encoder
    with pytest.raises(UserError, match=r"makes images of \(12, 12, 1\), the data has \(8, 8, 1\)"):
        joint_gan.JointGAN.build(params, encoder, 0, other)
