"""dvc.yaml, params.yaml and the code tell one story; the library reads from top to bottom; nothing dangerous is called.

All of it by reading the sources: nothing here imports torch.
"""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

import pipeline
from pipeline.core import sources
from pipeline.params import reader
from pipeline.params.schema import Params

REPOSITORY = Path(pipeline.__file__).parent.parent
WRITTEN = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
FOREACH = {name: described["foreach"] for name, described in WRITTEN.items() if "foreach" in described}
STAGES = {name: described.get("do", described) for name, described in WRITTEN.items()}
SOURCES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for folder in ("pipeline", "stages")
    for path in (REPOSITORY / folder).rglob("*.py")
)
# The rooms of the library in the order of their imports: a room uses those before it, and itself.
ROOMS = "core params data augment networks engine measures generators methods training positives evaluation"
ROOMS = [*ROOMS.split(), "release", "run", "study", "recommend", "report", "commands"]


def tree(source: str) -> ast.Module:
    return ast.parse((REPOSITORY / source).read_text(encoding="utf-8"), source)


def path_of(module: str) -> str:
    return sources.module_file(module).relative_to(REPOSITORY).as_posix()


def calls(source: str):
    """(dotted name, call) of every call in a file whose function is a plain name or an attribute path."""
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(call: ast.Call) -> dict[str, str]:
    return {word.arg: ast.unparse(word.value) for word in call.keywords}


# --- dvc.yaml and the code


def test_stages_of_dvc_and_modules_of_the_folder_are_the_same():
    modules = {path.removeprefix("stages/").removesuffix(".py") for path in SOURCES if path.startswith("stages/")}
    assert set(STAGES) == modules - {"__init__"}
    for name, described in STAGES.items():
        assert described["desc"]
        key = "" if name not in FOREACH else f" {called(name)}"
        assert described["cmd"] == f"python -m stages.{name}{key}"
        assert f'stage.run("{name}", main, ' in (REPOSITORY / f"stages/{name}.py").read_text()


def called(name: str) -> str:
    """What dvc.yaml calls an entry of a foreach stage: a mapping's has a key, a list's is its item."""
    return "${key}" if reader.section(tuple(of(name).split("."))) is not None else "${item}"


def of(name: str) -> str:
    return FOREACH[name].removeprefix("${").removesuffix("}")


@pytest.mark.parametrize("name", FOREACH)
def test_stages_of_a_foreach_are_apart_and_there_is_none_by_default(name):
    """Each writes files of its own, and reads no entry but its own."""
    assert all(called(name) in path for path in written(STAGES[name]))
    section, _, key = of(name).partition(".")
    assert section not in STAGES[name]["params"]
    assert of(name) not in STAGES[name]["params"]
    assert bool(key) != (f"{section}.{called(name)}" in STAGES[name]["params"])  # a list's entry is a number
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))[section]
    assert not (values[key] if key else values)
    assert not [line for line in (REPOSITORY / "dvc.lock").read_text().splitlines() if line.startswith(f"  {name}@")]


@pytest.mark.parametrize("name", list(STAGES))
def test_a_stage_depends_on_the_rooms_that_it_reaches(name):
    """By the imports of its file and of all that these import; what can change no result is no dependency."""
    listed = {dep for dep in STAGES[name]["deps"] if dep.startswith(("pipeline", "stages"))}
    todo, reached = sources.imports(REPOSITORY / f"stages/{name}.py"), set()
    while todo:
        module = todo.pop()
        if module not in reached and (name == "check" or not sources.is_plumbing(module)):
            reached.add(module)
            todo += sources.imports(sources.module_file(module))
            todo += loaded_on_use(module)
    rooms = {f"pipeline/{module.partition('/')[0]}" for module in reached}
    assert listed == {f"stages/{name}.py", "pipeline/core"} | rooms


def loaded_on_use(module: str) -> list[str]:
    """Modules of a room whose __init__ imports them by name."""
    file = sources.module_file(module)
    if file.name != "__init__.py" or "import_module" not in file.read_text(encoding="utf-8"):
        return []
    return [f"{module}/{path.stem}" for path in file.parent.glob("*.py") if path.name != "__init__.py"]


def read_of(variable: str, source: str) -> set[str]:
    """The attributes of a variable that a file reads."""
    attributes = (node for node in ast.walk(tree(source)) if isinstance(node, ast.Attribute))
    return {node.attr for node in attributes if ast.unparse(node.value) == variable}


@pytest.mark.parametrize("name", [name for name in STAGES if name != "check"])
def test_stage_uses_every_section_that_it_is_given_and_no_other(name):
    """The kinds of positives read what their stage is given, each its own section."""
    used = read_of("params", f"stages/{name}.py")
    if name == "positives":
        kinds = (source for source in SOURCES if source.startswith("pipeline/positives/"))
        used = used.union(*(read_of("inputs.params", kind) for kind in kinds))
    given = set()
    for words in STAGES[name]["params"]:
        section, _, value = words.strip("${}").partition(".")
        if not words.endswith(".${key}"):
            given.add(f"{value}_params" if words.startswith("$") else section)
    assert used - {"outs"} == given | ({"key", "item"} & used if name in FOREACH else set())


