"""Blocks of scores that are on the disk already: a run that was killed while it scored loses the block it was at, and no more."""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from galvan import distributed
from galvan.rundir import fingerprint

if TYPE_CHECKING:
    from galvan.measure.scoring import Score


class Kept:
    """The blocks of one scoring in the order of their making, a file each, below `folder`. `identity` names all that the scores depend on;
    blocks of another are removed. Several processes share the folder; the first writes."""

    def __init__(self, folder: Path, identity: object) -> None:
        self._folder, self._number = folder / fingerprint([identity, distributed.world()])[:16], 0
        if not distributed.rank():
            for other in folder.glob("*"):
                if other != self._folder:
                    shutil.rmtree(other, ignore_errors=True)

    def take(self) -> list[Score] | None:
        """The next block, if every process finds it whole."""
        self._number += 1
        rows = self._read()
        return rows if all(distributed.gathered(rows is not None)) else None

    def put(self, rows: Sequence[Score]) -> None:
        """Keep what the block came to that `take` did not find."""
        from galvan.measure.scoring import write_scores

        if not distributed.rank():
            write_scores(self._path(), rows)

    def _path(self) -> Path:
        return self._folder / f"{self._number:06d}.parquet"

    def _read(self) -> list[Score] | None:
        from galvan.measure.scoring import SCHEMA, Score

        try:
            table = pq.read_table(self._path(), schema=SCHEMA, page_checksum_verification=True)
        except (OSError, pa.ArrowException):
            return None
        return [Score(**{**row, "token_nll_nats": array("f", row["token_nll_nats"])}) for row in table.to_pylist()]
