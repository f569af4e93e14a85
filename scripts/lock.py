"""Write requirements.txt and requirements-dev.txt: the exact versions installed in this environment of all that galvan needs, with their hashes.

    python scripts/lock.py

Run it in a virtual environment in which the ranges of pyproject.toml were just resolved and the tests pass; uv asks PyPI for the hashes.
torch stands alone in requirements-torch.txt and has none: it is one version in many builds, for processors and for graphics cards, which come
from different indexes and are not the same file.
"""

from __future__ import annotations

import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def closure(wanted: list[str]) -> dict[str, str]:
    """Name to version of `wanted` and everything they need here, environment markers and extras honoured."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [Requirement(text) for text in wanted]
    while queue:
        requirement = queue.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name} is not installed here; pip install -e '.[dev]' first") from None
        found[name] = installed.version.partition("+")[0]
        for text in installed.requires or []:
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in (extras or {""}) | {""}):
                queue.append(inner)
    return found


def hashed(versions: dict[str, str]) -> str:
    """The lines of a lock: each package with the sha256 of every file of that version."""
    names = "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))
    command = ["uv", "pip", "compile", "-", "--generate-hashes", "--no-deps", "--no-header", "--no-annotate", "--quiet"]
    return subprocess.run(command, input=names, capture_output=True, text=True, check=True).stdout


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = closure(project["dependencies"])
    everything = closure([*project["dependencies"], *project["optional-dependencies"]["dev"]])
    note = "# Made by scripts/lock.py from pyproject.toml; do not edit."
    (ROOT / "requirements-torch.txt").write_text(f"{note}\ntorch=={core.pop('torch')}\n")
    (ROOT / "requirements.txt").write_text(f"{note}\n{hashed(core)}")
    rest = {name: version for name, version in everything.items() if name not in core and name != "torch"}
    (ROOT / "requirements-dev.txt").write_text(f"{note}\n{hashed(rest)}")


if __name__ == "__main__":
    main()
