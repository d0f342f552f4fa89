"""Measures of features without labels: their rank, how views lie to images, how images lie to one another."""

import torch
import torch.nn.functional as F

IMAGES_A_CLUSTER, _ROUNDS = 20, 20


def rankme(x: torch.Tensor) -> float:
    """RankMe (Garrido et al., ICML 2023): exp of the entropy of the normalised singular values of features (N, D)."""
    return _rank(torch.linalg.svdvals(x.double()))


def _rank(values: torch.Tensor) -> float:
    p = values / values.sum().clamp(min=1e-12) + 1e-7  # features that are all zero have rank 1, not nan
    return float(torch.exp(-(p * p.log()).sum()))


def lidar(views: torch.Tensor) -> float:
    """LiDAR (Thilak et al., arXiv 2312.04000): exp of the entropy of the eigenvalues of a linear discriminant analysis.

    views: float (images, views, D), features of several views of each image; each image is a class. The covariance
    between images is whitened by that within images, to which 1e-4 is added after the features' mean variance was
    scaled to 1. The paper takes the projector's output, this the features of the probes.
    """
    x = views.double()
    means = x.mean(dim=1)
    scale = x.var(dim=(0, 1), correction=0).mean().clamp(min=1e-24)
    between, within = means - means.mean(dim=0), (x - means[:, None]).flatten(0, 1)
    within = within.T @ within / len(within) / scale + 1e-4 * torch.eye(x.shape[2], dtype=x.dtype)
    root = torch.linalg.cholesky(within)
    # Eigenvalues of within^-1/2 between within^-1/2 are squared singular values of root^-1 between'.
    return _rank(torch.linalg.svdvals(torch.linalg.solve_triangular(root, between.T / scale.sqrt(), upper=False)) ** 2)


def connectivity(one: torch.Tensor, two: torch.Tensor) -> float:
    """Share of views, in percent, whose nearest other view by cosine shows another image.

    one, two: features (N, D) of two views of each image. How well the graph of augmentations connects images, for the
    encoder: 0 if it tells all images apart, 100 (1 - 1/(2N - 1)) if views of an image have nothing in common.
    """
    x = F.normalize(torch.cat([one, two]), dim=1)
    nearest = (x @ x.T).fill_diagonal_(-torch.inf).argmax(dim=1)
    return 100 * float((nearest % len(one) != torch.arange(len(x)) % len(one)).float().mean())


def alignment(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean squared distance of two views' unit features (Wang and Isola, ICML 2020, with alpha = 2): 0 is best."""
    return float((F.normalize(a, dim=1) - F.normalize(b, dim=1)).pow(2).sum(dim=1).mean())


def uniformity(x: torch.Tensor) -> float:
    """log of the mean of exp(-2 d^2) over all pairs of unit features (Wang and Isola, with t = 2): lower is better."""
    distances = torch.pdist(F.normalize(x, dim=1).double())
    return float(torch.exp(-2 * distances**2).mean().log())


def cluster_learnability(x: torch.Tensor, draw: torch.Generator) -> float:
    """How easily clusters are learned, in percent (Lu et al., TMLR 2023, arXiv 2206.01251); x: float (N, D).

    k-means labels the unit features, a cluster for every 20 of them. In order, each is given the cluster of the nearest
    one before it; the share that is given its own. draw: chooses where k-means begins.
    """
    x = F.normalize(x, dim=1)
    cluster = _k_means(x, max(2, len(x) // IMAGES_A_CLUSTER), draw)
    cosine = x @ x.T
    later = torch.ones_like(cosine, dtype=torch.bool).triu()
    nearest = cosine.masked_fill_(later, -torch.inf)[1:].argmax(dim=1)
    return 100 * float((cluster[nearest] == cluster[1:]).float().mean())


def _k_means(x: torch.Tensor, k: int, draw: torch.Generator) -> torch.Tensor:
    """The cluster of each of x, float (N, D) -> int64 (N,), after Lloyd's iterations from k of them."""
    centres = x[torch.randperm(len(x), generator=draw)[:k]]
    for _ in range(_ROUNDS):
        cluster = torch.cdist(x, centres).argmin(dim=1)
        members = F.one_hot(cluster, k).to(x.dtype)
        count = members.sum(dim=0)[:, None]
        centres = torch.where(count > 0, members.T @ x / count.clamp(min=1), centres)  # an empty one stays
    return cluster


def intrinsic_dimension(x: torch.Tensor) -> float:
    """The features' intrinsic dimension by two neighbours (Facco et al., Scientific Reports 2017); x: float (N, D).

    With r1 and r2 the distances to the nearest and the next, (n - 1) / sum of log(r2 / r1): the unbiased maximum
    likelihood, where the paper fits a line. Copies (r1 = 0) do not count; 0 if there is nothing else, or no next.
    """
    if len(x) < 3:
        return 0.0
    near = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    one, two = near.fill_diagonal_(torch.inf).topk(2, dim=1, largest=False).values.T
    growth = (two / one)[one > 0].log()
    return (len(growth) - 1) / max(float(growth.sum()), 1e-9) if len(growth) > 1 else 0.0
