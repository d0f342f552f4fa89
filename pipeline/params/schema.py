"""The typed schema of params.yaml: SECTIONS puts it together, RULES are the rules across sections.

No value has a default: what runs is what the file says. Nothing here needs torch, so that the check stage tells a typo
in half a second. A method, a kind of generators or of positives is added in its own registry, not here.
"""

from pydantic import create_model

from pipeline.params import augmentation, data, evaluation, generators, method_rules, positives, training
from pipeline.params.augmentation import Augment
from pipeline.params.data import Dataset, Inflation
from pipeline.params.evaluation import Baseline, FineTune, LinearEval, Quality, TransferSet
from pipeline.params.generators import DDPM, GAN, GENERATORS, Generate, Generator
from pipeline.params.methods import METHODS
from pipeline.params.positives import KINDS, Conditioned, Positives, UnCLIP
from pipeline.params.ranges import Key
from pipeline.params.training import Backbone, Compute, Pretrain, PretrainedWeights, RealOnly, Start, Training
from pipeline.params.types import Section

__all__ = [
    "DDPM",
    "GAN",
    "Backbone",
    "Baseline",
    "Conditioned",
    "PretrainedWeights",
    "RealOnly",
    "Training",
    "UnCLIP",
]  # for other rooms

SECTIONS = {  # in the order of the stages
    "compute": Compute,
    "dataset": Dataset,
    "generator": Generator,
    **GENERATORS,
    "generate": Generate,
    "positives": Positives,
    **{name: kind.section for name, kind in KINDS.items() if kind.section},
    "quality": Quality,
    "inflation": Inflation,
    "augment": Augment,
    "start": Start,
    "pretrain": Pretrain,
    **METHODS,
    "linear_eval": LinearEval,
    "transfer": dict[Key, TransferSet],
    "finetune": FineTune,
}
Params = create_model(
    "Params",
    __base__=Section,
    __doc__="All of params.yaml.",
    **{name: (kind, ...) for name, kind in SECTIONS.items()},
)
ROOMS = (data, augmentation, training, generators, positives, method_rules, evaluation)
RULES = tuple(check for subject in ROOMS for check in subject.RULES)
