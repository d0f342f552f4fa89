"""`make report`: everything there is to look at, in one HTML file that needs nothing else.

python -m pipeline.page                  report.html, of all studies and of the run at hand
python -m pipeline.page --out FILE       elsewhere
"""

import argparse
import html
import subprocess
from pathlib import Path

from pipeline.core import files
from pipeline.core.progress import bar, log
from pipeline.report import run, studies
from pipeline.run import stage
from pipeline.study import cells

_STYLE = Path(__file__).with_name("style.css")


def page() -> str:
    """The HTML."""
    names, sections = [path.stem for path in sorted(cells.FOLDER.glob("*.yaml"))], {}
    with bar("report", len(names) + 1, "section") as progress:
        for name in names:
            study = cells.load(name)
            sections[f"study-{name}"] = (study.file.title, studies.section(study))
            progress.update()
        sections["run"] = ("This run", run.section())
        progress.update()
    sections = {anchor: found for anchor, found in sections.items() if found[1]}
    links = "".join(f'<a href="#{anchor}">{html.escape(title)}</a>' for anchor, (title, _) in sections.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Leaven</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head><body>"
        "<h1>Do generated images help contrastive learning here?</h1>"
        f"<p class=made>Leaven at commit {_commit()}. Verdicts and why: <code>docs/results.md</code></p>"
        f"<nav>{links}</nav>{''.join(text for _, text in sections.values())}</body></html>\n"
    )


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Write one offline HTML file of the studies and of the run at hand."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.page", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    out = parser.parse_args().out
    files.write_text(out, page())
    log(f"{out}: {out.stat().st_size / 1e6:.1f} MB, open it in a browser")


if __name__ == "__main__":
    stage.command(main)
