"""The stages of a run. Each leaves files and a marker; a stage whose inputs have not changed is reused, and says so."""

from __future__ import annotations

import dataclasses
import glob
import platform
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.resources import as_file, files
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galvan import __version__, distributed
from galvan import recipe as recipes
from galvan.errors import ComparisonRefused, DataError, GalvanError, ModelError, RecipeError
from galvan.progress import Progress, Silent
from galvan.recipe import Recipe
from galvan.rundir import (
    Document,
    Stage,
    alone,
    appear,
    cannot_write,
    each_document,
    fingerprint,
    read_documents,
    read_json,
    remove,
    sha256_file,
    write_bytes,
    write_json,
    write_rows,
    write_text,
)
from galvan.text import shown

if TYPE_CHECKING:
    from galvan.data.show import ShownRow
    from galvan.data.token_checks import TokenReport
    from galvan.data.tokens import TokenRow
    from galvan.measure.bench import Bench
    from galvan.measure.generation import GenerationFacts, Sample
    from galvan.measure.scoring import Score
    from galvan.models import Choice, Fingerprints, Located
    from galvan.preflight import Preflight
    from galvan.training import onward
    from galvan.training.cost import Cost
    from galvan.training.loop import Watch
    from galvan.training.shared import Shared

PROBE_DOCUMENTS = 100  # training documents scored for the train-probe gain (METHODS S1.9)
CONTROL_DOCUMENTS = 8  # test documents on which the controls run
SHOWN_ROWS = 3  # training rows shown token by token in the report
NEUTRAL_TOKENS = 512  # of a neutral or held-out document, those on which whole distributions are compared
ENCODED_TOGETHER = 1_000  # documents; no more are held as ids while a run is prepared
RECORD = (
    "recipe.yaml",
    "provenance.json",
    "preflight.json",
    "reported.json",
    "data/train.jsonl",
    "data/validation.jsonl",
    "data/test.jsonl",
)
CHECK_TEXTS = 3  # test documents on which base, disabled and enabled are compared (METHODS S8.2)


