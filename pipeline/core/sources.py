"""A digest of source code: what a module and all that it imports from this package mean, not how they are laid out.

Comments, docstrings, blank lines and line breaks inside brackets do not count; names and constants do. It is made of
tokens, so that Python 3.11 and 3.13 give the same digest: their syntax trees print differently.
"""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
# Rooms and modules that move results about and cannot change one: no part of any digest.
PLUMBING = (
    "core/dvc_cache",
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
_LAYOUT = (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER)


@cache
def digest(*modules: str) -> str:
    """sha256 of the named modules and of all that they import from this package, plumbing left out.

    Modules are named by their path inside the package ("methods/simclr").
    """
    meanings = (f"{name}\n{meaning(module_file(name).read_text(encoding='utf-8'))}\n" for name in closure(*modules))
    return hashlib.sha256("".join(meanings).encode()).hexdigest()


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
    """The tokens of a source, a statement a line, indented by its depth; without what does not count."""
    lines, words, depth = [], [], 0
    for kind, text in _tokens(source):
        if kind == tokenize.INDENT:
            depth += 1
        elif kind == tokenize.DEDENT:
            depth -= 1
        elif kind != tokenize.NEWLINE:
            words.append((kind, text))
        else:
            if any(kind != tokenize.STRING for kind, _ in words):  # text alone is a docstring, or does nothing
                lines.append(f"{depth} {' '.join(text for _, text in words)}")
            words = []
    return "\n".join(lines)


def _tokens(source: str) -> Iterator[tuple[int, str]]:
    """Kind and text of each token that counts; an f-string is one token, as it was before Python 3.12."""
    lines, start, inside = source.splitlines(keepends=True), (0, 0), 0
    begins, ends = (getattr(tokenize, f"FSTRING_{which}", None) for which in ("START", "END"))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if begins is not None and token.type == begins:
            start, inside = start if inside else token.start, inside + 1
        elif begins is not None and token.type == ends:
            inside -= 1
            if not inside:
                yield tokenize.STRING, _between(lines, start, token.end)
        elif not inside and token.type not in _LAYOUT:
            yield token.type, token.string


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    (first, left), (last, right) = start, end
    if first == last:
        return lines[first - 1][left:right]
    return "".join([lines[first - 1][left:], *lines[first : last - 1], lines[last - 1][:right]])
