"""A digest of source code: what a module and all that it imports from this package mean, not how they are laid out.

Comments, docstrings and layout do not count; names and constants do. Python 3.11 and 3.13 give the same digest, which
`ast.dump` would not.
"""

import ast
import hashlib
import subprocess
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
# Rooms and modules that move results about and cannot change one: no part of any digest.
PLUMBING = (
    "core/access",
    "core/errors",
    "core/files",
    "core/outputs",
    "core/processes",
    "core/progress",
    "core/sources",
    "core/store",
    "engine/checkpoint",
    "params",
    "run",
    "report",
)


def commit() -> str:
    """The commit that is checked out in the working directory, "and changes" where tracked files differ from it."""

    def git(*words: str) -> str:
        try:
            return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()
        except FileNotFoundError:  # no git
            return ""

    name = git("rev-parse", "--short=12", "HEAD")
    return f"{name}{' and changes' if git('status', '--porcelain', '--untracked-files=no') else ''}" or "unknown"


@cache
def digest(*modules: str) -> str:
    """sha256 of the named modules and of all that they import from this package, plumbing left out.

    Modules are named by their path inside the package ("methods/simclr").
    """
    meanings = (f"{name}\n{meaning(module_file(name).read_text(encoding='utf-8'))}\n" for name in closure(*modules))
    return hashlib.sha256("".join(meanings).encode()).hexdigest()


def of_stage(file: str, *modules: str) -> str:
    """The same of modules, of a stage's own file, and of what writes its metrics and pictures."""
    own = (meaning(path.read_text(encoding="utf-8")) for path in (Path(file), module_file("core/outputs")))
    return hashlib.sha256("\n".join([*own, digest(*modules)]).encode()).hexdigest()


def closure(*modules: str) -> list[str]:
    """Names of the modules and of everything they import from this package, sorted, plumbing left out."""
    seen, todo = set(), list(modules)
    while todo:
        name = todo.pop()
        if name not in seen and not is_plumbing(name):
            seen.add(name)
            todo += imports(module_file(name))
    return sorted(seen)


def is_plumbing(name: str) -> bool:
    """Whether a module cannot change a result."""
    return any(name == plumbing or name.startswith(f"{plumbing}/") for plumbing in PLUMBING)


def module_file(name: str) -> Path:
    """The source file of a module named by its path inside the package."""
    file = PACKAGE / f"{name}.py"
    return file if file.exists() else PACKAGE / name / "__init__.py"


def imports(file: Path) -> list[str]:
    """Modules of this package that a source file imports anywhere in it, by their path inside the package."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            dotted = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        paths = ["/".join(name.split(".")[1:]) for name in dotted if name.startswith("pipeline.")]
        found += [path for path in paths if module_file(path).exists()]
    return found


def meaning(source: str) -> str:
    """The syntax tree of a source as text, without what does not count."""
    return _text(ast.parse(source))


def _text(node: object) -> str:
    if isinstance(node, list):
        return f"[{' '.join(_text(entry) for entry in node if not _is_docstring(entry))}]"
    if isinstance(node, ast.JoinedStr):  # Python 3.12 puts empty texts between the parts
        return f"JoinedStr{_text([part for part in node.values if getattr(part, 'value', None) != ''])}"
    if isinstance(node, ast.AST):  # Python 3.12 has fields that 3.11 lacks, so those that hold nothing are left out
        fields = (f"{name}={_text(value)}" for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({' '.join(fields)})"
    return ascii(node)


def _is_docstring(node: object) -> bool:
    """Whether a statement is a text alone, which is a docstring or does nothing."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
