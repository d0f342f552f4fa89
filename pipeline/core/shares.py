"""Shares and counts of the mixture, exact: what decides batches, so it is part of every fingerprint of them."""

from fractions import Fraction


def rounded(share: float, of: int) -> int:
    """share * of, halves up; of the decimal of params.yaml: 0.3 of 5 is 1.5 -> 2."""
    return int(Fraction(str(share)) * of + Fraction(1, 2))


def real_share(n_real: int, n_generated: int, real_weight: float) -> Fraction:
    """Beta: N n / (N n + m), of the decimal of params.yaml, so that it is exact."""
    weight = Fraction(str(real_weight)) * n_real
    return weight / (weight + n_generated)
