"""What the documents say is run: docstring examples, commands, links, generated pages."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import foreshock
from foreshock.frame import Frame, Kpi

ROOT = Path(__file__).parents[1]
GUIDES = ("README.md", "docs/quickstart.md")
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(foreshock.__path__, "foreshock.")
    if not module.name.endswith("__main__") and not module.name.startswith("foreshock.momentfm.")
)


def shop() -> Frame:
    """What the examples call `shop`: 24 KPIs of 6 services, 1984 rows, a row a minute."""
    kpis = tuple(Kpi(f"s{i % 6}__kpi{i // 6}", f"s{i % 6}", f"kpi{i // 6}") for i in range(24))
    values = np.random.default_rng(0).gamma(4, 1, (1984, 24))
    return Frame(1_700_000_000_000_000_000 + np.arange(1984) * 60_000_000_000, values, kpis, 60.0)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    """Every docstring example gives what it shows."""
    module = importlib.import_module(name)
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner()
    for test in finder.find(module, name, extraglobs={"shop": shop(), "np": np}):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """`$ foreshock …` lines of console blocks, continued lines joined; those that need a network left out."""
    found = []
    for block in blocks(text, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ foreshock ") and not re.search(r"weights pull|data pull|AutonLab/", line):
                found.append(line.removeprefix("$ "))
    return found


def test_commands_are_found():
    """Console blocks only, a backslash joins lines, other commands are left to other tests."""
    text = "```console\n$ foreshock a \\\n    b\noutput\n$ make demo\n```\n```\n$ foreshock c\n```\n"
    assert [line.split() for line in commands(text)] == [["foreshock", "a", "b"]]


@pytest.fixture(scope="module")
def of_the_demo() -> set[str]:
    """The commands on the demo that ran well."""
    return set()


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES)
def test_commands_of_the_guides_run(guide, tmp_path, of_the_demo):
    """A reader who types them one after the other, in an empty folder, gets no error.

    What is asked of the demo in the same words by several guides is run once.
    """
    path = ROOT / guide
    if not path.is_file() or not commands(path.read_text("utf-8")):
        pytest.skip(f"{guide} shows no command")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in commands(path.read_text("utf-8")):
        if line in of_the_demo:
            continue
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{guide}: {line}\n{done.stderr}"
        if " demo:" in line:
            of_the_demo.add(line)


@pytest.mark.slow
def test_python_of_the_quick_start_runs(tmp_path):
    """The Python blocks of the quick start run as one script, in an empty folder."""
    script = "\n".join(blocks((ROOT / "docs/quickstart.md").read_text("utf-8"), "python"))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names_in_the_readme_exist():
    """The README's Python is valid, and every name it takes from foreshock is there."""
    script = "\n".join(blocks((ROOT / "README.md").read_text("utf-8"), "python"))
    for node in ast.walk(ast.parse(script)):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "foreshock"
        ):
            assert hasattr(foreshock, node.attr), node.attr
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names), node.module


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Every relative link and picture of a page exists."""
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if re.match(r"[a-z]+:|#", target):
            continue
        assert (path.parent / target.split("#")[0]).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_no_machine_paths(page):
    """A page never speaks of the machine it was written on."""
    assert not re.search(r"(?<![\w.])/(work|root|tmp|home)/\w", (ROOT / page).read_text("utf-8"))


def test_generated_pages_are_fresh():
    """docs/reference.md is what `make docs` writes now."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, text in generate.pages().items():
        assert (ROOT / "docs" / name).read_text("utf-8") == text, f"docs/{name} is stale; run `make docs`"
