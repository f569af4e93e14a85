"""Which comparisons a run makes, from `scores.parquet` alone: base against tuned on held-out and on training text, and the controls.

Documents are paired by name, token by token; a document that one arm lacks refuses the comparison, because leaving it out would
change the result. The exact-identity question comes before any statistics (METHODS S1.6), and no gain is kept where it, or a
control, says that the measurement itself is at fault.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from galvan.compare_shuffled import beside_real, judge_shuffled
from galvan.data.store import OnDemand
from galvan.errors import ComparisonRefused, DataError
from galvan.measure.facts import integrity_from_json
from galvan.rundir import SCHEMA_VERSION, writing
from galvan.statistics.bits_per_byte import BitsGain, Comparable, paired_bits
from galvan.statistics.bottleneck import Bottleneck, bottleneck
from galvan.statistics.checks import FloatArray, IntArray
from galvan.statistics.compare_sets import Difference, difference
from galvan.statistics.identity import Identity, identical
from galvan.statistics.multiple import Family, judge_candidates
from galvan.statistics.paired import Gain, paired_gain
from galvan.text import shown

if TYPE_CHECKING:
    from galvan.compare_seeds import SeedsCompared

BASE, TUNED = "base", "tuned"
TEST, TRAIN, SHUFFLED = "test", "train", "test_shuffled"
NO_MARGIN = 1e-300  # a margin in nats a token has no meaning in bits per byte, so that nothing is called equivalent there
LEAST_FLOOR_NATS = 1e-5  # rounding in float32; ten of these are the 1e-4 that batching may change (METHODS S3.6)

TOKENS = "token_nll_nats"
_ROWS = 4096  # of which the tokens are read at once
_HELD = 1 << 24  # bytes of tokens that stay in memory
_COLUMNS = pa.schema(
    [
        ("arm", pa.string()), ("document", pa.string()), ("source", pa.string()), ("position", pa.int64()), ("split", pa.string()),
        ("n_tokens", pa.int64()), ("n_bytes", pa.int64()), ("nll_nats", pa.float64()), (TOKENS, pa.list_(pa.float32())),
    ]
)  # fmt: skip


class Tokens(OnDemand[FloatArray]):
    """The NLL of each token in nats, of each document an array that is made when it is asked for, out of a file of float32 where they are many.

    Tokens are nearly all of what is scored, and most questions are about documents: so memory does not grow with their length.
    """

    def __init__(self, file: IO[bytes], begins: IntArray, sizes: IntArray) -> None:
        self._file, self._begins, self.sizes = file, begins, sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def _item(self, number: int) -> FloatArray:
        self._file.seek(4 * int(self._begins[number]))
        return np.frombuffer(self._file.read(4 * int(self.sizes[number])), dtype=np.float32).astype(np.float64)

    def __iter__(self) -> Iterator[FloatArray]:
        for first in range(0, len(self), _ROWS):
            begins, ends = self._begins[first : first + _ROWS], (self._begins + self.sizes)[first : first + _ROWS]
            low, high = int(begins.min()), int(ends.max())
            if high - low > 2 * int((ends - begins).sum()):  # they lie far apart
                yield from map(self._item, range(first, first + len(begins)))
                continue
            self._file.seek(4 * low)
            together = np.frombuffer(self._file.read(4 * (high - low)), dtype=np.float32).astype(np.float64)
            yield from (together[begin:end] for begin, end in zip((begins - low).tolist(), (ends - low).tolist(), strict=True))

    def take(self, places: IntArray) -> Tokens:
        return Tokens(self._file, self._begins[places], self.sizes[places])


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm on one split: parallel lists, one entry a document. `tokens` holds the NLL of each token in nats."""

    documents: list[str]
    sources: list[str]
    positions: IntArray
    n_tokens: IntArray
    n_bytes: IntArray
    nll_nats: FloatArray
    tokens: Tokens

    def take(self, documents: Sequence[str]) -> Arm:
        """The same arm on these documents, in this order; KeyError if it lacks one."""
        if documents == self.documents:
            return self
        place = {name: index for index, name in enumerate(self.documents)}
        at = [place[name] for name in documents]
        pick = np.array(at, dtype=np.int64)
        return Arm(
            list(documents), [self.sources[i] for i in at], self.positions[pick], self.n_tokens[pick], self.n_bytes[pick],
            self.nll_nats[pick], self.tokens.take(pick),
        )  # fmt: skip


Scores = Mapping[tuple[str, str], Arm]