def test_every_parameter_is_read_by_a_stage_that_computes_and_has_one_owner():
    """A whole section, with its seed, belongs to one stage; others may read single values of it, all read compute.

    Of a section with a list that stages are made of, the other values are as good as the whole.
    """
    owners: dict[str, list[str]] = {section: [] for section in Params.model_fields}
    for name in set(STAGES) - {"check"}:
        given = STAGES[name]["params"]
        for words in given:
            section, _, value = words.strip("${}").partition(".")
            if words.startswith("$"):
                for kind in get_args(Params.model_fields[section].annotation.model_fields[value].annotation):
                    owners[kind].append(name)
            elif not value or words.endswith(".${key}"):
                owners[section].append(name)
        if name in FOREACH and "." in of(name):
            section, _, labels = of(name).partition(".")
            others = {key[1] for key in reader.keys() if key[0] == section and len(key) == 2} - {labels}  # noqa: SIM118
            if {f"{section}.{value}" for value in others} <= set(given):
                owners[section].append(name)
    assert len(owners.pop("compute")) > 1
    assert {section for section, names in owners.items() if len(names) != 1} == set()
    committed = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    assert list(committed) == list(Params.model_fields)


@pytest.mark.fault(34)
def test_no_generated_image_reaches_an_evaluation():
    """They have no labels either: a shard holds `images` alone (test_shards)."""
    for name in ("linear_eval", "transfer", "finetune"):
        assert not [dep for dep in STAGES[name]["deps"] if dep.startswith(("data/generated", "data/generator"))]
    for module in ("linear_eval", "transfer", "finetune"):
        names = {
            node.attr for node in ast.walk(tree(path_of(f"evaluation/{module}"))) if isinstance(node, ast.Attribute)
        }
        assert not names & {"read_generated", "map_generated", "SET"}, module


