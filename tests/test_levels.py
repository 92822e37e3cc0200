"""Modules import downwards only, and never in a circle (design, section 1)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "m3jax"
LEVELS = {
    "core": 0,
    "ops": 1,
    "losses": 1,
    "merging": 1,
    "nn": 2,
    "data": 2,
    "hub": 3,
    "testing": 3.5,
    "training": 4,
    "inference": 4,
    "evaluation": 5,
    "curation": 5,
    "pipeline": 6,
}
PROGRAM = 7
SIDEWAYS = {("losses", "ops")}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, lazily or not."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return {name for name in found if name in MODULES and name != "m3jax"}


def level(module: str) -> float:
    folder = module.split(".")[1]
    return LEVELS.get(folder, PROGRAM)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_downwards(path: Path) -> None:
    module = module_name(path)
    if module == "m3jax":
        assert imports(path) == set(), "the package itself imports lazily"
        return
    folder = module.split(".")[1]
    for imported in imports(path):
        other = imported.split(".")[1]
        assert other != "testing" or folder == "testing"
        if other == folder and level(module) < PROGRAM:
            continue
        allowed = level(imported) < level(module) or (folder, other) in SIDEWAYS
        assert allowed, f"{module} imports {imported}"


def test_losses_need_nothing_else() -> None:
    for path in (PACKAGE / "losses").glob("*.py"):
        assert all(
            name.startswith(("m3jax.losses", "m3jax.ops", "m3jax.core.types"))
            or name == "m3jax.core.errors"
            for name in imports(path)
        )


def test_no_cycles() -> None:
    graph = {module_name(path): imports(path) - {module_name(path)} for path in FILES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"cycle: {' -> '.join([*above, module])}"
        if module not in done:
            for other in graph[module]:
                visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())
    assert done == MODULES


def test_files_are_small() -> None:
    lines = {path.name: path.read_text().count("\n") for path in FILES}
    assert {name: n for name, n in lines.items() if n > 400} == {}
