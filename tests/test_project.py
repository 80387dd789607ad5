"""The files of the project agree with each other."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(name: str) -> dict[str, str]:
    """Package and version of each line of a constraints file, without markers."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.partition(";")[0].strip().split("==") for line in lines if line and not line.startswith("#"))


def test_the_oldest_versions_are_those_of_pyproject():
    bounds = dict(
        re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<.*)?", d).groups() for d in PYPROJECT["project"]["dependencies"]
    )
    bounds.pop("torch")
    assert pins("constraints-min.txt") == bounds


def test_every_dependency_is_pinned_for_ci():
    project = PYPROJECT["project"]
    named = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    packages = {re.split(r"[\[<>=;]", name)[0].strip() for name in named} - {"modalnet"}
    assert packages - pins("constraints.txt").keys() == set()


def test_pre_commit_runs_the_versions_of_ci():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    pinned = pins("constraints.txt")
    versions = {repo["repo"].rpartition("/")[2]: repo.get("rev") for repo in config["repos"]}
    assert versions["ruff-pre-commit"] == f"v{pinned['ruff']}"
    assert versions["codespell"] == f"v{pinned['codespell']}"


def test_the_workflow_calls_the_scripts():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    for command in ("bash scripts/test.sh", "bash scripts/test.sh --minimum", "bash .ci/run"):
        assert any(command in step for step in commands)
    for path in re.findall(r"bash ([\w./]+)", "\n".join(commands)):
        assert (ROOT / path).is_file()


COMMANDS = sorted(
    {
        (str(page.relative_to(ROOT)), *command)
        for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md"))
        for command in re.findall(r"python (benchmarks/\w+\.py|-m benchmarks\.[\w.]+)([^`#\n]*)", page.read_text())
    }
)


@pytest.mark.parametrize(("page", "called", "given"), COMMANDS)
def test_the_benchmarks_that_pages_tell_of_are_there(page, called, given):
    """A number stands on a command: the script is in the repository, and has the options that it is given."""
    path = ROOT / (called.removeprefix("-m ").replace(".", "/") if called.startswith("-m") else called)
    files = [path] if path.is_file() else [path / "__main__.py", path.with_suffix(".py")]
    (script,) = [file for file in files if file.is_file()]
    read = script.read_text()
    # The names of some options are made from a tuple.
    missing = [option for option in re.findall(r"--[\w-]+", given) if f'"{option}"' not in read]
    made = re.findall(r'f"--\{name\}"', read)
    assert not missing or (made and all(f'"{option[2:]}"' in read for option in missing)), f"{page}: {missing}"


@pytest.mark.parametrize(
    "path", ["CITATION.cff", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / ".github").rglob("*.yml"))]
)
def test_yaml_can_be_read(path):
    assert yaml.safe_load((ROOT / path).read_text())
