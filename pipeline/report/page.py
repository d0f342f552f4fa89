"""The page: everything there is to look at, in one HTML file that needs nothing else."""

from pathlib import Path

from pipeline.core import files, sources
from pipeline.core.progress import bar, log
from pipeline.report import run, studies
from pipeline.report.render import render
from pipeline.study import cells


def page() -> str:
    """The HTML of the run at hand, and of all studies that have rows."""
    names, sections = [path.stem for path in sorted(cells.FOLDER.glob("*.yaml"))], {}
    with bar("report", len(names) + 1, "section") as progress:
        sections["run"] = ("This run", run.section())
        progress.update()
        for name in names:
            study = cells.load(name)
            sections[f"study-{name}"] = (study.file.title, studies.section(study))
            progress.update()
    return render(
        "page.html", commit=sources.commit(), sections={key: found for key, found in sections.items() if found[1]}
    )


def write(path: Path) -> None:
    """Write the page, and say how large it is."""
    files.write_text(path, page())
    log(f"{path}: {path.stat().st_size / 1e6:.1f} MB, open it in a browser")
