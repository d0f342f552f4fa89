"""What pip installs: pyproject.toml, the lock and requirements.txt agree; the wheel works away from the repository."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from hatchling import build
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pipeline

REPOSITORY = Path(pipeline.__file__).parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
EXPORTED = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
PIN = re.compile(r"(?m)^([a-z][a-z0-9-]*==[^\\\n]*[^\\\s])")


def pins(text: str) -> dict[str, Requirement]:
    """Name -> pinned requirement of a lock's or an exported list's lines."""
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, PIN.findall(text))}


def requirements(lines: list[str]) -> list[Requirement]:
    """Parsed, without Leaven's own extras."""
    return [found for found in map(Requirement, lines) if found.name != PROJECT["name"]]


ALL = requirements([*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)])


@pytest.mark.parametrize("wanted", ALL, ids=str)
def test_lock_has_a_version_of_every_dependency(wanted):
    pinned = pins(LOCK)[canonicalize_name(wanted.name)]
    assert wanted.specifier.contains(next(iter(pinned.specifier)).version)


def test_every_version_of_the_lock_has_hashes():
    entries = re.split(r"(?m)^(?=[a-z])", LOCK)[1:]
    assert len(entries) == len(pins(LOCK)) > 200
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_requirements_txt_is_of_the_lock_and_has_all_that_a_run_needs():
    """All: what the installed packages ask for on this machine, from the dependencies on down."""
    locked, exported = pins(LOCK), pins(EXPORTED)
    for name, pin in exported.items():
        assert pin.specifier == locked[name].specifier
    left, needed = requirements(PROJECT["dependencies"]), set()
    while left:
        wanted = left.pop()
        extras = ["", *sorted(wanted.extras)]
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        for extra in extras:
            seen = (canonicalize_name(wanted.name), extra)
            if seen not in needed:
                needed.add(seen)
                asked = metadata.requires(wanted.name) or []
                left += [Requirement(line) for line in asked if fits(Requirement(line), extra)]
    assert {name for name, _ in needed} <= set(exported)
    assert len(exported) < len(locked)


def fits(wanted: Requirement, extra: str) -> bool:
    """Whether a package that is asked for with this extra, or "" for none, wants it here."""
    return wanted.marker is None or wanted.marker.evaluate({"extra": extra})


def test_make_lock_writes_both_lists():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for text in (LOCK, EXPORTED):
        command = text.splitlines()[1].removeprefix("#").strip()
        assert command.startswith("uv pip compile pyproject.toml ")
        assert f"\t{command}\n" in makefile


def test_lists_name_no_registry_and_no_folder():
    for text in (LOCK, EXPORTED):
        assert not re.search(r"://|--index|--find-links|(?m:^[^#]*@)|/(home|root|usr|opt|tmp)/", text)


def test_dependencies_are_what_the_code_imports():
    """A stage may need the dependencies alone; what an extra has is imported where it is used, inside functions."""
    distributions = metadata.packages_distributions()
    imported, at_once = set(), set()
    for path in (path for folder in ("pipeline", "stages") for path in (REPOSITORY / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            tops = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"pipeline", "stages"}
            names = {canonicalize_name(name) for top in tops for name in distributions[top]}
            imported |= names
            if node in tree.body and not path.is_relative_to(REPOSITORY / "pipeline/report"):
                at_once |= names
    always = {canonicalize_name(wanted.name) for wanted in requirements(PROJECT["dependencies"])}
    ever = {canonicalize_name(wanted.name) for wanted in ALL}
    assert imported <= ever | {"ruamel-yaml-clib"}
    assert always <= imported | {"dvc"}  # which starts the stages
    assert at_once <= always | {"ruamel-yaml-clib"}


def test_citation_has_the_version_and_licence_of_the_package():
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert f"\nlicense: {PROJECT['license']}\n" in citation


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what the wheel installs, and nothing else of the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        wheel = folder / build.build_wheel(str(folder))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_has_the_tracked_files_of_both_packages(installed):
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "pipeline", "stages"]
    done = subprocess.run(listed, cwd=REPOSITORY, stdout=-1, text=True, check=True).stdout.split("\0")
    expected = {name for name in done if name and (REPOSITORY / name).is_file()}
    held = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    assert {name for name in held if ".dist-info/" not in name} == expected
    assert {Path(name).suffix for name in expected} >= {".py", ".css"}
    assert "leaven = pipeline.__main__:main" in next(installed.glob("*.dist-info/entry_points.txt")).read_text()


def test_installed_package_loads_an_encoder_and_finds_its_presets_from_any_folder(installed, tmp_path):
    program = """
import sys
from pathlib import Path
import pipeline
from pipeline.networks import backbones
from pipeline.params import presets
assert Path(pipeline.__file__).is_relative_to(sys.argv[1])
made = backbones.build(backbones.resnet(8, [1, 1, 1, 1]), [0.5], [0.25], seed=0)
backbones.save(made, Path("encoder"))
assert backbones.load("encoder").card["sha256"]
assert {"smoke", "adainf-cifar10"} <= set(presets.names())
presets.load("smoke")
"""
    line = [sys.executable, "-c", program, str(installed)]
    environment = {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