@dataclass(frozen=True, slots=True)
class Control:
    """A comparison whose answer is known. `status` is None, with the reason, where it was not run."""

    status: Literal["ok", "failed"] | None
    reason: str
    largest_difference_nats: float | None = None
    gain_nats_per_token: float | None = None
    n_documents: int = 0


@dataclass(frozen=True, slots=True)
class Comparisons:
    """`comparisons.json`. Gains are None, with the reason in `refusal`, where the comparison is refused; `probe` is the gain on a fixed
    sample of the training documents, None with `probe_reason` where none was scored. With different tokenizers `test` is None, `bits`
    judges, and `comparable` says so. `recipe` is the gain over training seeds, None until the run is judged."""

    schema_version: int
    noise_floor_nats: float
    noise_floor_reason: str
    identity: Identity
    controls: dict[str, Control]
    refusal: str | None
    test: Gain | None
    bits: BitsGain | None
    bottleneck: Bottleneck | None
    probe: Gain | None
    probe_minus_test: Difference | None
    probe_reason: str | None
    comparable: Comparable | None = None
    recipe: SeedsCompared | None = None

    def withheld(self, refusal: str) -> Comparisons:
        """The same without any gain: what may be kept of a refused comparison."""
        recipe = self.recipe and dataclasses.replace(self.recipe, gain=None, reason=refusal)
        return dataclasses.replace(
            self, refusal=refusal, test=None, bits=None, bottleneck=None, probe=None, probe_minus_test=None, probe_reason=refusal,
            recipe=recipe,
        )  # fmt: skip


def compare(
    path: Path, margin: float, integrity: Mapping[str, Any] | None = None, comparable: Comparable | None = None
) -> Comparisons:
    """All comparisons of a run's `scores.parquet`; `margin` in nats a token. `comparable` is None where the tokenizers are taken as one.

    Raises DataError where the file is damaged, ComparisonRefused where base and tuned were not scored on the same tokens.
    """
    scores = read_scores(path)
    floor, floor_reason = noise_floor(integrity)
    if comparable is not None and not comparable.token_perplexity:
        return _without_tokens(scores, floor, floor_reason, margin, comparable)
    base, tuned = paired(scores, TUNED, TEST)
    identity = _identity(base, tuned, floor)
    controls = {name: check(scores, floor, margin) for name, check in CONTROLS.items()}
    test, by_bytes = gain(base, tuned, margin), bits(base, tuned)
    followed = (TUNED, TRAIN) in scores or (BASE, TRAIN) in scores
    probe = gain(*paired(scores, TUNED, TRAIN), margin) if followed else None
    reason = None if followed else "No training document was scored."
    spread = bottleneck(b - t for b, t in zip(base.tokens, tuned.tokens, strict=True))
    found = Comparisons(
        SCHEMA_VERSION, floor, floor_reason, identity, controls, None, test, by_bytes, spread, probe,
        None if probe is None else difference(probe, test), reason, comparable,
    )  # fmt: skip
    refusal = _refusal(identity, controls)
    return found if refusal is None else found.withheld(refusal)


def _without_tokens(scores: Scores, floor: float, floor_reason: str, margin: float, comparable: Comparable) -> Comparisons:
    """Two tokenizers: documents are compared by their bytes, and whatever speaks of tokens is undefined (METHODS S3.4)."""
    base, tuned = paired(scores, TUNED, TEST, tokens=False)
    identity = _identity_of_sums(base, tuned, floor)
    controls = {name: check(scores, floor, margin) for name, check in CONTROLS.items()}
    found = Comparisons(
        SCHEMA_VERSION,
        floor,
        floor_reason,
        identity,
        controls,
        None,
        None,
        bits(base, tuned),
        None,
        None,
        None,
        comparable.reason,
        comparable,
    )
    refusal = _refusal(identity, controls)
    return found if refusal is None else found.withheld(refusal)


def _refusal(identity: Identity, controls: Mapping[str, Control]) -> str | None:
    if identity.status == "identical":
        return identity.reason
    failed = [control.reason for control in controls.values() if control.status == "failed"]
    if not failed:
        return None
    which = "A control failed" if len(failed) == 1 else f"{len(failed)} controls failed"
    return f"{which}: {failed[0][0].lower()}{failed[0][1:]}" + "".join(f" {reason}" for reason in failed[1:])


def noise_floor(integrity: Mapping[str, Any] | None) -> tuple[float, str]:
    """How far a token's NLL may differ between two measurements of one model, in nats, and where the number comes from."""
    function = None if integrity is None else integrity_from_json(integrity).function
    if function is None:
        return LEAST_FLOOR_NATS, "Not measured in this run; taken as the rounding of float32."
    if function.noise_floor_nats < LEAST_FLOOR_NATS:
        return LEAST_FLOOR_NATS, f"The rounding of float32; measured on {function.n_texts} texts: {function.noise_floor_nats:.2g}."
    return function.noise_floor_nats, f"Measured on {function.n_texts} texts, one forward pass repeated and batched."


