"""README and docs/: short enough to be read, no dead link, and code blocks of extending.md that say where they go."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {  # pages that are linked to and not here yet
    *(f"docs/methods/{name}.md" for name in ("inflation", "positives", "joint-gan", "ssl", "evaluation", "mixed-ae")),
    "docs/files.md",
    "docs/images/report.png",
    "docs/results/index.md",
    "docs/parameters.md",
}
BLOCK = re.compile(r"(?ms)^```(python|yaml)\n(.*?)^```$")
GOES = re.compile(r"# (file|add to): (\S+?)(?:, after: (.+))?$")


def outside_code(text: str) -> str:
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.+)$", outside_code(page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 180
    assert max(map(len, lines)) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_code(page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if there.relative_to(ROOT).as_posix() in ELSEWHERE:
            continue
        assert there.exists(), target
        assert not anchor or there.suffix != ".md" or anchor in anchors(there), target


def test_every_code_block_of_extending_says_where_it_goes():
    blocks = BLOCK.findall((ROOT / "docs/extending.md").read_text(encoding="utf-8"))
    assert len(blocks) > 5
    for _, block in blocks:
        assert GOES.fullmatch(block.partition("\n")[0]), block
