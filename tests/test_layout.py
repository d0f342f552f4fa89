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
# The library in reading order; a package stands for all that is in it. A module imports only from those before it.
READING_ORDER = (
    "errors launch progress dvc_cache files store machine params/types params/methods params/schema params/rules "
    "params/reader cards seeds shards weights pictures datasets imports inflation transforms augment differentiable "
    "checkpoint vit backbones distributed loop heads losses probes linear_probe clsp_probe folded generators game "
    "methods sampling anchored conditioned unclip training/classifier training/encoder training/generator "
    "training/conditioned memorisation quality evaluation transfer finetune stage report preset fetch theory "
    "study/cells study/rows study/experiments study/analysis study/tables study/__main__ page/figures page/studies "
    "page/run page/__main__"
)
CHOICES = {  # templated file of dvc.yaml: the package that imports it on use, and the value that names it
    "pipeline/generators/${generator.kind}.py": ("generators", "generator", "kind"),
    "pipeline/methods/${pretrain.method}.py": ("methods", "pretrain", "method"),
    "pipeline/methods/${conditioned.encoder.method}.py": ("methods", "conditioned", "encoder.method"),
}


def tree(source: str) -> ast.Module:
    return ast.parse((REPOSITORY / source).read_text(encoding="utf-8"), source)


def path_of(module: str) -> str:
    return sources.module_file(module).relative_to(REPOSITORY).as_posix()


def says_something(source: str) -> bool:
    """Whether a file holds more than its docstring."""
    return len(tree(source).body) > 1


def assigned(source: str, name: str) -> object:
    """The value of a constant of a module, without importing it."""
    for node in tree(source).body:
        if isinstance(node, ast.Assign) and [target.id for target in node.targets] == [name]:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{source} has no {name}")


def kinds(section: str, name: str) -> tuple[str, ...]:
    """The values that one may have, named by its path inside the section."""
    found = Params.model_fields[section].annotation
    for key in name.split("."):
        found = found.model_fields[key].annotation
    return get_args(found)


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
        source = (REPOSITORY / f"stages/{name}.py").read_text()
        if name not in FOREACH:
            assert described["cmd"] == f"python -m stages.{name}"
            assert f'stage.run("{name}", main, READS, needs)' in source
        else:
            assert described["cmd"] == f"python -m stages.{name} {called(name)}"
            assert f'stage.run("{name}", main, READS, needs, FOREACH)' in source


def called(name: str) -> str:
    """What dvc.yaml calls an entry of a foreach stage: a mapping's has a key, a list's is its item."""
    return "${key}" if reader.section(tuple(of(name).split("."))) is not None else "${item}"


def of(name: str) -> str:
    return FOREACH[name].removeprefix("${").removesuffix("}")


@pytest.mark.parametrize("name", FOREACH)
def test_stages_of_a_foreach_are_apart_and_there_is_none_by_default(name):
    """Each writes files of its own, and reads no entry but its own."""
    assert assigned(f"stages/{name}.py", "FOREACH") == of(name)
    assert all(called(name) in path for path in written(STAGES[name]))
    section, _, key = of(name).partition(".")
    assert section not in STAGES[name]["params"]
    assert of(name) not in STAGES[name]["params"]
    assert bool(key) != (f"{section}.{called(name)}" in STAGES[name]["params"])  # a list's entry is a number
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))[section]
    assert not (values[key] if key else values)
    assert not [line for line in (REPOSITORY / "dvc.lock").read_text().splitlines() if line.startswith(f"  {name}@")]


@pytest.mark.parametrize("name", [name for name in STAGES if name != "check"])
def test_code_dependencies_of_a_stage_are_what_it_imports(name):
    listed = {dep for dep in STAGES[name]["deps"] if dep.endswith(".py")}
    fixed = listed - set(CHOICES)
    imported = sources.closure(*sources.imports(REPOSITORY / f"stages/{name}.py"))
    reads = {words.partition(".")[0] for words in assigned(f"stages/{name}.py", "READS")}
    chosen = {template: choice for template, choice in CHOICES.items() if choice[0] in imported}
    if "methods" in imported:  # of which several stages name one, each where it reads
        chosen = {t: choice for t, choice in chosen.items() if choice[0] != "methods" or choice[1] in reads}
        assert "methods" in {choice[0] for choice in chosen.values()}
    assert listed & set(CHOICES) == set(chosen)
    reached = set(imported)
    for package, section, value in chosen.values():
        for kind in kinds(section, value):
            reached |= set(sources.closure(f"{package}/{kind}")) - {f"{package}/{kind}"}
    expected = {path_of(module) for module in reached}
    assert fixed == {f"stages/{name}.py"} | {path for path in expected if says_something(path)}


