"""Read the product's own import statements: which file imports which, at its top or inside a function."""

import ast
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]

# Floor -> rooms. Imports go to a lower floor only, and rooms of one floor are blind to each other.
FLOORS = {
    8: ("zscir.cli",),
    7: ("flows",),
    6: ("zscir.stages", "zscir.report"),
    5: ("zscir.training", "zscir.evaluation"),
    4: ("zscir.methods", "zscir.pipeline", "zscir.maintenance"),
    3: ("zscir.data", "zscir.lineage"),
    2: ("zscir.store", "zscir.benchmarks", "zscir.llm", "zscir.tabletop"),
    1: ("zscir.runtime",),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}


def sources() -> list[Path]:
    return sorted(path for top in ("zscir", "flows") for path in (REPO / top).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sources()}


def room_of(module: str) -> str:
    return ".".join(module.split(".")[: 1 if module.startswith("flows") else 2])


def imports_of(module: str, path: Path) -> Iterator[str]:
    """Full names that a module imports, at its top or inside a function; ``from a import b`` is a.b if that is one."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield inner if inner in MODULES else origin


IMPORTS = {module: sorted(set(imports_of(module, path))) for module, path in MODULES.items()}
# ``zscir`` itself is no room: Python runs it before any module of ours, and all that one takes from it is its version.
OWN_IMPORTS = {
    module: [name for name in names if name.split(".")[0] in {"zscir", "flows"} and name not in {"zscir", module}]
    for module, names in IMPORTS.items()
}


def rings(edges: dict[str, list[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = list(edges[start])
        while ahead:
            name = ahead.pop()
            if name not in seen:
                seen.add(name)
                ahead.extend(edges.get(name, []))
        return seen

    reached = {module: reach(module) for module in edges}
    members = [module for module in edges if module in reached[module]]
    groups = {tuple(sorted(other for other in members if other in reached[m] and m in reached[other])) for m in members}
    return [list(group) for group in sorted(groups)]