@dataclasses.dataclass
class Story:
    """One run in progress. `tuned` is the adapter or model from elsewhere, or None where this run trains its own."""

    recipe: Recipe
    folder: Path
    base: Located
    prints: Fingerprints
    device: Choice
    dtype: Choice
    progress: Progress
    offline: bool
    tuned: Located | None = None
    _tokenizer: Any = None
    _preflight: Preflight | None = None
    _rows: Sequence[TokenRow] | None = None  # the training texts' rows, on disk, until training begins
    _shared: Shared | None = None
    _given: Bench | None = None

    @classmethod
    def begin(
        cls, recipe: Recipe, folder: Path, progress: Progress | None, offline: bool, tuned: str | None = None, shared: Shared | None = None,
        bench: Bench | None = None,
    ) -> Story:  # fmt: skip
        """Find the models, say what was chosen and why, and write the resolved recipe into the run.

        `shared` is what this training has in common with others of this process, `bench` what its measuring has; with several processes
        each loads its own.
        """
        from galvan import models, trackers
        from galvan.measure.lm_eval_tasks import require_lm_eval
        from galvan.training import onward

        progress = progress or Silent()
        recipe = onward.pinned(recipe, folder, offline)
        trackers.require(recipe.trackers)
        require_lm_eval(recipe.evaluation.lm_eval_tasks)
        base = models.locate(recipe.model.base, offline=offline)
        adapter = None if tuned is None else models.locate(tuned, "adapter", offline)
        device = models.choose_device(recipe.model.device)
        dtype = models.choose_dtype(recipe.model.dtype, device.value)
        bench = None if distributed.launched() else bench
        prints = bench.said(["fingerprints"], lambda: models.fingerprints(base)) if bench else models.fingerprints(base)
        story = cls(recipe, folder, base, prints, device, dtype, progress, offline, adapter)
        story._tokenizer = bench.said(["tokenizer"], lambda: models.load_tokenizer(base)) if bench else models.load_tokenizer(base)
        story._shared = None if distributed.launched() else shared
        story._given = bench
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from None
        progress.say(f"Base {shown(base.name)} on {device.value} ({device.reason}), {dtype.value} ({dtype.reason}).")
        return story

    @contextmanager
    def alone(self, wait: bool = False) -> Iterator[None]:
        """One process a run folder, as `rundir.alone` says; the recipe is written."""
        with alone(self.folder, wait):
            write_text(self.folder / "recipe.yaml", recipes.resolved(self.recipe))
            yield

    # ---- stages ----

    def prepare(self, adopt: Path | None = None) -> Preflight:
        """data/{train,validation,test}.jsonl, pictures/, audit.json, tokens.json, rows.json and preflight.json; a leaking split is refused.

        What the run in `adopt` prepared from the same inputs is taken over.
        """
        from galvan.data import leak
        from galvan.data.prepare import prepare, write

        if self.recipe.data.augment != "none":
            from galvan.augment import require_template

            require_template(self._tokenizer, self.base.name)
        neutral = self.recipe.evaluation.neutral
        stage = Stage(
            self.folder, "prepare",
            {
                "data": self.recipe.data, "seed": self.recipe.seed, "source": self._source_digest(), "tokenizer": self.prints.tokenizer,
                "template": self.prints.chat_template, "training_tokens": self._training_tokens(), "learn_eos": self.recipe.training.learn_eos,
                "neutral": self._source_digest(neutral),
            },
        )  # fmt: skip
        if not self._reuse(stage) and not (adopt and stage.adopt(adopt)):
            stage.begin()
            remove(self.folder / "data" / "augmented.jsonl")  # it belongs to the texts before
            prepared = prepare(
                self.recipe.data, self.recipe.seed, self._offsets, offline=self.offline, decode=self._decode, folder=self.folder,
                neutral=neutral,
            )  # fmt: skip
            written = write(prepared, self.folder)
            leak.refuse(prepared.audit)
            tokens = self._token_report(prepared.splits.train)
            write_json(self.folder / "tokens.json", tokens)
            write_json(self.folder / "rows.json", self.show(SHOWN_ROWS))
            if tokens.shape != "plain text":
                self.progress.say(f"The rows are {tokens.shape}; learned by: {', '.join(tokens.ways)}.")
            stage.finish([*written, "tokens.json", "rows.json"])
        return self.preflight()

    def _token_report(self, documents: Sequence[Document]) -> TokenReport:
        from galvan.data.token_checks import TokenFacts, report

        self._rows = self._encoded(documents)
        return report(TokenFacts(self._tokenizer, documents, self._rows, self.recipe.training.learn_eos))

    def require_sound(self) -> None:
        """DataError or ResourceError with the first thing found by preparing that training cannot work with; no model is loaded for it."""
        for notice in read_json(self.folder / "tokens.json")["notices"]:
            if notice["level"] == "error":
                raise DataError(notice["code"], f"{shown(self.recipe.data.source)}: {notice['message']}")
        (self._preflight or self.preflight()).refuse()

    def show(self, rows: int) -> list[ShownRow]:
        """The first training rows, token by token."""
        from galvan.data.show import shown_row
        from galvan.data.tokens import training_rows

        documents = list(islice(each_document(self.folder / "data" / "train.jsonl"), rows))
        whole = training_rows(self._tokenizer, documents, None, self.recipe.training.learn_eos)
        return [shown_row(self._tokenizer, row, self._training_tokens()) for row in whole]

    def scored_tokens(self, split: str) -> list[int]:
        """How many tokens of each document of `split` will be scored, by the first-token rule; no model is needed."""
        from galvan.data.tokens import adds_bos, encode_texts

        context = 0 if adds_bos(self._tokenizer) else 1
        documents = read_documents(self.folder / "data" / f"{split}.jsonl")
        return [len(ids) - context for ids in encode_texts(self._tokenizer, [d.text for d in documents])]

    def preflight(self) -> Preflight:
        """preflight.json: what training will see and cost."""
        from galvan.data.store import Documents
        from galvan.preflight import preflight

        settings = self.recipe.training
        rows, scored = self._seen_in_training()
        judging = Documents(self.folder)
        for document in each_document(self.folder / "data" / "test.jsonl"):
            judging.append(document, len(self._offsets(document.text)))
        found = preflight(
            self.recipe, rows, judging, judging.n_tokens, scored,
            self._tokenizer.eos_token_id if settings.learn_eos else None, self.base, self.device, self.dtype,
        )  # fmt: skip
        write_json(self.folder / "preflight.json", found)
        self._preflight = found
        return found

    def _seen_in_training(self) -> tuple[Sequence[TokenRow], int]:
        """The rows of an epoch, and how many tokens each evaluation on the way scores."""
        train, validation = (self.folder / "data" / f"{name}.jsonl" for name in ("train", "validation"))
        self._rows = originals = self._encoded(each_document(train)) if self._rows is None else self._rows
        augmented = self._augmented()
        probe = _probe(originals, self.recipe.training.probe_documents)
        scored = sum(len(row.input_ids) for part in (self._encoded(each_document(validation)), probe) for row in part)
        return [*originals, *self._encode(augmented)] if augmented else originals, scored

    def cost(self) -> Cost:
        """What training will take here, measured on shallow models of the base's architecture; ModelError where its config does not say enough."""
        from galvan.training.cost import measure

        return measure(self.base, self.recipe, *self._seen_in_training(), self.device, self.dtype)

    def _encode(self, documents: Sequence[Document]) -> list[Any]:
        from galvan.data.tokens import training_rows

        return training_rows(self._tokenizer, documents, self._training_tokens(), self.recipe.training.learn_eos)

    def _encode_text(self, documents: Sequence[Document]) -> list[Any]:
        """As they are judged, without the end-of-text token: an adapter that learned only where texts end would look like one that helps."""
        from galvan.data.tokens import training_rows

        return [row for row in training_rows(self._tokenizer, documents, self._training_tokens(), False) if row.n_supervised]

    def _encoded(self, documents: Iterable[Document]) -> Sequence[TokenRow]:
        """The same rows on disk, so that preparing takes no more memory for more of them."""
        from galvan.data import tokens
        from galvan.data.store import spool_of

        rest = iter(documents)
        turns = iter(lambda: list(islice(rest, ENCODED_TOGETHER)), [])
        return spool_of(tokens.TokenRow, chain.from_iterable(map(self._encode, turns)), self.folder)

    def augment(self) -> None:
        """data/augmented.jsonl and augment.json, where the recipe asks for them: rows whose prompts the base wrote, beside the originals."""
        if self.recipe.data.augment == "none":
            return
        self.require_sound()
        splits = {name: read_documents(self.folder / "data" / f"{name}.jsonl") for name in ("train", "validation", "test")}
        kind = self.recipe.data.augment_as
        stage = Stage(
            self.folder, "augment",
            {
                "train": splits["train"], "kind": kind, "base": self.prints, "model": self.recipe.model, "device": self.device.value,
                "dtype": self.dtype.value, "versions": _versions(),
            },
        )  # fmt: skip
        if not self._reuse(stage):
            stage.begin()
            from galvan import models
            from galvan.augment import back_translate, refuse_strays

            model = models.load_base(self.base, self.recipe.model, self.device, self.dtype)
            budget = self.recipe.generation.tokens_per_pass
            rows, facts = back_translate(model, self._tokenizer, splits["train"], kind, self._positions(), budget, self.progress)
            refuse_strays(rows, splits["train"], [*splits["validation"], *splits["test"]])
            write_rows(self.folder / "data" / "augmented.jsonl", rows)
            write_json(self.folder / "augment.json", facts)
            stage.finish(["data/augmented.jsonl", "augment.json"])
        made = read_json(self.folder / "augment.json")
        self.progress.say(f"Back-translation: {kind}s for {made['rows']} of {made['texts']} training texts join them.")
        self.preflight()

    def _augmented(self) -> list[Document]:
        """The rows that the base's words made of training texts; none where the recipe asks for none or they are not made yet."""
        path = self.folder / "data" / "augmented.jsonl"
        return read_documents(path) if self.recipe.data.augment != "none" and path.is_file() else []

    def _rows_of_epoch(self, documents: Sequence[Document], rows: Sequence[Any], augmented: Sequence[Any]) -> Any:
        """The training rows, or where the recipe asks for re-cutting a function from the epoch to its rows."""
        rows = [*rows, *augmented]
        if not self.recipe.data.recut:
            return rows
        from galvan.data.recut import documents_of_epoch, read_stretches

        whole = read_stretches(self.folder / "data" / "stretches.jsonl")

        def rows_of(epoch: int) -> Sequence[Any]:
            if epoch == 0:
                return rows
            recut = documents_of_epoch(documents, whole, epoch, self.recipe.seed, self.recipe.data.document_tokens, self._offsets)
            return [*self._encode(recut), *augmented]

        return rows_of

    def take_documents(self, train_data: str | None) -> None:
        """For an adapter from elsewhere: every document of the data, cleaned as the recipe says, judges; nothing trains here."""
        from galvan.data import clean, cut
        from galvan.data.prepare import cleaned, numbered
        from galvan.data.read import read

        def documents(source: str) -> list[Document]:
            data, log = self.recipe.data, clean.Log()
            found = read(source, data.column, offline=self.offline, mapping=data.mapping)
            rows = cut.in_order(cleaned(found, data, log, self._decode, self.folder), self.folder)
            kept = clean.compared(rows, data.clean, log, self.folder)
            return [Document(*fields) for _, (fields, _) in numbered(kept, data, self._offsets, log)]

        test = documents(self.recipe.data.source)
        if not test:
            raise DataError("data/empty", f"{shown(self.recipe.data.source)}: no document is left to judge on after cleaning.")
        write_rows(self.folder / "data" / "test.jsonl", test)
        write_rows(self.folder / "data" / "train.jsonl", documents(train_data) if train_data else [])
        write_rows(self.folder / "data" / "validation.jsonl", [])

    def copy_documents(self, other: Path) -> None:
        """The documents that another run took: the same for every adapter that is judged on them."""
        for name in ("test", "train", "validation"):
            write_bytes(self.folder / "data" / f"{name}.jsonl", (other / "data" / f"{name}.jsonl").read_bytes())

    def train(self, watch: Watch | None = None, adopt: Path | None = None) -> None:
        """adapter/ (or model/), training.jsonl, curves.jsonl, training.json. `watch` sees every step and may end it, in one process.

        What the run in `adopt` trained from the same inputs is taken over.
        """
        self.require_sound()
        self._rows = None
        settings = self.recipe.training
        target = "adapter" if settings.method == "lora" else "model"
        stage = Stage(
            self.folder, "train",
            {
                "training": settings.identity(), "model": self.recipe.model,
                "seed": self.recipe.training_seed, "base": self.prints, "device": self.device.value, "dtype": self.dtype.value, "versions": _versions(),
                "data": [sha256_file(self.folder / "data" / f"{n}.jsonl") for n in ("train", "validation")],
                "document_tokens": self._training_tokens(),
                **({"recut": self.recipe.data.document_tokens} if self.recipe.data.recut else {}),
                **({"augmented": self._augmented()} if self.recipe.data.augment != "none" else {}),
            },
        )  # fmt: skip
        if not self._reuse(stage) and not (adopt and stage.adopt(adopt)):
            stage.begin()
            names = distributed.together(Story._train_now, self, target, stage.fingerprint, watch)
            stage.finish(names)
            shutil.rmtree(self.folder / "work", ignore_errors=True)
        from galvan.models import Located

        self.tuned = Located(str(self.folder / target), self.folder / target)

    def _train_now(self, target: str, identity: str, watch: Watch | None) -> list[str]:
        import torch

        from galvan import models
        from galvan.models import Choice, Located
        from galvan.trackers import tracking
        from galvan.training import onward, precision
        from galvan.training.live_checks import Expected, base_losses
        from galvan.training.loop import evaluate_together, train
        from galvan.training.loss_checks import loss_checks
        from galvan.training.shared import Shared

        settings, work = self.recipe.training, self.folder / "work"
        shared = self._shared or Shared()
        splits = {name: read_documents(self.folder / "data" / f"{name}.jsonl") for name in ("train", "validation")}
        texts = {name: sha256_file(self.folder / "data" / f"{name}.jsonl") for name in splits}
        asked = {"texts": texts, "tokens": self._training_tokens(), "eos": settings.learn_eos, "tokenizer": self.prints}
        encode = shared.rows(
            asked, lambda: {"train": self._encode(splits["train"]), "validation": self._encode_text(splits["validation"])}
        )
        augmented = self._encode(self._augmented())
        rows = [*encode["train"], *augmented]
        held = precision.of(settings, self.recipe.model.quantization, self.dtype.value)
        sharded = settings.shard and distributed.world() > 1
        device = Choice("cpu", "until the blocks are shared out") if sharded else self.device
        key = {"base": self.prints, "model": self.recipe.model, "device": device.value, "dtype": held.weights}
        model = shared.base(
            key, lambda: models.load_base(self.base, self.recipe.model, device, Choice(held.weights, held.sentence))
        )
        self.progress.say(held.sentence)
        followed = {
            "validation": encode["validation"],
            "probe": self._encode_text(_probe(splits["train"], settings.probe_documents)),
        }
        total, parent = sum(p.numel() for p in model.parameters()), self._parent()
        before: list[dict[str, Any]] = []
        if parent is not None:
            before, ended = onward.losses(parent, self.folder, followed, lambda rows: evaluate_together(model, rows))
        else:
            expected = Expected(base_losses(model, followed["probe"][:CHECK_TEXTS]))
        targets: list[str] = []
        if settings.method == "lora":
            model = models.add_lora(model, settings.lora, self.base.name, self.base.revision, self.recipe.training_seed)
            if settings.lora.start != "default" and not distributed.rank():
                models.save(model, work / "start")
            if parent is not None:
                onward.take_weights(model, parent.adapter)
                alike = parent.record.get("precision") == held.sentence
                expected = Expected(base_losses(model.eval(), followed["probe"][:CHECK_TEXTS]) | ended, parent.adapter.name, alike)
                self.progress.say(f"Training goes on from {shown(parent.adapter.name)}; the learning rate begins anew.")
            targets = sorted({n.rsplit(".lora_A", 1)[0].rsplit(".", 1)[-1] for n, _ in model.named_parameters() if ".lora_A." in n})
        elif self.recipe.model.quantization != "none":
            raise RecipeError(
                "recipe/value",
                "training.method full cannot train a quantised base; set model.quantization to none or method to lora.",
            )
        checks = loss_checks(model, rows, settings.packing)
        with tracking(self.folder, self.recipe, self.progress, self.offline) as tracked:
            trained = train(
                model, self._rows_of_epoch(splits["train"], encode["train"], augmented), settings, self.recipe.training_seed, work, followed["validation"],
                followed["probe"], identity, self.progress, None if distributed.rank() else tracked.beside(watch),
                expected, None if held.compute == held.weights else getattr(torch, held.compute), torch.device(self.device.value), before,
            )  # fmt: skip
        if distributed.rank():
            return []
        if settings.method == "full":
            for p in model.parameters():
                p.data = p.data.to(getattr(torch, self.dtype.value))  # as it will be judged
        start = work / "start" if settings.method == "lora" and settings.lora.start != "default" else None
        appear(
            self.folder / target,
            lambda made: models.save(model, made, None if settings.method == "lora" else self._tokenizer, start),
        )
        if self._shared is not None and settings.method == "lora" and not sharded:
            shared.give_back(key, model, Located(target, self.folder / target))
        for name in ("training.jsonl", "curves.jsonl"):
            write_bytes(self.folder / name, (work / name).read_bytes())  # a copy: the checkpoint in work/ still needs its own
        write_json(
            self.folder / "training.json",
            {
                "method": settings.method, "steps": trained.steps, "tokens": trained.tokens, "trainable_parameters": trained.trainable_parameters,
                "optimizer_parameters": trained.optimizer_parameters, "kept_step": trained.kept_step, "stopped_early": trained.stopped_early,
                "precision": held.sentence, "base_sha256": self.prints.weights, "tokenizer_sha256": self.prints.tokenizer,
                "total_parameters": total, "rows": len(rows), "truncated_rows": sum(row.cut_tokens > 0 for row in rows),
                "truncated_tokens": sum(row.cut_tokens for row in rows), "targets": targets, "checks": checks,
                **(settings.lora.as_saved() if settings.method == "lora" else {"alpha": None, "rank": None, "use_rslora": None}),
                "adapter_sha256": sha256_file(self.folder / target / "adapter_model.safetensors") if settings.method == "lora" else None,
                "continued": None if parent is None else parent.told(),
            },
        )  # fmt: skip
        written = sorted(f"{target}/{p.name}" for p in (self.folder / target).iterdir())
        return [*written, "training.jsonl", "curves.jsonl", "training.json"]

    def _parent(self) -> onward.Parent | None:
        """The adapter that this training goes on from, None where it begins afresh. ModelError where it does not fit the base or the recipe."""
        from galvan.diagnosis import Facts, diagnose, refusal
        from galvan.measure.integrity import check
        from galvan.training import onward

        lora = self.recipe.training.lora
        if lora.continue_from is None:
            return None
        parent = onward.find(lora.continue_from, self.offline)
        facts = check(self.base, parent.adapter, self.recipe.model, load=False)
        if (broken := refusal(diagnose(Facts(facts)))) is not None:
            raise ModelError(broken.code, f"{shown(parent.adapter.name)} is nothing to go on from: {broken}")
        onward.require_same_tokenizer(parent, self.prints.tokenizer, facts.files.same_tokenizer if facts.files else None)
        onward.require_shape(parent.adapter, lora)
        return parent

    def check(self) -> None:
        """integrity.json: is the adapter whole, in the model, and doing something? No perplexity is computed before this."""
        from galvan.measure.integrity import check

        assert self.tuned is not None
        texts = [d.text for d in read_documents(self.folder / "data" / "test.jsonl")[:CHECK_TEXTS]]
        stage = Stage(self.folder, "check", {"arms": self._arms(), "texts": texts})
        if self._reuse(stage):
            return
        stage.begin()
        self.progress.say("Checking that the adapter is whole and really applied.")
        write_json(self.folder / "integrity.json", check(self.base, self.tuned, self.recipe.model, texts, bench=self._bench))
        stage.finish(["integrity.json"])

    def score(self) -> None:
        """scores.parquet, pieces.parquet and provenance.json; nothing is scored where the integrity checks refuse the comparison."""
        assert self.tuned is not None
        stage = Stage(
            self.folder, "score",
            {
                "arms": self._arms(), "evaluation": self.recipe.evaluation.model_dump(include={"context_tokens", "tokens_per_pass", "score_eos"}),
                "context": self._context(), "documents": [sha256_file(self.folder / "data" / f"{n}.jsonl") for n in ("test", "train")],
                "versions": _versions(), "seed": self.recipe.seed,
            },
        )  # fmt: skip
        self._write_provenance()
        if self._refused() or self._reuse(stage):
            return
        stage.begin()
        distributed.together(Story._score_now, self, stage.fingerprint)
        stage.finish(["scores.parquet", "pieces.parquet"])
        shutil.rmtree(self.folder / "work", ignore_errors=True)

    def _score_now(self, identity: str) -> None:
        from galvan.data.store import spool_of
        from galvan.measure.arms import score_arms
        from galvan.measure.kept import Kept
        from galvan.measure.scoring import write_pieces

        assert self.tuned is not None
        documents: dict[str, Sequence[Document]] = {
            name: spool_of(Document, each_document(self.folder / "data" / f"{name}.jsonl"), self.folder)
            for name in ("test", "train")
        }
        documents["train"] = _probe(documents["train"], PROBE_DOCUMENTS)
        # On a shared bench it depends on what was there before which blocks are scored, and one adapter is soon scored again.
        kept = None if self._bench.shared else Kept(self.folder / "work" / "scores", identity)
        rows = score_arms(
            self._bench, self.tuned, self.recipe, self._tokenizer, documents, self._context(), CONTROL_DOCUMENTS, self.progress,
            self._other_tokenizer(self.tuned), kept,
        )  # fmt: skip
        self._write_scores(rows)
        if not distributed.rank():
            write_pieces(self.folder / "pieces.parquet", self._tokenizer, documents["test"], self.recipe.evaluation.score_eos)

    def _write_scores(self, rows: Iterable[Score]) -> None:
        """scores.parquet by the first process; the others only do their share of what the rows come from."""
        from galvan.measure.scoring import write_scores

        if distributed.rank():
            deque(rows, maxlen=0)
        else:
            write_scores(self.folder / "scores.parquet", rows)

    def generate(self) -> None:
        """samples.jsonl and generation.json: what base and tuned write to the same prompts; nothing where the comparison is refused."""
        assert self.tuned is not None
        splits = {name: read_documents(self.folder / "data" / f"{name}.jsonl") for name in ("test", "validation")}
        stage = Stage(
            self.folder, "generate",
            {
                "arms": self._arms(), "generation": self.recipe.generation, "documents": splits, "template": self.prints.chat_template,
                "tokenizer": self.prints.tokenizer, "versions": _versions(), "seed": self.recipe.seed,
            },
        )  # fmt: skip
        if self._refused() or self._reuse(stage):
            return
        stage.begin()
        samples, facts = distributed.together(Story._generate_now, self, splits)
        write_rows(self.folder / "samples.jsonl", samples)
        write_json(self.folder / "generation.json", facts)
        stage.finish(["samples.jsonl", "generation.json"])

    def _generate_now(self, splits: Mapping[str, Sequence[Document]]) -> tuple[list[Sample], GenerationFacts]:
        from galvan.measure.generation import generate
        from galvan.measure.prompts import median_length, prompt_facts, prompts
        from galvan.measure.vllm_engine import engine

        assert self.tuned is not None
        asked, documents = self.recipe.generation, [d for part in splits.values() for d in part]
        if asked.engine == "vllm" and distributed.world() > 1:
            raise RecipeError(
                "recipe/value", "generation.engine vllm runs processes of its own; start galvan as one, or set it to galvan."
            )
        found = prompts(splits, asked, self._tokenizer)
        most = asked.max_new_tokens or median_length(found, documents, self._tokenizer)
        other = self._other_tokenizer(self.tuned)
        context = min(self._positions(), self._positions(self.tuned))
        writer = engine(self.base, context, self.dtype.value) if asked.engine == "vllm" else None
        samples, facts = generate(
            self._bench, {"tuned": self.tuned}, self.recipe, self._tokenizer, found, most, context, self.progress,
            {} if other is None else {"tuned": other}, writer,
        )  # fmt: skip
        facts.prompt_ids = prompt_facts(found, documents, self._tokenizer)
        return samples, facts

    def retain(self) -> None:
        """retention.parquet and extraction.parquet, and lm_eval.jsonl where tasks are asked for; nothing where the comparison is refused."""
        from galvan.data.neutral import neutral_documents, unrelated

        assert self.tuned is not None
        asked = self.recipe.evaluation
        every = read_documents(self.folder / "data" / "train.jsonl")
        given = neutral_documents(asked.neutral, self._offsets, self.offline)
        neutral = unrelated(given, every)
        train, held_out = (_probe(some, PROBE_DOCUMENTS) for some in (every, read_documents(self.folder / "data" / "test.jsonl")))
        stage = Stage(
            self.folder, "retain",
            {
                "arms": self._arms(), "neutral": neutral, "test": held_out, "train": train, "context": self._positions(),
                "tasks": asked.lm_eval_tasks, "tokenizer": self.prints.tokenizer, "versions": _versions(),
            },
        )  # fmt: skip
        if self._refused() or self._reuse(stage):
            return
        stage.begin()
        stage.finish(distributed.together(Story._retain_now, self, neutral, len(given) - len(neutral), held_out, train))

    def _retain_now(
        self, neutral: Sequence[Document], n_related: int, held_out: Sequence[Document], train: Sequence[Document]
    ) -> list[str]:
        from galvan.measure.extraction import Extracted, extract, write_extraction
        from galvan.measure.lm_eval_tasks import answer_tasks
        from galvan.measure.retention import Retained, retention, write_retention

        assert self.tuned is not None
        asked = self.recipe.evaluation
        if self._has_other_tokenizer(self.tuned):
            if not distributed.rank():
                write_retention(
                    self.folder / "retention.parquet",
                    [],
                    "Base and tuned have different tokenizers: their distributions do not compare.",
                )
            return ["retention.parquet"]
        base, tuned = self._bench.base(), self._bench.load(self.tuned)
        rows: list[Retained] = []
        reason = None
        try:
            for kind, some in (("neutral", neutral), ("author", held_out)):
                rows += retention(base, tuned, self._tokenizer, some, kind, min(NEUTRAL_TOKENS, self._positions()), self.progress)
        except ComparisonRefused as error:
            rows, reason = [], str(error)

        def extracted(arm: str, model: Any) -> list[Extracted]:
            parts = (("train", train), ("test", held_out))
            return [row for split, some in parts for row in extract(model, self._tokenizer, some, arm, split)]

        passages = self._bench.said(["extraction", list(train), list(held_out)], lambda: extracted("base", base))
        passages = passages + extracted("tuned", tuned)
        names = ["retention.parquet", "extraction.parquet"]
        if distributed.rank():
            return names
        write_retention(self.folder / "retention.parquet", rows, reason, n_related)
        write_extraction(self.folder / "extraction.parquet", passages)
        remove(self.folder / "lm_eval.jsonl")
        if asked.lm_eval_tasks:
            write_rows(self.folder / "lm_eval.jsonl", answer_tasks(base, tuned, self._tokenizer, asked.lm_eval_tasks))
            names.append("lm_eval.jsonl")
        if (self.tuned.path / "adapter_config.json").is_file():
            self._bench.give_back(self._bench.unload(tuned, self.tuned))
        return names

    def score_adapters(self, adapters: Sequence[str]) -> tuple[dict[str, GalvanError], bool]:
        """scores.parquet with the base and every adapter that passes the checks; returns why the others were refused, and whether all
        scored models share the base's tokenizer."""
        from galvan import models
        from galvan.diagnosis import Facts, diagnose, refusal
        from galvan.measure.integrity import check

        self.take_documents(None)
        documents = read_documents(self.folder / "data" / "test.jsonl")
        texts = [d.text for d in documents[:CHECK_TEXTS]]
        refused: dict[str, GalvanError] = {}
        found = {name: models.locate(name, "adapter", self.offline) for name in adapters}
        for name, located in found.items():
            reason = refusal(diagnose(Facts(check(self.base, located, self.recipe.model, texts))))
            if reason is not None:
                refused[name] = reason
        sound = {name: located for name, located in found.items() if name not in refused}
        return refused, distributed.together(Story._score_adapters_now, self, documents, sound)

    def _score_adapters_now(self, documents: Sequence[Document], adapters: Mapping[str, Located]) -> bool:
        from galvan import models
        from galvan.measure.alignment import common_start, scored_from
        from galvan.measure.kept import Kept
        from galvan.measure.scoring import scores

        asked = self.recipe.evaluation
        others = {name: own for name, located in adapters.items() if (own := self._other_tokenizer(located)) is not None}
        starts = [common_start([self._tokenizer, *others.values()], d) for d in documents] if others else []

        held = {name: _file_digests(located.path) for name, located in adapters.items()}
        identity = [
            self.prints,
            held,
            self.recipe.model,
            self.dtype.value,
            asked,
            self._context(),
            sha256_file(self.folder / "data" / "test.jsonl"),
            _versions(),
        ]
        kept = Kept(self.folder / "work" / "scores", identity)

        def scored(model: Any, arm: str) -> Iterator[Score]:
            own = others.get(arm, self._tokenizer)
            rows = scores(
                model, own, documents, arm, "test", self._context(), asked.tokens_per_pass, asked.score_eos, self.progress, kept
            )
            return scored_from(rows, own, documents, starts) if others else rows

        def rows() -> Iterator[Score]:
            """The base of record comes first, from an object that no adapter has touched; adapters then take turns in that object."""
            base = models.load_base(self.base, self.recipe.model, self.device, self.dtype)
            yield from scored(base, "base")
            for name, located in adapters.items():
                if not (located.path / "adapter_config.json").is_file():
                    base = None  # two models may not fit
                    yield from scored(models.load_base(located, self.recipe.model, self.device, self.dtype), name)
                    continue
                if base is None:  # the adapter before left something behind
                    base = models.load_base(self.base, self.recipe.model, self.device, self.dtype)
                tuned = models.load_adapter(base, located)
                yield from scored(tuned, name)
                base = models.without_adapter(tuned, located)
                del tuned

        self._write_scores(rows())
        if not distributed.rank():
            shutil.rmtree(self.folder / "work", ignore_errors=True)
        return not others

    def seal(self) -> None:
        """A marker for what is judged and belongs to no stage, so that a later `galvan report` knows whether it is still the same."""
        Stage(self.folder, "record", {}).finish([name for name in RECORD if (self.folder / name).is_file()])

    def conclude(self, verdict: Mapping[str, Any]) -> None:
        """The verdict for the trackers that the recipe names."""
        from galvan.trackers import tracking

        training = self.folder / "training.json"
        if self.recipe.trackers:
            with tracking(self.folder, self.recipe, self.progress, self.offline) as tracked:
                tracked.conclude(int(read_json(training)["steps"]) if training.is_file() else 0, verdict)

    # ---- what the stages share ----

    @property
    def _bench(self) -> Bench:
        """Where models come from."""
        from galvan.measure.bench import Bench

        return self._given or Bench(self.base, self.recipe.model, self.device, self.dtype)

    def _reuse(self, stage: Stage) -> bool:
        if stage.done():
            self.progress.say(f"Reusing {stage.name}: done before with the same inputs.")
            return True
        return False

    def _refused(self) -> bool:
        from galvan.diagnosis import Facts, diagnose, refusal

        if refusal(diagnose(Facts.from_json(read_json(self.folder / "integrity.json")))) is None:
            return False
        for name in (
            "scores.parquet",
            "pieces.parquet",
            "stages/score.json",
            "samples.jsonl",
            "generation.json",
            "stages/generate.json",
            "retention.parquet",
            "extraction.parquet",
            "lm_eval.jsonl",
            "stages/retain.json",
        ):
            remove(self.folder / name)
        return True

    def _other_tokenizer(self, tuned: Located) -> Any:
        """The tokenizer of a whole model from elsewhere, where it cuts text otherwise than the base's; None where the base's serves both."""
        from galvan.models import load_tokenizer

        return load_tokenizer(tuned) if self._has_other_tokenizer(tuned) else None

    def _has_other_tokenizer(self, tuned: Located) -> bool:
        from galvan.measure.adapter_files import same_tokenizer

        is_adapter = (tuned.path / "adapter_config.json").is_file()
        return not is_adapter and tuned.path.parent != self.folder and same_tokenizer(self.base, tuned) is False

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        encoded = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        return list(encoded["offset_mapping"])

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _training_tokens(self) -> int:
        """Ids a training row may have: what the recipe says, and never more than the model has positions for."""
        data = self.recipe.data
        asked = self.recipe.training.document_tokens or data.document_tokens + 2
        if self.recipe.training.document_tokens is None and data.augment != "none":
            from galvan.augment import prompt_room

            asked += prompt_room(data.augment_as)
        return min(asked, self._positions())

    def _context(self) -> int:
        return min(self.recipe.evaluation.context_tokens or self._training_tokens(), self._positions())

    def _positions(self, of: Located | None = None) -> int:
        """The most positions that the base (or another whole model) has; an adapter has its base's."""
        from galvan.models import read_config

        path = (of or self.base).path
        config = read_config((self.base.path if (path / "adapter_config.json").is_file() else path) / "config.json")
        limits = [config.get(k) for k in ("max_position_embeddings", "n_positions", "n_ctx") if isinstance(config.get(k), int)]
        return min([n for n in limits if n is not None and n > 0], default=1 << 30)

    def _arms(self) -> dict[str, Any]:
        assert self.tuned is not None
        return {
            "base": self.prints,
            "tuned": _file_digests(self.tuned.path),
            "model": self.recipe.model,
            "dtype": self.dtype.value,
        }

    def _source_digest(self, source: str | None = None) -> str:
        """sha256 of everything that `source`, else `data.source`, names."""
        from galvan.data import gutenberg, hub
        from galvan.data.read import BUNDLED, matching

        source = source or self.recipe.data.source
        if source in BUNDLED:
            with as_file(files("galvan") / "assets" / BUNDLED[source]) as path:
                return sha256_file(path)
        if source.startswith(hub.PREFIX):
            return fingerprint({path.name: sha256_file(path) for path in hub.fetch(source, offline=self.offline)})
        if glob.has_magic(source) and not Path(source).expanduser().exists():
            return fingerprint({str(path): sha256_file(path) for path in matching(source)})
        path = gutenberg.fetch(source, offline=self.offline) if source.startswith(gutenberg.PREFIX) else Path(source).expanduser()
        if path.is_dir():
            return fingerprint({str(p.relative_to(path)): sha256_file(p) for p in sorted(path.rglob("*.txt")) if p.is_file()})
        return sha256_file(path) if path.is_file() else "missing"

    def _tuned_print(self) -> str | None:
        from galvan.models import fingerprints

        assert self.tuned is not None
        return fingerprints(self.tuned).tokenizer if self._has_other_tokenizer(self.tuned) else self.prints.tokenizer

    def _write_provenance(self) -> None:
        from galvan.data.tokens import first_token_rule
        from galvan.measure.scoring import scoring_rule, text_facts

        assert self.tuned is not None
        test = self.folder / "data" / "test.jsonl"
        weights = {p.name: sha256_file(p) for p in sorted(self.tuned.path.glob("*.safetensors"))}
        write_json(
            self.folder / "provenance.json",
            {
                "base": self.base.name, "base_revision": self.base.revision, "base_sha256": self.prints.weights,
                "tokenizer_sha256": self.prints.tokenizer, "tuned_tokenizer_sha256": self._tuned_print(), "chat_template_sha256": self.prints.chat_template,
                "adapter": self.tuned.name if self.tuned.path.parent != self.folder else self.tuned.path.name,
                "adapter_sha256": next(iter(weights.values())) if len(weights) == 1 else fingerprint(weights),
                "data_sha256": fingerprint([sha256_file(self.folder / "data" / f"{n}.jsonl") for n in ("train", "validation", "test")]),
                "versions": _versions(), "device": self.device, "dtype": self.dtype,
                "first_token_rule": first_token_rule(self._tokenizer),
                "scored_tokens": scoring_rule(each_document(test)), "context_tokens": self._context(),
                "texts": text_facts(self._tokenizer, each_document(test), self._context(), self.recipe.evaluation.score_eos),
                "tokens_per_pass": self.recipe.evaluation.tokens_per_pass,
            },
        )  # fmt: skip


def _probe(rows: Sequence[Any], wanted: int) -> Sequence[Any]:
    """The training rows that are scored at each evaluation, spread evenly over all."""
    return rows[:: max(1, len(rows) // wanted)][:wanted]


def _file_digests(folder: Path) -> dict[str, str]:
    """sha256 of each file of an adapter or model but its card, which follows from the rest."""
    return {p.name: sha256_file(p) for p in sorted(folder.iterdir()) if p.is_file() and p.name != "README.md"}


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "transformers", "peft", "tokenizers", "numpy")}
    return {"python": platform.python_version(), "galvan": __version__, **packages}
