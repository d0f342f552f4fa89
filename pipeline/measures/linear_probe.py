"""The linear probe: multinomial logistic regression on frozen features.

Validation chooses the regularisation or, where there is none, cross-validation on the train images.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

Labelled = tuple[torch.Tensor, torch.Tensor]  # features float (N, D), labels int64 (N,)
Weights = tuple[torch.Tensor, torch.Tensor]  # (classes, D) and bias (classes,), as of nn.Linear
FOLDS = 5
_CURVATURE = 0.25  # needs the fewest steps among 0.25, 0.09, 0.03 and 0.01, on features and on pixels
_TOLERANCE = 1e-4  # of the scaled gradient; with 1e-5 the top-1 of the chosen probe differs by at most 0.05 points


def standardiser(x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that shifts and scales features by the mean and deviation of the training features x (N, D)."""
    mean = x.mean(dim=0)
    # One scale for all dimensions: those that hardly vary carry little information and stay small.
    scale = (x - mean).pow(2).mean().sqrt().clamp(min=1e-12)
    return lambda features: (features - mean) / scale


class Logistic:
    """Logistic regression on one training set, solved for several l2: x float (N, D), y int64 (N,).

    L-BFGS needs many steps if curvatures differ. The Hessian of a class is at most X'X / 2N (Boehning 1992). So the
    unknowns are the weights along the eigenvectors of X'X / N, each scaled by its curvature: a fifth of the time.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor, classes: int):
        values, vectors = torch.linalg.eigh((x.T @ x / len(x)).double())
        self.variance, self.basis = values.clamp(min=0).to(x.dtype), vectors.to(x.dtype)
        self.x, self.target, self.classes = x @ self.basis, F.one_hot(y, classes).to(x.dtype), classes

    def solve(self, l2: float, start: Weights | None = None) -> Weights:
        """The minimum of mean cross-entropy + l2/2 |W|^2 (the bias is free); start: the solution for another l2."""
        scale = (_CURVATURE * self.variance + l2).rsqrt()
        x = torch.cat([self.x * scale, self.x.new_ones(len(self.x), 1)], dim=1)  # the last column is the bias's
        penalty = torch.cat([l2 * scale**2, scale.new_zeros(1)])
        unknown = x.new_zeros(self.classes, x.shape[1])
        if start is not None:
            unknown[:, :-1], unknown[:, -1] = start[0] @ self.basis / scale, start[1]
        unknown.requires_grad_()
        lbfgs = torch.optim.LBFGS(
            [unknown],
            max_iter=500,
            tolerance_grad=_TOLERANCE,
            tolerance_change=1e-9,
            history_size=10,  # fastest among 5, 8, 10, 15 and 20, on 1,000 and on 5,000 images
            line_search_fn="strong_wolfe",
        )

        def closure() -> torch.Tensor:
            # An explicit gradient: on so small a problem, autograd would take longer than the matrix products.
            log_p, penalised = F.log_softmax(x @ unknown.T, dim=1), penalty * unknown
            unknown.grad = torch.addmm(penalised, (log_p.exp() - self.target).T, x, alpha=1 / len(x))
            return 0.5 * (penalised * unknown).sum() - (log_p * self.target).sum() / len(x)

        with torch.no_grad():
            lbfgs.step(closure)
        found = unknown.detach()
        return (found[:, :-1] * scale) @ self.basis.T, found[:, -1].clone()


def predict(weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """Classes (int64) of features (N, D)."""
    return F.linear(x, *weights).argmax(dim=1)


def linear_probe(
    train: Labelled, validation: Labelled, test: torch.Tensor, classes: int, grid: list[float]
) -> tuple[torch.Tensor, float]:
    """Test predictions (int64) of the probe whose l2 is best on validation, and that l2; of equals, the stronger.

    Features (N, D) are standardised by the training features. The test features are used once, after the choice. An
    empty validation, float (0, D) and int64 (0,): l2 is best in cross-validation on `train` (`folds`), the strongest of
    a single image.
    """
    if len(grid) > 1 and not len(validation[1]):
        grid = [_cross_validated(train, classes, grid) if len(train[1]) > 1 else max(grid)]
    standard = standardiser(train[0])
    logistic, seen = Logistic(standard(train[0]), train[1], classes), standard(validation[0])
    best, weights = (-1.0, math.inf, None), None
    for l2, weights in _path(logistic, grid):
        correct = (predict(weights, seen) == validation[1]).sum().item()
        if correct > best[0]:
            best = (correct, l2, weights)
    return predict(best[2], standard(test)), best[1]


def folds(labels: torch.Tensor) -> torch.Tensor:
    """The fold of each of n images, int64 (n,) in [0, FOLDS): of every class as many in each, up to one."""
    found = torch.empty_like(labels)
    found[labels.argsort(stable=True)] = torch.arange(len(labels)) % FOLDS
    return found


def _path(logistic: Logistic, grid: list[float]) -> Iterator[tuple[float, Weights]]:
    weights = None
    for l2 in sorted(grid, reverse=True):  # the strongest first; each starts from the solution before
        weights = logistic.solve(l2, weights)
        yield l2, weights


def _cross_validated(train: Labelled, classes: int, grid: list[float]) -> float:
    """The l2 with most right predictions of images of the fold that was left out; of equals, the stronger."""
    (x, y), fold = train, folds(train[1])
    right = dict.fromkeys(sorted(grid, reverse=True), 0)
    for out in fold.unique():
        held = fold == out
        standard = standardiser(x[~held])
        unseen = standard(x[held])
        for l2, weights in _path(Logistic(standard(x[~held]), y[~held], classes), grid):
            right[l2] += (predict(weights, unseen) == y[held]).sum().item()
    return max(right, key=right.get)  # the first of equals
