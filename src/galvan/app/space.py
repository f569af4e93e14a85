"""The playground as a service behind a proxy, as a Hugging Face Space runs it: settings come from the environment, and no answers are kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from galvan.errors import GalvanError, RecipeError

PORT = 7860
CLOSED = "Nobody may come in yet: set the secret GALVAN_APP_PASSWORD, or the variable GALVAN_APP_OPEN to 1 for a playground that is open to all."


def serve(folder: Path, environment: Mapping[str, str]) -> int:
    """Serve `folder`'s playground. SPACE_HOST is the public name, GALVAN_APP_PASSWORD or GALVAN_APP_OPEN=1 say who may come in, HOST and PORT
    where to listen. RecipeError where nobody could come in, or the password is short."""
    password, open_to_all = environment.get("GALVAN_APP_PASSWORD") or None, environment.get("GALVAN_APP_OPEN") == "1"
    if password is None and not open_to_all:
        raise RecipeError("app/closed", CLOSED)
    from galvan.app import server
    from galvan.app.playground import Playground

    name = environment.get("SPACE_HOST")
    return server.serve(
        folder, environment.get("HOST", "0.0.0.0"), int(environment.get("PORT", PORT)), password, Playground(folder), lambda url: print(url, flush=True),
        review=False, public=f"https://{name}" if name else None, open_to_all=open_to_all,
    )  # fmt: skip


def main(folder: Path) -> None:
    """What a Space's app.py calls; a problem is one sentence in its log."""
    try:
        sys.exit(serve(folder, os.environ))
    except GalvanError as error:
        print(f"error[{error.code}]: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
