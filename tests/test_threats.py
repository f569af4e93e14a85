"""docs/threats.md is held by tests that exist, and the packages come as the lock says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from galvan import guards
from galvan.errors import EXIT_RESOURCES, ResourceError
from galvan.models import locate

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "threats.md"


def test_every_threat_has_a_defence_and_a_test_that_exists() -> None:
    rows = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 25
    for threat, defence, held in rows:
        (found,) = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", held)
        names = {node.name for node in ast.walk(ast.parse((ROOT / found[0]).read_text())) if isinstance(node, ast.FunctionDef)}
        assert found[1] in names and len(threat.split()) > 3 and len(defence.split()) > 1, (threat, found)


@pytest.mark.parametrize(
    ("name", "found", "old"),
    [("torch", "2.9.1", True), ("torch", "2.10.0", False), ("torch", "2.13.0+cpu", False), ("transformers", "5.3rc0", False), ("transformers", "4.57.1", True),
     ("starlette", "1.0.0", True), ("starlette", "1.0.1", False), ("ray", "2.53.9", True), ("numpy", "0.1", False)],
)  # fmt: skip
def test_versions_are_compared_by_their_numbers(name: str, found: str, old: bool) -> None:
    assert (guards.too_old(name, found) is not None) == old


def test_a_package_with_known_holes_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    guards.require_floors.cache_clear()
    monkeypatch.setattr(guards, "version", lambda name: {"torch": "2.9.1", "transformers": "5.9"}[name])
    try:
        with pytest.raises(ResourceError) as refused:
            locate("galvan/spark")
    finally:
        guards.require_floors.cache_clear()
    assert (refused.value.code, refused.value.exit_code) == ("environment/too-old", EXIT_RESOURCES)
    assert str(refused.value) == "torch 2.9.1 is older than 2.10, which mends security holes; upgrade it."


def test_every_locked_package_but_torch_has_its_hashes() -> None:
    """torch is one version in many builds, so that its file stands for itself."""
    for lock in ("requirements.txt", "requirements-dev.txt"):
        entries = (ROOT / lock).read_text().replace("\\\n", " ").splitlines()[1:]
        assert len(entries) > 40
        assert all(re.fullmatch(r"[a-z0-9.-]+==\S+(?: +--hash=sha256:[0-9a-f]{64})+", entry) for entry in entries)
