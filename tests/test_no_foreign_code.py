"""No code is loaded from files: the syntax trees of all modules are searched for what would."""

from __future__ import annotations

import ast

import pytest

from hccstudy.config import REPOSITORY

# what runs code that a file brings along
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch", "imp"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {
    "load_all",
    "unsafe_load",
    "full_load",
    "read_pickle",
    "to_pickle",
    "system",
    "popen",
    "literal_eval",
}


def dangers(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [f"import {name}" for name in names if set(name.split(".")) & FORBIDDEN_IMPORTS]
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if isinstance(called, ast.Name) and called.id in FORBIDDEN_CALLS:
            found.append(called.id)
        if isinstance(called, ast.Attribute):
            whole = ast.unparse(called)
            if called.attr in FORBIDDEN_METHODS:
                found.append(whole)
            if whole == "yaml.load":
                loader = keywords.get("Loader") or (ast.unparse(node.args[1]) if len(node.args) > 1 else "")
                found.append(f"yaml.load with {loader or 'no loader'}")
            if whole == "skops.io.load" and "trusted" not in keywords:
                found.append("skops.io.load without an allow-list")
        if keywords.get("allow_pickle") == "True" or keywords.get("shell") == "True":
            found.append(ast.unparse(node)[:60])
    return found


@pytest.mark.parametrize(
    "text",
    [
        *("import pickle", "from joblib import load", "import sklearn.externals.joblib", "eval('1')", "exec(x)"),
        *("yaml.load(f, Loader=yaml.Loader)", "yaml.load(f)", "yaml.unsafe_load(f)", "np.load(f, allow_pickle=True)"),
        *("pd.read_pickle(f)", "skops.io.load(f)", "subprocess.run(x, shell=True)", "os.system(x)"),
    ],
)
def test_the_look_for_dangers_sees_them(text):
    assert dangers(ast.parse(text))


def test_no_code_is_loaded_from_files_anywhere_in_the_package():
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in (REPOSITORY / "workflow").rglob("*.py")}
    assert len(trees) > 80
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    safe = {f"yaml.load with {node.name}" for node in classes if "yaml.SafeLoader" in map(ast.unparse, node.bases)}
    found = {path.name: left for path, tree in trees.items() if (left := [d for d in dangers(tree) if d not in safe])}
    assert found == {}