def gain(base: Arm, tuned: Arm, margin: float) -> Gain:
    """The paired gain of two arms on the same documents; units by source and position (METHODS S1.3)."""
    return paired_gain(base.nll_nats, tuned.nll_nats, base.n_tokens, margin=margin, sources=base.sources, positions=base.positions)


def bits(base: Arm, tuned: Arm) -> BitsGain:
    """The paired gain in bits per byte; the tokenizers may differ, the bytes may not."""
    return paired_bits(base.nll_nats, tuned.nll_nats, base.n_bytes, sources=base.sources, positions=base.positions)


def candidates(scores: Scores, names: Sequence[str], margin: float, seed: int, tokens: bool = True) -> Family:
    """Several arms against the base, judged together: in nats a token, or, unless `tokens`, in bits per byte and without a margin.

    Raises ComparisonRefused where an arm was not scored on the base's documents.
    """
    pairs = {name: paired(scores, name, TEST, tokens=tokens) for name in names}
    base = scores[BASE, TEST]
    unit, sizes = (1.0, base.n_tokens) if tokens else (math.log(2), base.n_bytes)
    tuned = {name: other.nll_nats / unit for name, (_, other) in pairs.items()}
    rng, least = np.random.default_rng(seed), margin if tokens else NO_MARGIN
    family = judge_candidates(base.nll_nats / unit, tuned, sizes, rng, margin=least, sources=base.sources, positions=base.positions)
    if tokens:
        return family
    zero = "The simultaneous 95 % interval holds zero."  # the usual sentence speaks of perplexity, which is not comparable here
    plain = (dataclasses.replace(c, reason=zero) if "perplexity" in c.reason else c for c in family.candidates)
    return dataclasses.replace(family, candidates=tuple(plain))


def paired(scores: Scores, arm: str, split: str, part: bool = False, tokens: bool = True) -> tuple[Arm, Arm]:
    """Base and `arm` on the same documents of `split`; with `part`, on those that `arm` has.

    ComparisonRefused, naming the document, where one arm lacks it or counts other bytes or, unless not `tokens`, other tokens in it.
    """
    empty = [name for name in (BASE, arm) if (name, split) not in scores]
    if empty:
        raise ComparisonRefused(
            "compare/missing-arm",
            f"scores.parquet has no {split} documents under `{shown(empty[0])}`; score both arms on the same file.",
        )
    base, other = scores[BASE, split], scores[arm, split]
    here, there = set(other.documents), set(base.documents)
    lacking = sorted(here - there) + ([] if part else sorted(there - here))
    if lacking:
        raise ComparisonRefused(
            "compare/unpaired", f"{split} document {shown(lacking[0], 80)} was scored under only one of `{BASE}` and `{shown(arm)}` "
            f"({len(lacking)} such); score both arms on the same documents.",
        )  # fmt: skip
    base = base.take([name for name in base.documents if name in here])
    other = other.take(base.documents)
    unlike = np.flatnonzero((tokens & (base.n_tokens != other.n_tokens)) | (base.n_bytes != other.n_bytes))
    if unlike.size:
        i = int(unlike[0])
        raise ComparisonRefused(
            "compare/tokens", f"{split} document {shown(base.documents[i], 80)} has {base.n_tokens[i]} tokens and {base.n_bytes[i]} bytes under "
            f"`{BASE}` but {other.n_tokens[i]} and {other.n_bytes[i]} under `{shown(arm)}`; use one tokenizer and one first-token rule.",
        )  # fmt: skip
    return base, other


# ---- controls: comparisons whose answer is known ----


def _identity(base: Arm, other: Arm, floor: float) -> Identity:
    """With the document's name in place of its number."""
    found = identical(base.tokens, other.tokens, floor)
    name = shown(base.documents[found.document], 80)
    return dataclasses.replace(found, reason=found.reason.replace(f"Document {found.document} ", f"Document {name} ", 1))


def _identity_of_sums(base: Arm, other: Arm, floor: float) -> Identity:
    """Where tokens differ, whole documents are compared: two models do not agree on every sum."""
    found = identical([[nll] for nll in base.nll_nats], [[nll] for nll in other.nll_nats], floor)
    name, n = shown(base.documents[found.document], 80), int(base.n_tokens.sum())
    if found.status == "identical":
        reason = f"All {len(base.documents):,} documents have the same likelihood to within {floor:.2g} nats: this is one model, measured twice."
    else:
        reason = (
            f"The tokenizers differ, so whole documents were compared: {name} differs by {found.largest_difference_nats:.3g} nats."
        )
    return dataclasses.replace(found, n_tokens=n, reason=reason)


