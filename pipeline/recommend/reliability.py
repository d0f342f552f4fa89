"""How far a measure without labels can be trusted to choose, by the studies of this clone, whose images have labels."""

import contextlib
import statistics
from typing import NamedTuple

from pipeline.core.errors import UserError
from pipeline.recommend import arms
from pipeline.study import analysis, cells

MEASURE = "rotation"  # in the parts that have them all its choices lose least (docs/guide/recommend.md)


class Reliability(NamedTuple):
    """How a measure ordered the arms of the studies' parts: rank correlations, and points lost by its choices."""

    rho: tuple[float, ...]
    lost: tuple[float, ...]

    def told(self) -> str:
        """In words."""
        if not self.rho:
            return f"no study of this clone tells how far {MEASURE} can be trusted"
        mean, most = statistics.mean(self.lost), max(self.lost)
        return (
            f"over {len(self.rho)} part(s) of this clone's studies its rank correlation with accuracy was "
            f"{statistics.mean(self.rho):+.2f} ({min(self.rho):+.2f} to {max(self.rho):+.2f}), and what it chose was "
            f"{mean:.1f} points below the best ({most:.1f} at most)"
        )


def measured(measure: str = MEASURE) -> Reliability:
    """By every part that has labels, the measure and so many arms that their order can be more than chance.

    Races do not count, nor does a part with the same encoders as another.
    """
    rho, lost, seen = [], [], set()
    for path in sorted(cells.FOLDER.glob("*.yaml")):
        with contextlib.suppress(UserError):  # a study that cannot be read is of no use here
            study = cells.load(path.stem)
            parts = [] if arms.raced(study) else analysis.frame(study).groupby("part", sort=False)
            for name, of in parts:
                outcome = study.file.parts[name].outcomes[0]
                there, known = of.dropna(subset=[outcome, measure]), tuple(sorted(of[outcome].dropna()))
                if there.arm.nunique() < 3 or analysis.chance(there.arm.nunique()) == 1 or known in seen:
                    continue
                found = analysis.ranking(of, outcome).set_index("measure").loc[measure]
                if found.notna().all():
                    seen.add(known)
                    rho.append(float(found.rho))
                    lost.append(float(found.regret))
    return Reliability(tuple(rho), tuple(lost))


def liking(row: dict[str, str]) -> float | None:
    """A run's measure, larger where the measure likes it better; None where the row lacks it."""
    return analysis.EXPECTED[MEASURE] * float(row[MEASURE]) if row[MEASURE] else None
