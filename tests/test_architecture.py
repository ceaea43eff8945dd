"""The house rules that no single module can keep: who imports whom, and how light the door is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import foreshock

ROOT = Path(__file__).parents[1]
PACKAGE = Path(foreshock.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A module may import what stands before it; names in one tuple may import one another's predecessors.
ORDER = """
    errors secret network | frame | quality sources | split windows | scores hindsight | tails calibrate
    | memory models momentfm pretrain planning
    | decide changes findings origin explain bands alerts | metrics evaluate bench
    | runlog tracking config | plots report | remote_write telemetry stream store service | cli | __main__
""".replace("|", " ").split()

# Who may import what is heavy or belongs in one place; a path is a file, or a folder with a slash.
ALLOWED = {
    "torch": ("models/", "momentfm/", "pretrain/", "memory.py"),
    "safetensors": ("models/", "momentfm/", "pretrain/"),
    "matplotlib": ("plots.py", "plots/"),
    "yaml": ("config/",),
    "pydantic": ("config/", "service/"),
    "fastapi": ("service/",),
    "starlette": ("service/",),
    "uvicorn": ("service/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "jinja2": ("report.py", "report/"),
    "sklearn": ("models/classical.py", "momentfm/"),
    "peft": ("models/finetune.py", "models/training.py"),
    "accelerate": ("models/processes.py",),
    "pyod": ("models/classical.py",),
    "huggingface_hub": ("models/weights.py",),
    "pynvml": ("memory.py",),
    "pooch": ("sources/catalogue.py",),
    "httpx": ("sources/prometheus.py", "alerts/", "service/"),
}


def layer(path: Path) -> str:
    """`sources` for sources/tables.py, `frame` for frame.py, "" for the package itself."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """Dotted names that a file imports; with `everywhere` inside functions too, never for types alone."""
    found: set[str] = set()

    def visit(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import) and (everywhere or not inside):
                found.update(name.name for name in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and (everywhere or not inside):
                if child.module == "foreshock":
                    found.update(f"foreshock.{name.name}" for name in child.names)
                else:
                    found.add(child.module)
            visit(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(ast.parse(path.read_text("utf-8")), False)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    """A module imports only what stands before it in the order, inside functions too."""
    own = layer(path)
    if own == "":
        return  # the public names, lazily: test_the_door_is_light
    assert own in ORDER, f"{own} has no place in the order yet"
    for name in imports(path):
        head, _, rest = name.partition(".")
        if head != "foreshock":
            continue
        other = rest.split(".")[0]
        if other and other in ORDER:
            assert ORDER.index(other) <= ORDER.index(own), f"{own} imports {name}, which stands after it"


@pytest.mark.parametrize("package", ALLOWED)
def test_heavy_packages_stay_in_their_rooms(package):
    """Only the rooms named may import it, anywhere."""
    for path in FILES:
        if package in {name.split(".")[0] for name in imports(path)}:
            where = path.relative_to(PACKAGE).as_posix()
            assert where.startswith(ALLOWED[package]), f"{where} imports {package}"


def test_memory_takes_torch_in_functions_only():
    """Measuring memory must not load torch."""
    assert not {n for n in imports(PACKAGE / "memory.py", everywhere=False) if n.startswith("torch")}


def test_base_modules_are_light():
    """frame, scores, errors and the command line leave pandas and pyarrow to those who read and write."""
    for path in [
        PACKAGE / "frame.py",
        PACKAGE / "scores.py",
        PACKAGE / "errors.py",
        *PACKAGE.glob("cli/*.py"),
    ]:
        heads = {name.split(".")[0] for name in imports(path, everywhere=False)}
        assert not heads & {"pandas", "pyarrow", "torch"}, path
    for path in PACKAGE.glob("cli/*.py"):
        heads = {name.split(".")[0] for name in imports(path, everywhere=False)}
        assert not heads & {"numpy", "pydantic", "yaml", "rich"}, path


@pytest.mark.parametrize(
    "code", ["import foreshock", "import foreshock.cli", "from foreshock.cli import run; run(['--help'])"]
)
def test_the_door_is_light(code):
    """Neither `import foreshock` nor --help loads anything heavy."""
    heavy = "{'torch', 'pandas', 'pyarrow', 'matplotlib', 'pydantic', 'numpy', 'yaml', 'rich'}"
    check = f"import sys; {code}; print(); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_public_names_exist():
    """Every public name resolves, is listed, and an unknown one is an AttributeError."""
    for name in foreshock.__all__:
        assert getattr(foreshock, name) is not None
        assert name in dir(foreshock)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = foreshock.nothing
    names = {path.stem for path in PACKAGE.glob("*")}
    assert not names & set(foreshock.__all__), "importing the module would hide the public name"


def test_no_pickle_and_no_eval():
    """Files that could run code are never loaded."""
    for path in FILES:
        assert not imports(path) & {"pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"}, path
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"eval", "exec"}, path


def test_the_library_never_prints():
    """Only the command line talks."""
    for path in FILES:
        if layer(path) in ("cli", "__main__") or path.name == "__main__.py":
            continue
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert "print" not in calls, path


def test_version_is_told_once():
    """The package, its metadata and the changelog agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert foreshock.__version__ == project["version"]
    assert f"## {foreshock.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def closure(names: set[str]) -> set[str]:
    """Installed distributions that these need, themselves included, extras left out."""
    found: set[str] = set()
    todo = set(names)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another platform or Python
        found.add(name)
        for line in needs:
            spec, _, marker = line.partition(";")
            if "extra" in marker or "sys_platform" in marker or "python_version <" in marker:
                continue
            todo.add(canonical(re.split(r"[\s<>=!~\[(]", spec.strip())[0]))
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_base_install_is_small():
    """Under 30 packages beside torch's own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = {canonical(re.split(r"[\s<>=!~\[]", line)[0]) for line in project["dependencies"]}
    assert len(closure(direct) - closure({"torch"})) < 30


def test_pins_cover_what_is_needed():
    """constraints.txt and requirements.txt hold every direct dependency, at a version that is allowed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = {canonical(re.split(r"[\s<>=!~\[]", line)[0]) for line in project["dependencies"]}
    for name in ("constraints.txt", "requirements.txt"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+==\S+", line) for line in lines), name
        assert direct <= {canonical(line.split("==")[0]) for line in lines}, name


def test_the_package_holds_its_data():
    """Presets, the typing marker and the embedded checkpoint lie inside the package."""
    for name in ("py.typed", "presets/cpu.yaml", "presets/trainticket-8gb.yaml"):
        assert (PACKAGE / name).is_file(), name
    assert (PACKAGE / "models/nano/model.safetensors").is_file()