def _control(arm: str, judge: Callable[[Identity, Gain], str | None], passed: str) -> Callable[[Scores, float, float], Control]:
    """A control on arm `arm`: `judge` returns what is wrong, or None."""

    def check(scores: Scores, floor: float, margin: float) -> Control:
        if (arm, TEST) not in scores:
            return Control(None, f"Arm `{arm}` was not scored in this run.")
        base, other = paired(scores, arm, TEST, part=True)
        identity, result = _identity(base, other, floor), gain(base, other, margin)
        wrong = judge(identity, result)
        what = (
            f"largest token difference {identity.largest_difference_nats:.2g} nats, gain {result.nats_per_token:+.3g} nats a token"
        )
        return Control(
            "failed" if wrong else "ok",
            f"{wrong or passed} ({what}, {result.n_documents} documents).",
            identity.largest_difference_nats,
            result.nats_per_token,
            result.n_documents,
        )

    return check


def _base_vs_base(identity: Identity, result: Gain) -> str | None:
    """The floor was measured on a few texts, and the largest of more tokens may lie above it: ten floors are a failure. A gain
    below the floor is rounding, and an interval around rounding means nothing."""
    if identity.status == "different":
        return "The base, scored twice, differs from itself by more than ten times the noise floor"
    differs = result.verdict in ("improved", "worse") and abs(result.nats_per_token) > identity.noise_floor_nats
    return f"The base, scored twice, is {result.verdict} against itself" if differs else None


def _zero_adapter(identity: Identity, result: Gain) -> str | None:
    return "An adapter whose update is zero changes the model" if identity.status == "different" else None


def _random_b(identity: Identity, result: Gain) -> str | None:
    """Random noise in every B must be seen, and must not help. Chance alone calls 2.5 % of null comparisons improved, so an
    improvement within the margin is let pass."""
    if identity.status == "identical":
        return "An adapter of random numbers changes nothing, so adapters do not reach the scores"
    if result.verdict == "improved" and result.nats_per_token > result.margin:
        return "An adapter of random numbers improves on the base, so the base is at a disadvantage"
    return None


def _shuffled_author(scores: Scores, floor: float, margin: float) -> Control:
    return Control(None, "Style was not measured in this run, so there is nothing for shuffled text to fool.")


def _shuffled_text(scores: Scores, floor: float, margin: float) -> Control:
    if (BASE, SHUFFLED) not in scores or (TUNED, SHUFFLED) not in scores:
        return Control(
            None, "No test document was scored with its words shuffled: none was, or too few words stand between spaces."
        )
    try:
        arms = [beside_real(scores[name, TEST], scores[name, SHUFFLED], floor) for name in (BASE, TUNED)]
    except KeyError as error:
        raise ComparisonRefused(
            "compare/unpaired", f"test document {shown(str(error.args[0]), 80)} was scored only with its words shuffled."
        ) from None
    return Control(*judge_shuffled(*arms), n_documents=arms[0].n_documents)


CONTROLS: dict[str, Callable[[Scores, float, float], Control]] = {
    "base_vs_base": _control("base_again", _base_vs_base, "The base, scored twice, agrees with itself"),
    "zero_adapter": _control("zero_adapter", _zero_adapter, "An adapter whose update is zero changes nothing"),
    "random_b": _control("random_b", _random_b, "An adapter of random numbers is seen, and does not help"),
    "shuffled_text": _shuffled_text,
    "shuffled_author": _shuffled_author,
}


# ---- the file ----


