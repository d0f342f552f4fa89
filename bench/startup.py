"""How long a stage takes that does no work, against `import torch` alone (reported, no target).

python -m bench startup
"""

import subprocess
import sys

from bench import pairs


def process(*words: str):
    """A fresh interpreter."""
    return lambda: subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)


def rows() -> list[pairs.Row]:
    """The lightest stage, the heaviest, and one between: imports, params.yaml, a look at the machine."""
    bare = process("-c", "import torch")
    return [
        pairs.compare(
            f"startup, {name}", process("-m", f"stages.{name}", "--check"), bare, None, at_most=True, note="no work"
        )
        for name in ("check", "generator", "pretrain")
    ]
