"""One word, one thing: no file name and no public name of the product stands for two things."""

import ast
from collections import defaultdict

from tests.house.imports import MODULES

# A room may have its specs and its registry; these names say the same thing in each.
SHARED_BASENAMES = {"__init__.py", "specs.py", "registry.py"}


def test_no_file_name_stands_twice() -> None:
    found = defaultdict(list)
    for module, path in MODULES.items():
        if path.name not in SHARED_BASENAMES:
            found[path.name].append(module)
    twice = {name: modules for name, modules in found.items() if len(modules) > 1}
    assert twice == {}, "\n".join(f"{name}: {', '.join(modules)}" for name, modules in twice.items())


def test_no_public_name_stands_for_two_things() -> None:
    found = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                found[node.name].append(module)
    twice = {name: modules for name, modules in found.items() if len(modules) > 1}
    assert twice == {}, "\n".join(f"{name}: {', '.join(modules)}" for name, modules in twice.items())
