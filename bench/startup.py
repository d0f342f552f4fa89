"""How long a stage takes until its work begins, against `import torch` alone (reported, no target).

python -m bench startup
"""

import subprocess
import sys

from bench import pairs


def process(code: str):
    """A fresh interpreter that runs a line."""
    return lambda: subprocess.run([sys.executable, "-c", code], check=True)


def rows() -> list[pairs.Row]:
    """The imports of the lightest stage, of the heaviest, and of one between."""
    bare = process("import torch")
    return [
        pairs.compare(
            f"startup, {name}", process(f"import stages.{name}"), bare, None, at_most=True, note="its imports"
        )
        for name in ("check", "generator", "pretrain")
    ]