def test_dependencies_of_the_check_are_the_modules_that_know_the_parameters():
    params = {path for path in SOURCES if path.startswith("pipeline/params/") and says_something(path)}
    assert set(STAGES["check"]["deps"]) == {"stages/check.py"} | params


def test_plumbing_is_named_by_modules_that_exist_and_holds_nothing_that_computes():
    for module in sources.PLUMBING:
        assert sources.module_file(module).exists(), module
        if module not in ("checkpoint", "machine"):  # which saves what the loop computed; which asks for a GPU
            assert "torch" not in imported_packages(path_of(module)), module


@pytest.mark.parametrize("name", list(STAGES))
def test_parameters_of_a_stage_in_dvc_are_those_that_it_is_given(name):
    reads = assigned(f"stages/{name}.py", "READS")
    if name == "check":
        assert STAGES[name]["params"] == [{"params.yaml": None}]  # all of the file
        assert set(reads) == set(Params.model_fields)
    else:
        assert tuple(STAGES[name]["params"]) == reads
        for words in reads:
            section, _, value = words.strip("${}").partition(".")
            assert (
                (section, value) in reader.keys()  # noqa: SIM118
                or (not value and (section,) in reader.keys())  # noqa: SIM118
                or (name in FOREACH and words == f"{of(name)}.{called(name)}")
            )


@pytest.mark.parametrize("name", [name for name in STAGES if name != "check"])
def test_stage_uses_every_section_that_it_is_given_and_no_other(name):
    used = {
        node.attr
        for node in ast.walk(tree(f"stages/{name}.py"))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params"
    }
    given = {
        "own" if words.startswith("$") else words.partition(".")[0]
        for words in assigned(f"stages/{name}.py", "READS")
        if not words.endswith(".${key}")
    }
    assert used == given | ({"key", "item"} if name in FOREACH else set())


def test_every_parameter_is_read_by_a_stage_that_computes_and_has_one_owner():
    """A whole section, with its seed, belongs to one stage; others may read single values of it, all read compute.

    Of a section with a list that stages are made of, the other values are as good as the whole.
    """
    owners: dict[str, list[str]] = {section: [] for section in Params.model_fields}
    for name in set(STAGES) - {"check"}:
        for words in assigned(f"stages/{name}.py", "READS"):
            section, _, value = words.strip("${}").partition(".")
            if words.startswith("$"):
                for kind in kinds(section, value):
                    owners[kind].append(name)
            elif not value or words.endswith(".${key}"):
                owners[section].append(name)
        if name in FOREACH and "." in of(name):
            section, _, labels = of(name).partition(".")
            others = {key[1] for key in reader.keys() if key[0] == section and len(key) == 2} - {labels}  # noqa: SIM118
            if {f"{section}.{value}" for value in others} <= set(assigned(f"stages/{name}.py", "READS")):
                owners[section].append(name)
    assert len(owners.pop("compute")) > 1
    assert {section for section, names in owners.items() if len(names) != 1} == set()
    committed = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    assert list(committed) == list(Params.model_fields)


def test_every_field_of_the_schema_is_read_by_some_module():
    read = {
        node.attr if isinstance(node, ast.Attribute) else node.value
        for source in SOURCES
        if source not in ("pipeline/params/schema.py", "pipeline/params/rules.py", "stages/check.py")
        for node in ast.walk(tree(source))
        if isinstance(node, ast.Attribute) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    }
    keys = [key for key in reader.keys() if len(key) > 1]  # noqa: SIM118
    keys += reader.keys(reader.section(("transfer", "any")))
    assert {key[-1] for key in keys} - read == set()


def test_methods_and_generators_have_a_file_and_a_section_each():
    for package, section, value in CHOICES.values():
        files = {path.stem for path in (REPOSITORY / "pipeline" / package).glob("*.py")} - {"__init__"}
        assert set(kinds(section, value)) <= files <= set(Params.model_fields)
    for package, section, value in (("generators", "generator", "kind"), ("methods", "pretrain", "method")):
        files = {path.stem for path in (REPOSITORY / "pipeline" / package).glob("*.py")} - {"__init__"}
        assert files == set(kinds(section, value))


