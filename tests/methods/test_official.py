"""Numbers that the official repositories' own code gave for the same tensors: losses, codes, a centre, LARS, rates.

github.com/vturrisi/solo-learn@9187ea3 (solo/losses, solo/utils) and github.com/dewenzeng/clsp@91c8f9e
(train_simclr_clsp.py), run side by side with torch 2.14.1 in fp32 on tensors of sines. Of their code nothing is here.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.engine import loop
from pipeline.methods import barlow_twins, byol, dino, losses, swav, vicreg
from pipeline.params.schema import Training
from pipeline.training import encoder
from tests.methods import contract
from tests.toys import pretrain_params

N, D, K = 8, 6, 12


def wave(n, d, phase):
    """sin(phase + 1.7 i + 0.9 j + 0.31 i j), float32 (n, d)."""
    i, j = np.mgrid[:n, :d].astype(np.float64)
    return torch.from_numpy(np.sin(phase + 1.7 * i + 0.9 * j + 0.31 * i * j)).float()


def unit(x):
    return F.normalize(x, dim=1)


ONE, TWO, P1, P2, THIRD = (wave(N, D, phase) for phase in (0.1, 0.5, 1.1, 1.7, 6.1))
QUEUE = unit(wave(K, D, 2.3))
NEAR = [unit(wave(N, D, 2.9)), unit(wave(N, D, 3.3))]


def simclr():
    return losses.nt_xent(unit(torch.cat([ONE, TWO])), 0.2)


def moco():
    q = unit(ONE), unit(TWO)
    return losses.symmetric(lambda i, j: losses.info_nce(q[i], q[j], QUEUE, 0.2))


def simsiam():
    """The method itself, whose images are projections and whose predictor says what is given."""

    class Given(nn.Module):
        def __init__(self):
            super().__init__()
            self.left = [P1, P2]

        def forward(self, x):
            return self.left.pop(0)

    built = contract.build("simsiam")
    built.encoder, built.projector, built.predictor = nn.Identity(), nn.Identity(), Given()
    return built.loss([ONE, TWO], 0)


def byol_of_both():
    return {"loss": byol.regression(unit(P1), unit(TWO)) + byol.regression(unit(P2), unit(ONE))}


def vicreg_of_both():
    terms = F.mse_loss(ONE, TWO), vicreg.variance(ONE) + vicreg.variance(TWO), vicreg.covariance(ONE)
    return {"loss": 25 * terms[0] + 25 * terms[1] + terms[2] + vicreg.covariance(TWO)}


def nnclr():
    p = unit(P1), unit(P2)
    return losses.symmetric(lambda i, j: losses.of_neighbours(NEAR[i], p[j], 0.2))


def dino_of_both():
    center = 0.1 * wave(1, D, 4.1)
    targets = [((scores - center) / 0.07).softmax(dim=1) for scores in (ONE, TWO)]
    return dino.distillation([P1, P2], targets, 0.1)


def codes():
    scores = [unit(x) @ unit(wave(5, D, 5.3)).T for x in (ONE, TWO)]
    return scores, [swav.sinkhorn(each, 0.05, 3) for each in scores]


FOUND = {
    "simclr": (simclr, 0.17799754),
    "moco": (moco, 0.78335184),
    "byol": (byol_of_both, 3.1034162),
    "simsiam": (simsiam, -0.22414596),
    "barlow_twins": (lambda: barlow_twins.barlow_twins(ONE, TWO, 0.0051, 0.1), 0.014683611),
    "vicreg": (vicreg_of_both, 16.513214),
    "nnclr": (nnclr, 3.6900573),
    "dino": (dino_of_both, 6.1116877),
    "swav": (lambda: {"loss": losses.cross_prediction(*codes(), 0.1)}, 1.0477536),
    "clsp_simclr": (lambda: losses.with_alignment(simclr(), unit(ONE), unit(THIRD), 1.0), 0.24948978),
    "clsp_moco": (lambda: losses.with_alignment(moco(), unit(ONE), unit(THIRD), 0.5), 0.81909800),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_loss_is_the_repositorys_number(name):
    ours, theirs = FOUND[name]
    assert ours()["loss"].item() == pytest.approx(theirs, rel=2e-6)


def test_a_code_is_the_repositorys():
    theirs = [0.85990864, 0.12555404, 2.0963275e-06, 0.014314156, 0.00022117121]
    assert codes()[1][0][0].tolist() == pytest.approx(theirs, rel=1e-5)


def test_the_centre_moves_to_the_repositorys():
    """After a step with momentum 0.9: the mean of the scores of both views joins."""
    built = contract.build("dino", center_momentum=0.9, output_dim=D)
    built.center.copy_(0.1 * wave(1, D, 4.1)[0])
    built.seen.append(torch.cat([ONE, TWO]).mean(dim=0))
    built.after_step(0, 0.5)
    theirs = [-0.073912278, -0.07306391, -0.035025422, 0.048450422, 0.080060028, 0.063774757]
    assert built.center.tolist() == pytest.approx(theirs, rel=1e-5)


def test_three_steps_of_lars_end_where_the_repositorys_do():
    """A matrix, an online head's without decay, which is adapted as well, and a vector, which is not."""
    matrix, vector = nn.Parameter(wave(4, 3, 0.2)), nn.Parameter(wave(1, 3, 0.9)[0].clone())
    head = nn.Parameter(0.01 * wave(2, 3, 0.7))
    params = pretrain_params(
        optimizer="lars", lr=0.4, momentum=0.9, weight_decay=1e-4, trust_coefficient=0.02, trust_clip=True
    )
    groups = [
        *loop.groups_of(nn.ParameterList([matrix, vector])),
        loop.Group([head], decay=False),
    ]
    plan = loop.Optimisation(params, lambda given, lr: encoder.optimiser(params, given, lr))
    built = loop._optimiser(loop.Phase(groups, lambda batch, step: {}), plan)
    for step in range(3):
        matrix.grad, head.grad = wave(4, 3, 1.0 + step), 0.001 * wave(2, 3, 2.0 + step)
        vector.grad = wave(1, 3, 3.0 + step)[0].clone()
        built.step()
    assert matrix.flatten()[:4].tolist() == pytest.approx([0.11652137, 0.84530187, 0.93437481, 0.96341497], rel=1e-5)
    theirs = [0.0059677316, 0.010315599, 0.0068568266, 0.007594056, -0.0038727371, -0.010328359]
    assert head.flatten().tolist() == pytest.approx(theirs, rel=1e-5)
    assert vector.tolist() == pytest.approx([1.5890925, 2.6156008, 1.6626745], rel=1e-5)


def test_rates_are_the_repositorys():
    """solo-learn's warm-up from 3e-5 and half a cosine, here to 0.001."""
    schedule = Training(
        steps=100,
        batch_size=8,
        lr=0.4,
        min_lr=0.001,
        warmup_steps=10,
        warmup_lr=3e-5,
        weight_decay=0.0,
        log_every=1,
        checkpoint_every=1,
        seed=0,
    )
    theirs = {0: 3e-5, 1: 0.04447111111, 9: 0.4, 10: 0.4, 11: 0.39987846999, 50: 0.23514281144, 99: 0.00112153001}
    for step, rate in theirs.items():
        assert loop.learning_rate(schedule, step) == pytest.approx(rate, rel=1e-8)
