"""The foreign reader passes the suite, and the suite catches readers that forget a rule."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgelora.conformance import Comparison, Verdict, compare_all, load_vectors

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "examples" / "strict_reader.py"
SOURCE = PROGRAM.read_text(encoding="utf-8")
VECTORS = load_vectors(ROOT / "spec" / "v1" / "vectors")
KINDS = ("manifests", "weights", "directories", "paths")


def reader_from(source: str) -> ModuleType:
    module = ModuleType("strict_reader")
    exec(compile(source, str(PROGRAM), "exec"), module.__dict__)
    return module


def judge(reader: ModuleType, *kinds: str) -> list[Comparison]:
    def read(kind: str, path: Path) -> Verdict:
        try:
            reader.READERS[kind](path if kind == "directories" else path.read_bytes())
        except reader.Refused as refusal:
            return Verdict(False, *refusal.args)
        return Verdict(True)

    chosen = [vector for vector in VECTORS if vector.kind in kinds]
    return compare_all(chosen, read, frozenset({"plugin"}))


@pytest.mark.parametrize("kind", KINDS)
def test_foreign_reader_conforms(kind: str) -> None:
    found = judge(reader_from(SOURCE), kind)
    assert [each.sentence for each in found if each.outcome != "right"] == []


def test_foreign_reader_is_short_and_shares_no_code() -> None:
    assert len(SOURCE.splitlines()) <= 300
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(SOURCE))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= set(sys.stdlib_module_names)


def test_foreign_reader_is_a_command() -> None:
    def run(kind: str, name: str) -> tuple[int, str]:
        path = ROOT / "spec" / "v1" / "vectors" / kind / name
        done = subprocess.run(
            [sys.executable, "-S", PROGRAM, kind, path], capture_output=True, encoding="utf-8"
        )
        return done.returncode, done.stdout

    assert run("directories", "sound") == (0, "")
    exit_code, said = run("manifests", "invalid/major-2.json")
    assert exit_code == 1
    assert '"id": "spec-version"' in said


FAULTS = {
    "accepts a name that occurs twice": (
        r"    refuse\(len\(dict\(pairs\)\) != len\(pairs\).*\n",
        "",
        "manifests/invalid/duplicate-key.json",
    ),
    "does not compare treeDigest": (
        r'    refuse\(manifest\["treeDigest"\] != .*\n',
        "",
        "manifests/invalid/tree-digest.json",
    ),
    "compares paths exactly": (
        r"\.casefold\(\)\)\n",
        ")\n",
        "paths/clash-case.json",
    ),
    "accepts holes between tensors": (
        r"starts != ends\[:-1\] or ",
        "",
        "weights/hole.safetensors",
    ),
    "ignores what requires names": (
        r"    refuse\(unknown, .*\n",
        "",
        "manifests/invalid/unknown-feature.json",
    ),
    "follows links": (
        r"place\.is_symlink\(\) or not place",
        "not place",
        "directories/link-to-the-right-bytes",
    ),
    "takes any integer": (
        r" and abs\(int\(digits\)\) < 2\*\*53",
        "",
        "manifests/invalid/integer-2-53.json",
    ),
    "trusts the extension": (
        r"\.search\(path\.lower\(\)\) or CODE\.match\(data\[:512\]\)",
        ".search(path.lower())",
        "directories/pickle-protocol-2",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_caught(fault: str) -> None:
    pattern, replacement, vector = FAULTS[fault]
    mutated, count = re.subn(pattern, replacement, SOURCE)
    assert count >= 1, "the fault is not where it was planted"
    found = judge(reader_from(mutated), *KINDS)
    assert vector in [f"{each.vector.kind}/{each.vector.name}" for each in found if each.outcome == "wrong"]
