"""The linear probe: multinomial logistic regression on frozen features, its regularisation chosen on validation."""

import math

import torch
import torch.nn.functional as F

Labelled = tuple[torch.Tensor, torch.Tensor]  # features float (N, D), labels int64 (N,)
Weights = tuple[torch.Tensor, torch.Tensor]  # (classes, D) and bias (classes,), as of nn.Linear
_CURVATURE = 0.25  # of 0.25, 0.09, 0.03 and 0.01 the one with the fewest steps, on features and on pixels
_TOLERANCE = 1e-4  # of the scaled gradient; from here to 1e-5 the chosen probe's top-1 moves by 0.05 points at most


class Standardise:
    """Shift and scale features by the mean and standard deviation of the probe's training features."""

    def __init__(self, x: torch.Tensor):
        self.mean = x.mean(dim=0)
        # One scale for all: a dimension that hardly varies carries little, and stays small.
        self.scale = (x - self.mean).pow(2).mean().sqrt().clamp(min=1e-12)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.scale


class Logistic:
    """Logistic regression on one training set, to be solved for several l2: x float (N, D), y int64 (N,).

    L-BFGS takes many steps where curvatures differ. A class's Hessian is at most X'X / 2N (Boehning 1992), so the
    unknowns are the weights along the eigenvectors of X'X / N, each scaled by its curvature: a fifth of the time.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor, classes: int):
        values, vectors = torch.linalg.eigh((x.T @ x / len(x)).double())
        self.variance, self.basis = values.clamp(min=0).to(x.dtype), vectors.to(x.dtype)
        self.x, self.y, self.classes = x @ self.basis, y, classes

    def solve(self, l2: float, start: Weights | None = None) -> Weights:
        """The minimum of mean cross-entropy + l2/2 |W|^2, the bias free; `start` is the solution for another l2."""
        scale = (_CURVATURE * self.variance + l2).rsqrt()
        x, penalty = self.x * scale, 0.5 * l2 * scale**2
        weight, bias = x.new_zeros(self.classes, x.shape[1]), x.new_zeros(self.classes)
        if start is not None:
            weight, bias = start[0] @ self.basis / scale, start[1].clone()
        unknowns = [weight.requires_grad_(), bias.requires_grad_()]
        lbfgs = torch.optim.LBFGS(
            unknowns,
            max_iter=500,
            tolerance_grad=_TOLERANCE,
            tolerance_change=1e-9,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> torch.Tensor:
            lbfgs.zero_grad()
            loss = F.cross_entropy(F.linear(x, weight, bias), self.y) + (penalty * weight**2).sum()
            loss.backward()
            return loss

        lbfgs.step(closure)
        return (weight.detach() * scale) @ self.basis.T, bias.detach()


def predict(weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """Classes (int64) of features (N, D)."""
    return F.linear(x, *weights).argmax(dim=1)


def linear_probe(
    train: Labelled, validation: Labelled, test: torch.Tensor, classes: int, grid: list[float]
) -> tuple[torch.Tensor, float]:
    """Test predictions (int64) of the probe whose l2 does best on validation, and that l2; the stronger one of equals.

    Features (N, D) are standardised by the training ones. The test features are used once, after the choice.
    """
    standard = Standardise(train[0])
    logistic, seen = Logistic(standard(train[0]), train[1], classes), standard(validation[0])
    best, weights = (-1.0, math.inf, None), None
    for l2 in sorted(grid, reverse=True):  # from the strongest on, each from the one before
        weights = logistic.solve(l2, weights)
        correct = (predict(weights, seen) == validation[1]).float().mean().item()
        if correct > best[0]:
            best = (correct, l2, weights)
    return predict(best[2], standard(test)), best[1]