@pytest.mark.fault(34)
def test_no_generated_image_reaches_an_evaluation():
    """They have no labels either: a shard holds `images` alone (test_shards)."""
    for name in ("linear_eval", "transfer", "finetune"):
        assert not [dep for dep in STAGES[name]["deps"] if dep.startswith(("data/generated", "data/generator"))]
    for module in ("evaluation", "probes", "linear_probe", "clsp_probe", "transfer", "finetune"):
        names = {node.attr for node in ast.walk(tree(path_of(module))) if isinstance(node, ast.Attribute)}
        assert not names & {"read_generated", "map_generated", "SET"}, module


def written(described: dict) -> list[str]:
    """All that a stage of dvc.yaml makes."""
    outs = [out for kind in ("outs", "metrics", "plots") for out in described.get(kind, [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in outs]


@pytest.mark.parametrize("name", list(STAGES))
def test_a_stage_looks_before_its_work_whether_it_can_write_what_it_makes(name):
    assert sorted(assigned(f"stages/{name}.py", "WRITES")) == sorted(written(STAGES[name]))


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


# --- the library's order


def place(module: str) -> int:
    """Of a module in the reading order; a package's files stand where it does."""
    order = READING_ORDER.split()
    return order.index(module) if module in order else order.index(module.partition("/")[0])


def test_reading_order_names_every_module_once():
    modules = [path.removeprefix("pipeline/").removesuffix(".py").removesuffix("/__init__") for path in SOURCES]
    modules = {name for name in modules if not name.startswith(("stages", "__init__"))} - {
        "params",
        "training",
        "study",
        "page",
    }
    named = READING_ORDER.split()
    assert len(named) == len(set(named))
    assert {name if name in named else name.partition("/")[0] for name in modules} == set(named)


@pytest.mark.parametrize("source", [path for path in SOURCES if path.startswith("pipeline/")])
def test_module_imports_only_from_modules_above_it(source):
    module = source.removeprefix("pipeline/").removesuffix(".py").removesuffix("/__init__")
    for imported in sources.imports(REPOSITORY / source):
        if imported in ("params", "training", "study", module) or (
            imported == module.partition("/")[0] and module not in ("params",)
        ):
            continue  # a package's own __init__
        assert place(imported) < place(module), f"{module} imports {imported}"


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
    """Imports at the top of the modules; the one of torch stands in the branch that asks for CUDA."""
    seen, todo, found = set(), [REPOSITORY / "stages/check.py"], set()
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.partition(".")[0])
        todo += [sources.module_file(module) for module in sources.imports(file)]
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
    assert {"torch.load", "yaml.compose", "YAML"} <= seen  # the search finds what there is


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


def test_readme_lists_the_library_in_reading_order():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    listed = re.search(r"in reading order: (.*?)\npresets/", text, re.DOTALL)[1].split()
    named = [name.partition("/")[0] for name in READING_ORDER.split()]
    assert [name.rstrip("/") for name in listed] == list(dict.fromkeys(named))
    packages = {path.name for path in (REPOSITORY / "pipeline").iterdir() if (path / "__init__.py").exists()}
    assert {name.rstrip("/") for name in listed if name.endswith("/")} == packages


def test_slow_tests_lie_where_make_looks_for_them():
    marked = {mark: set() for mark in ("slow", "alone")}
    for path in (REPOSITORY / "tests").rglob("*.py"):
        for mark, files in marked.items():
            if f"pytest.mark.{mark}" in path.read_text(encoding="utf-8") and path != Path(__file__):
                files.add(path.relative_to(REPOSITORY / "tests"))
    assert {path.parts[0] for path in marked["slow"]} == {"pipeline", "faults"}
    assert marked["alone"] == {Path("pipeline/test_default.py")}


def test_no_file_holds_the_marks_of_a_merge():
    texts = ("*.md", "*.py", "*.yaml", "*.toml", "*.txt", "*.csv", "Makefile")
    files = {
        path
        for folder in ("", "docs", "presets", "studies")
        for text in texts
        for path in (REPOSITORY / folder).glob(text)
    }
    files |= {REPOSITORY / source for source in SOURCES}
    assert len(files) > 100
    for path in files:
        assert not re.search(r"(?m)^(<{7}|>{7}) ", path.read_text(encoding="utf-8")), path
