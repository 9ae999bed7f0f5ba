"""The shape of the code: imports run one way, importing is cheap, documentation runs as written."""

import ast
import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tfhvae"

# Each part may import what stands before it.
ORDER = (
    ("errors", "files", "startup", "progress"),
    ("layers", "distributions", "traces", "data"),
    ("bounds", "diagnostics", "plotting", "configuration", "hardware"),
    ("objectives", "models"),
    ("evaluation", "figures", "training", "reporting", "results"),
    ("experiments", "potential"),
    ("monitoring",),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def imports_of(path):
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_part_has_its_place():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert parts == set(RANK)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_imports_run_one_way(path):
    part = part_of(path)
    for module in imports_of(path):
        names = module.split(".")
        assert names[0] != "configs", "library code never imports configurations"
        if names[0] == "tfhvae" and len(names) > 1 and names[1] in RANK and names[1] != part:
            assert RANK[names[1]] <= RANK[part], f"{part} imports {module}"


def test_layers_know_only_keras_and_distributions_no_keras():
    for path in (PACKAGE / "layers").glob("*.py"):
        known = {name.split(".")[0] for name in imports_of(path)}
        if path.name == "normalization.py":  # for its kernel, where Keras runs on TensorFlow
            known -= {"tensorflow"}
        assert known <= {"keras", "numpy", "tfhvae", "math", "numbers"}, path  # which Keras needs
        assert all(m.startswith("tfhvae.layers") for m in imports_of(path) if "tfhvae" in m)
    for path in (PACKAGE / "distributions").glob("*.py"):
        assert "keras" not in {name.split(".")[0] for name in imports_of(path)}, path


def test_importing_the_package_is_cheap():
    code = "import sys, tfhvae, tfhvae.configuration; print({'tensorflow', 'keras'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_benchmarks_run_and_print_a_table():
    """Two of them; their figures mean nothing beside other tests."""
    options = ["--quick", "--repeats=1", "--only=evaluation,training", "--models=vampprior"]
    result = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "run.py", *options],
        check=True, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    for measured in ("vampprior: log-likelihood, share", "vampprior: fit / plain Keras fit"):
        assert measured in result.stdout


@pytest.mark.parametrize(
    "page",
    [
        "docs/adding-a-model.md",
        "docs/models/vae.md",
        "README.md",
        "docs/importing_layers.ipynb",
    ],
)
def test_documented_python_runs_as_written(page, tmp_path, monkeypatch):
    """A page's Python blocks, or a notebook's cells, in order, as one program."""
    text = (ROOT / page).read_text()
    if page.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        blocks = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    else:
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        check=True, capture_output=True, timeout=600, cwd=tmp_path,
    )  # fmt: skip


def pages():
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.name)
def test_documented_configurations_exist(page):
    text = page.read_text()
    for path in re.findall(r"configs/(?:paper/)?\w+\.py", text):
        assert (ROOT / path).exists() or "NAME" in path or "two_block" in path, path


def test_numbers_of_the_readme_are_those_of_the_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    numbers = re.findall(r"\[(-\d+\.\d+)\]\((results/[^)]+)\)", text)
    assert len(numbers) > 5
    for number, folder in numbers:
        summary = json.loads((ROOT / folder / "summary.json").read_text())
        assert float(number) == round(summary["test/log_likelihood"], 2), folder