def written(described: dict) -> list[str]:
    """All that a stage of dvc.yaml makes."""
    outs = [out for kind in ("outs", "metrics", "plots") for out in described.get(kind, [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in outs]


def test_what_a_stage_reads_of_another_is_made_by_it():
    outs = {}
    for name, described in STAGES.items():
        for path in written(described):
            assert path not in outs, "two stages make it"
            outs[path] = name
    order = list(STAGES)
    for name, described in STAGES.items():
        made = [dep for dep in described["deps"] if dep.startswith("data/")]
        assert all(order.index(outs[dep]) < order.index(name) for dep in made)
        assert name == "check" or "data/params.ok" in made
        literals = {node.value for node in ast.walk(tree(f"stages/{name}.py")) if isinstance(node, ast.Constant)}
        read = {text for text in literals if text in outs}
        assert read <= set(made) | {path for path, maker in outs.items() if maker == name}


def test_the_lock_has_the_stages_in_the_order_of_a_run_from_nothing():
    """A stage that is added later would stand last in it, and a run from nothing would change the file."""
    lock = yaml.safe_load((REPOSITORY / "dvc.lock").read_text(encoding="utf-8"))
    assert list(lock["stages"]) == [name for name in STAGES if name not in FOREACH]


def test_dvc_keeps_the_runs_of_every_stage_but_the_check():
    """An output that is neither cached nor a metric nor a plot would switch its stage's run cache off."""
    for name, described in STAGES.items():
        assert name == "check" or all(isinstance(out, str) for out in described.get("outs", [])), name


# --- the rooms


def test_every_module_lies_in_a_room():
    inside = [path.split("/")[1:] for path in SOURCES if path.startswith("pipeline/")]
    assert {parts[0] for parts in inside if len(parts) > 1} == set(ROOMS)
    assert {parts[0] for parts in inside if len(parts) == 1} <= {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_rooms_before_it_and_without_circles(room):
    before = set(ROOMS[: ROOMS.index(room) + 1])
    inside = {}
    for source in SOURCES:
        if source.startswith(f"pipeline/{room}/"):
            imported = sources.imports(REPOSITORY / source)
            assert {module.partition("/")[0] for module in imported} <= before, source
            name = source.removeprefix("pipeline/").removesuffix(".py").removesuffix("/__init__")
            inside[name] = {module for module in imported if module.startswith(f"{room}/") and module != name}
    while inside:
        free = [name for name, needed in inside.items() if not needed & set(inside)]
        assert free, f"these import one another: {sorted(inside)}"
        for name in free:
            del inside[name]


def test_library_knows_nothing_of_the_stages():
    for source in SOURCES:
        if source.startswith("pipeline/"):
            assert "stages" not in imported_packages(source), source


def imported_packages(source: str) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{source}: relative imports hide from the closure of dependencies"
            found.add(node.module.partition(".")[0])
    return found


def test_errors_import_nothing():
    assert imported_packages("pipeline/core/errors.py") == set()


def test_check_reaches_no_heavy_import_before_it_looks_for_cuda():
    """Imports at the top of the modules; torch, and what lists a folder of pictures, stand in the branches that ask."""
    seen, todo, found = set(), [REPOSITORY / "stages/check.py"], set()
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        top = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
        found |= {node.module.partition(".")[0] for node in top}
        dotted = [f"{node.module}.{alias.name}" for node in top for alias in node.names] + [node.module for node in top]
        paths = ["/".join(name.split(".")[1:]) for name in dotted if name.startswith("pipeline.")]
        todo += [sources.module_file(path) for path in paths if sources.module_file(path).exists()]
    assert len(seen) > 5
    assert found.isdisjoint({"torch", "torchvision", "numpy", "h5py", "diffusers", "timm", "pandas", "PIL"})


# --- what no module may do


def test_randomness_comes_from_seeds_alone():
    drawing = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "rand_like", "randn_like"}
    drawing |= {"uniform_", "normal_", "random_", "bernoulli_", "exponential_", "dropout"}
    for source in SOURCES:
        if source == "pipeline/core/seeds.py":
            continue
        assert "random" not in imported_packages(source), source
        assert "secrets" not in imported_packages(source), source
        for node in ast.walk(tree(source)):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("manual_seed", "manual_seed_all", "initial_seed"), source
                assert ast.unparse(node) not in ("np.random", "numpy.random", "torch.random"), source
        for name, call in calls(source):
            if name.rpartition(".")[2] in drawing:
                assert "generator" in keywords(call), f"{source}:{call.lineno}: {name} draws from the global generator"


@pytest.mark.fault(21)
def test_no_file_that_is_read_can_run_code():
    loaders = {"pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"}
    loaders |= {"joblib.load", "dill.load", "cloudpickle.load", "torch.jit.load", "torch.hub.load", "eval", "exec"}
    loaders |= {"os.system", "os.popen", "pd.read_pickle", "pandas.read_pickle", "yaml.unsafe_load", "yaml.full_load"}
    seen = set()
    for source in SOURCES:
        packages = imported_packages(source)
        for name, call in calls(source):
            given, where = keywords(call), f"{source}:{call.lineno}: {name}"
            assert name not in loaders, where
            assert given.get("allow_pickle", "False") == "False", where
            assert given.get("trust_remote_code", "False") == "False", where
            assert given.get("weights_only", "True") == "True", where
            assert given.get("shell", "False") == "False", where
            if name == "torch.load":
                assert given.get("weights_only") == "True", where
            if name.rpartition(".")[2] == "from_pretrained":
                assert given.get("use_safetensors") == "True", where
            if "yaml" in packages and name.startswith("yaml."):  # PyYAML; ruamel.yaml's own default is safe
                assert name.rpartition(".")[2] in ("compose", "parse", "MarkedYAMLError"), where
                assert given.get("Loader") == "yaml.SafeLoader" or name.endswith("Error"), where
            if name == "YAML":
                assert given.get("typ", "'rt'") in ("'rt'", "'safe'"), where
                assert not call.args, where
            seen.add(name)
        for node in ast.walk(tree(source)):
            if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "marshal", "torch", "yaml"):
                assert not {alias.name for alias in node.names} & {"load", "loads", "Unpickler", "load_all"}, source
    assert {"torch.load", "YAML"} <= seen  # the search finds what there is


def test_only_files_gives_final_names():
    """Whole or not there: writing in place is files.py's business, and of what it is handed a temporary name for."""
    for source in SOURCES:
        if source == "pipeline/core/files.py":
            continue
        thrown_away = "tempfile" in imported_packages(source)
        for name, call in calls(source):
            last = name.rpartition(".")[2]
            allowed = name == "files.write_text" or name.startswith("temporary.") or thrown_away
            assert last not in ("write_text", "write_bytes") or allowed, f"{source}:{call.lineno}"
            if name == "open" and len(call.args) > 1:
                assert "w" not in ast.unparse(call.args[1]), f"{source}:{call.lineno}"


def test_params_yaml_has_one_reader():
    for source in SOURCES:
        literals = [node.value for node in ast.walk(tree(source)) if isinstance(node, ast.Constant)]
        if source != "pipeline/params/reader.py":
            assert "params.yaml" not in literals, source
            assert "yaml" not in imported_packages(source), source


def test_tests_that_run_alone_lie_where_make_looks_for_them():
    tests = [path for path in (REPOSITORY / "tests").rglob("*.py") if path != Path(__file__)]
    alone = [path.name for path in tests if "pytest.mark.alone" in path.read_text(encoding="utf-8")]
    assert alone == ["test_default.py"]


def test_no_file_holds_the_marks_of_a_merge():
    endings = {".md", ".py", ".yaml", ".toml", ".txt", ".csv", ".json", ".lock", ".html", ""}
    folders = ("bench", "docs", "metrics", "pipeline", "plots", "stages", "studies", "tests")
    inside = [path for folder in folders for path in (REPOSITORY / folder).rglob("*")]
    files = [path for path in [*inside, *REPOSITORY.glob("*")] if path.is_file() and path.suffix in endings]
    assert {"ceiling.md", "smoke.yaml", "dvc.lock", "Makefile", "test_layout.py"} <= {path.name for path in files}
    for path in files:
        assert not re.search(r"(?m)^(<{7}|>{7}) ", path.read_text(encoding="utf-8")), path