def read_scores(path: Path) -> dict[tuple[str, str], Arm]:
    """The rows of `scores.parquet` by arm and split, in the order of the file; more columns than ours are let be.

    Raises DataError that names the row where something is missing or contradicts itself, FileNotFoundError if there is no file.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    found = [name for name in _COLUMNS.names if name != TOKENS]
    try:
        with pq.ParquetFile(path) as stream:
            table = _complete(stream.read(columns=found), found, path)
            columns = {name: table.column(name).combine_chunks() for name in found}
            tokens, totals = _tokens(stream, path)
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise _damaged(path, f"not readable as scores: {shown(' '.join(str(error).split()), 160)}") from None
    if not table.num_rows:
        raise _damaged(path, "it holds no row")
    return _arms(path, columns, tokens, totals)


def _complete(table: pa.Table, names: Sequence[str], path: Path, before: int = 0) -> pa.Table:
    """The columns `names` in their types; DataError with the row where one has no value."""
    table = table.select(names).cast(pa.schema([_COLUMNS.field(name) for name in names]))
    for name in names:
        if table.column(name).null_count:
            row = int(np.flatnonzero(table.column(name).is_null().to_numpy())[0])
            raise _damaged(path, f"row {before + row}: `{name}` is missing")
    return table


def _tokens(stream: pq.ParquetFile, path: Path) -> tuple[Tokens, FloatArray]:
    """The tokens of every row, some rows at a time, in memory or in a file without a name, and their sums."""
    file = tempfile.SpooledTemporaryFile(_HELD)  # noqa: SIM115
    sizes, totals, row = list[IntArray](), list[FloatArray](), 0
    for batch in stream.iter_batches(batch_size=_ROWS, columns=[TOKENS]):
        lists = _complete(pa.Table.from_batches([batch]), [TOKENS], path, row).column(0).combine_chunks()
        row += len(lists)
        flat, here = lists.flatten().to_numpy(zero_copy_only=False), lists.value_lengths().to_numpy().astype(np.int64)
        total, full = np.zeros(len(here)), here > 0
        with np.errstate(invalid="ignore"):  # infinities of both signs: not finite either way
            if full.any():
                total[full] = np.add.reduceat(flat.astype(np.float64), (np.cumsum(here) - here)[full])
        with writing(Path(tempfile.gettempdir())):
            file.write(flat.astype(np.float32).data)
        sizes.append(here)
        totals.append(total)
    every = np.concatenate([np.empty(0, dtype=np.int64), *sizes])
    return Tokens(file, np.cumsum(every) - every, every), np.concatenate([np.empty(0), *totals])


def _arms(path: Path, columns: Mapping[str, Any], tokens: Tokens, totals: FloatArray) -> dict[tuple[str, str], Arm]:
    names = {name: _strings(columns[name]) for name in ("arm", "split", "document", "source")}
    number = {name: columns[name].to_numpy(zero_copy_only=False) for name in ("position", "n_tokens", "n_bytes", "nll_nats")}
    _check(path, names["document"], number, tokens.sizes, totals)
    rows: dict[tuple[str, str], array[int]] = {}
    for index, key in enumerate(zip(names["arm"], names["split"], strict=True)):
        rows.setdefault(key, array("q")).append(index)
    arms = {}
    for key, found in rows.items():
        at = np.array(found, dtype=np.int64)
        documents = [names["document"][i] for i in found]
        if len(set(documents)) < len(documents):
            twice = next(name for name in documents if documents.count(name) > 1)
            raise _damaged(path, f"document {shown(twice, 80)} stands twice under `{shown(key[0])}`, {shown(key[1])}")
        arms[key] = Arm(
            documents, [names["source"][i] for i in found], number["position"][at].astype(np.int64), number["n_tokens"][at].astype(np.int64),
            number["n_bytes"][at].astype(np.int64), number["nll_nats"][at].astype(np.float64), tokens.take(at),
        )  # fmt: skip
    return arms


def _strings(column: Any) -> list[str]:
    """Equal ones are one object: a document's name is in memory once, however many arms have scored it."""
    encoded = column.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    return [words[i] for i in encoded.indices.to_numpy()]


def _check(path: Path, documents: Sequence[str], number: Mapping[str, Any], there: IntArray, total: FloatArray) -> None:
    """All rows at once; DataError with the first that is wrong."""
    announced, nll = number["n_tokens"], number["nll_nats"]
    empty = (there != announced) | (announced < 1) | (number["n_bytes"] < 1)
    finite = np.isfinite(nll) & np.isfinite(total)
    off = np.abs(np.where(finite, total - nll, 0.0)) > 1e-3 * np.maximum(1.0, np.abs(np.where(finite, nll, 0.0)))
    wrong = np.flatnonzero(empty | ~finite | off)
    if not wrong.size:
        return
    row = int(wrong[0])
    if empty[row]:
        what = f"{announced[row]} tokens are announced, {there[row]} are there, in {number['n_bytes'][row]} bytes"
    elif not finite[row]:
        what = "a token's NLL is not finite, so one of the models overflows: score in float32"
    else:
        what = f"`nll_nats` is {nll[row]:.6g} but the tokens add up to {total[row]:.6g}"
    raise _damaged(path, f"row {row}, document {shown(documents[row], 80)}: {what}")


def _damaged(path: Path, what: str) -> DataError:
    return DataError("run/damaged", f"{shown(path.name)}: {what}; delete the file and run again.")
