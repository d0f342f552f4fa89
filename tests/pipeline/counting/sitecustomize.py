"""On PYTHONPATH of a test's processes: counts what a stage does and can hold it still, without a hook in the pipeline.

Every start of a stage, optimiser step, call of a UNet and folder that gets its name appends a byte to
$COUNTS/STAGE.{starts,steps,forwards,assembles}; the counts go on from process to process. With HOLD=pretrain.steps:7
the process that is about to make step 7 writes its number into $COUNTS/held and stands still until it is killed.
"""

import importlib.machinery
import itertools
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

WORDS = sys.orig_argv
STAGE = next((b.removeprefix("stages.") for a, b in itertools.pairwise(WORDS) if a == "-m"), "")
STAGE += f"-{os.environ['RANK']}" if "RANK" in os.environ else ""  # the processes of a job count apart


def count(kind):
    path = Path(os.environ["COUNTS"]) / f"{STAGE}.{kind}"
    with open(path, "ab") as file:
        file.write(b".")
    if os.environ.get("HOLD") == f"{STAGE}.{kind}:{path.stat().st_size}":
        temporary = path.parent / ".held"
        temporary.write_text(str(os.getpid()))
        temporary.rename(path.parent / "held")
        time.sleep(1800)
        os._exit(9)  # nobody killed it: the test is gone


def count_steps(optimizer):
    optimizer.register_optimizer_step_pre_hook(lambda *called: count("steps"))


def count_forwards(module):
    module.register_module_forward_pre_hook(
        lambda called, inputs: count("forwards") if type(called).__name__ == "UNet2DModel" else None
    )


def count_assemblies(module):
    assemble = module.assemble

    def counted(*arguments, **named):
        count("assembles")
        assemble(*arguments, **named)

    module.assemble = counted


AFTER_IMPORT = {
    "torch.optim.optimizer": count_steps,
    "torch.nn.modules.module": count_forwards,
    "pipeline.core.files": count_assemblies,
}


def find_spec(name, path, target=None):
    if name not in AFTER_IMPORT:
        return None
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    execute = spec.loader.exec_module

    def exec_module(module):
        execute(module)
        AFTER_IMPORT[name](module)

    spec.loader.exec_module = exec_module
    return spec


# Installed for other tests, not for a user's run; diffusers would import them for seconds.
UNUSED = ("scipy", "transformers") if STAGE in ("generator", "generate", "quality", "pretrain", "linear_eval") else ()

if "COUNTS" in os.environ and any(word.startswith("stages.") for word in WORDS):
    count("starts")
    sys.modules.update(dict.fromkeys(UNUSED))
    sys.meta_path.insert(0, SimpleNamespace(find_spec=find_spec))
