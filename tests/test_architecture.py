"""The walls between the rooms: who may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "marspipe"
MODULES = sorted(PACKAGE.rglob("*.py"))
NUMERICS = ("scan", "preprocess", "recon", "spectral")
NUMERIC_LIBRARIES = {"numpy", "scipy", "numba", "llvmlite", "spekpy", "xraydb", "algotom", "marspipe"}

# What each room may know of the others. A room always knows itself; everyone knows errors, resources and __init__.
MAY_IMPORT: dict[str, set[str]] = {
    "scan": set(),
    "preprocess": {"scan"},
    "recon": {"scan"},
    "spectral": {"scan"},
    "readers": {"scan", "strict"},
    "store": {"scan"},
    "dicom": {"scan", "strict"},
    "show": {"scan"},
    "recipe": {"strict"},
    "strict": set(),
    "simulate": {"scan", "readers"},
    "bench": {"scan", "recon", "readers", "simulate"},
    "pipeline": {
        "scan",
        "preprocess",
        "recon",
        "spectral",
        "readers",
        "store",
        "dicom",
        "show",
        "recipe",
        "simulate",
        "bench",
        "log",
        "strict",
    },
    "log": set(),
    "cli": {"log", "scan", "readers", "store", "show", "recipe", "pipeline", "simulate", "bench"},
    "jobs": {"cli"},
    "__main__": {"cli"},
}
FOUNDATION = {"errors", "resources", "machine", "__init__", ""}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
            if node.module == "marspipe" or (node.module or "").startswith("marspipe."):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def rooms_known(path: Path) -> set[str]:
    known = {name.split(".")[1] for name in imports(path) if name.startswith("marspipe.")}
    return {r for r in known if (PACKAGE / r).is_dir() or (PACKAGE / f"{r}.py").exists()}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_know_only_those_below_them(path: Path) -> None:
    if room(path) == "__init__":
        return  # re-exports lazily
    allowed = MAY_IMPORT.get(room(path), set()) | FOUNDATION | {room(path)}
    assert rooms_known(path) <= allowed


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) in NUMERICS], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_numerics_touch_no_spark_no_files_no_environment(path: Path) -> None:
    top = {name.split(".")[0] for name in imports(path)}
    backend = {"astra_backend.py": {"astra"}}  # imported inside a function
    assert top - set(sys.stdlib_module_names) <= NUMERIC_LIBRARIES | backend.get(path.name, set())
    assert not top & {"os", "pathlib", "subprocess", "shutil", "tempfile", "socket"}
    calls = {
        n.func.id
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert "open" not in calls


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("pyspark", ("pipeline/", "store/tables.py")),
        ("py4j", ("pipeline/",)),
        ("pydicom", ("dicom/", "readers/dicom")),
        ("highdicom", ("dicom/",)),
        ("pynetdicom", ("dicom/pacs/",)),
        ("dicomweb_client", ("dicom/pacs/",)),
        ("numba.cuda", ("recon/backprojection/cuda.py",)),
        ("astra", ("recon/astra_backend.py", "bench/")),
        ("itk", ("bench/",)),
        ("click", ("cli/",)),
        ("sqlalchemy", ("store/catalog/",)),
        ("alembic", ("store/catalog/",)),
    ],
)
def test_libraries_stay_in_their_room(library: str, homes: tuple[str, ...]) -> None:
    for path in MODULES:
        if any(name == library or name.startswith(library + ".") for name in imports(path)):
            assert str(path.relative_to(PACKAGE)).startswith(homes), f"{path} imports {library}"


def test_no_circles_between_rooms() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for path in MODULES:
        if room(path) != "__init__":
            graph[room(path)] |= rooms_known(path) - {room(path)}

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, " -> ".join((*trail, node))
        for following in graph[node]:
            visit(following, (*trail, node))

    for start in list(graph):
        visit(start, ())


def test_jobs_are_thin() -> None:
    for path in sorted((PACKAGE.parent / "jobs").glob("*.py")):
        assert len(path.read_text().splitlines()) < 60
        assert {name.split(".")[0] for name in imports(path)} <= {"sys", "marspipe", "__future__"}


def test_top_level_holds_nothing_else() -> None:
    allowed = {
        "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "jobs", "marspipe", "schemas", "conf", "notebooks",
        "tests",
    }  # fmt: skip
    listed = subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD"], cwd=PACKAGE.parent, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout: the top level cannot be listed")
    names = {name for name in listed.stdout.split() if not name.startswith(".")}
    assert names <= allowed


def test_import_is_light() -> None:
    code = (
        "import time, sys; start = time.perf_counter(); import marspipe; spent = time.perf_counter() - start;"
        "heavy = {'pyspark', 'pydicom', 'numba', 'matplotlib', 'h5py'} & set(sys.modules);"
        "assert not heavy, heavy; assert spent < 1, spent"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names() -> None:
    import marspipe

    assert {"ScanGeometry", "VolumeGrid", "fdk", "open_volume"} <= set(dir(marspipe))
    for name in marspipe.__all__:
        assert getattr(marspipe, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = marspipe.no_such_name
