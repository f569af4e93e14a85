"""Write requirements.txt and requirements-dev.txt: the exact versions installed in this environment of all that galvan needs.

    python scripts/lock.py

Run it in a virtual environment in which the ranges of pyproject.toml were just resolved and the tests pass.
"""

from __future__ import annotations

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


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = closure(project["dependencies"])
    everything = closure([*project["dependencies"], *project["optional-dependencies"]["dev"]])
    note = "# Made by scripts/lock.py from pyproject.toml; do not edit."
    lines = [f"{name}=={version}" for name, version in sorted(core.items())]
    (ROOT / "requirements.txt").write_text("\n".join([note, *lines]) + "\n")
    rest = [f"{name}=={version}" for name, version in sorted(everything.items()) if name not in core]
    (ROOT / "requirements-dev.txt").write_text("\n".join([note, "-r requirements.txt", *rest]) + "\n")


if __name__ == "__main__":
    main()
