"""The recipe: everything a run depends on. Each option is declared once, here, with the sentence that documents it.

The command line's `--set a.b=c` writes into the same tree before it is checked; unknown keys are refused with the nearest
known one. `resolved` prints the whole recipe with every default, and that is what the run directory keeps.
"""

from __future__ import annotations

import difflib
import math
import re
import reprlib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from galvan.errors import RecipeError
from galvan.text import has_secret, shown, without_secrets

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]

Part = Literal[
    "text", "prompt", "completion", "messages", "conversations", "instruction", "input", "output", "system", "history", "tools",
    "input_ids", "labels",
]  # fmt: skip

CONTINUE, CONTINUE_SHA256 = "training.lora.continue_from", "training.lora.continue_sha256"
LARGEST_RECIPE = 1 << 16  # bytes; a bigger file is a text that was given by mistake, and YAML would chew on it for minutes


class Section(BaseModel):
    """One block of the recipe: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Cleaning(Section):
    """What is mended or left out before the text is cut; audit.json counts each step and shows examples."""

    repair: bool = Field(True, description="Mend text that was decoded in the wrong encoding (`Ã©` for `é`), with ftfy.")
    invisible: bool = Field(True, description="Remove control, bidirectional and zero-width characters, but for those of spelling.")
    markup: Literal["keep", "html", "markdown"] = Field(
        "keep",
        description="html: remove HTML tags, comments and entities; markdown: these, and the marks of Markdown; keep: leave them.",
    )
    unwrap: bool = Field(
        False, description="Put paragraphs that were broken at a fixed width, as in Project Gutenberg's files, on one line."
    )
    boilerplate: bool = Field(
        False,
        description="Remove page numbers and lines that recur at the head or foot of texts or pages; greetings recur too, so look at audit.json.",
    )
    near_duplicates: Annotated[float, Field(ge=0.5, le=1.0)] | None = Field(
        0.8,
        description="Leave out rows that share at least this much of their five-word runs (Jaccard) with an earlier row; null keeps them.",
    )
    outliers: Literal["keep", "report", "remove"] = Field(
        "report",
        description="Rows in another language or script than the rest: only report them in audit.json, remove them, or do not look.",
    )


class Split(Section):
    """Which documents train, which choose, which judge."""

    by: Literal["block", "group", "stratified", "random"] = Field(
        "block",
        description="block: runs of neighbouring documents, spread over each source, so that held-out text is not the "
        "sentence next door; group: whole values of `group`; stratified: single documents, the same share of every value of "
        "`group`; random: single documents.",
    )
    group: str = Field(
        "source", description="The column whose values are kept together when `by: group`, or shared out when `by: stratified`."
    )
    validation: Fraction = Field(0.05, description="Share of the documents used for choosing (checkpoints, settings).")
    test: Fraction = Field(0.10, description="Share of the documents used for the verdict, and for nothing else.")
    blocks: Positive = Field(8, description="How many runs of neighbouring documents each held-out part is made of.")
    gap: Annotated[int, Field(ge=0)] = Field(
        0,
        description="So many documents on each side of a held-out run are left out of training, where `by: block`; audit.json counts them.",
    )
    leaks: Literal["refuse", "remove", "allow"] = Field(
        "refuse",
        description="What to do when held-out documents share text with training: stop; leave these documents out; or go on and say so.",
    )

    @model_validator(mode="after")
    def _gap_is_for_blocks(self) -> Split:
        if self.gap and self.by != "block":
            raise ValueError(f"gap {self.gap} is for by block; documents that are split by {self.by} have neighbours everywhere")
        return self

    @model_validator(mode="after")
    def _leaves_something_to_train(self) -> Split:
        if self.validation + self.test >= 1.0:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")
        return self


class Data(Section):
    """The text to learn from."""

    source: str = Field(
        "galvan/letters",
        description="A csv, tsv, jsonl, json, parquet or txt file, a folder of txt files, a pattern such as `letters/*.jsonl`, a Hub data "
        "set `hub:org/name@revision:split`, `gutenberg:84`, or the bundled `galvan/letters`.",
    )
    column: str = Field("text", description="The column (or key) that holds the text.")
    columns: dict[Part, str] = Field(
        default_factory=dict,
        description="Where rows are prompts with completions, conversations or token ids, their shape is detected by the columns; this says "
        "which column holds which part, for example {prompt: question, completion: answer}.",
    )
    document_tokens: Annotated[int, Field(ge=16)] = Field(
        512, description="Longer texts are cut at sentence ends into documents of at most this many tokens."
    )
    minimum_words: Annotated[int, Field(ge=0)] = Field(3, description="Shorter documents are left out, and counted in audit.json.")
    maximum_documents: Positive | None = Field(None, description="Use only the first so many documents; null means all.")
    maximum_words: Positive | None = Field(
        None, description="Longer rows are left out before anything is cut, and counted; null keeps them."
    )
    train_share: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0,
        description="Train on this share of the training documents; a smaller share is always part of a larger one (learning curves).",
    )
    recut: bool = Field(
        False,
        description="Cut long texts at new places in each epoch, within the training part, so that the model sees other beginnings.",
    )
    augment: Literal["none", "back_translation"] = Field(
        "none",
        description="back_translation: the base, an instruct model, writes for each training text what it could be the answer to, and "
        "conversations of that and the author's own text are trained beside the texts.",
    )
    augment_as: Literal["instruction", "paraphrase"] = Field(
        "instruction", description="What the base writes for that: an instruction, or the text again in plain words."
    )
    strip_gutenberg: bool = Field(True, description="Remove Project Gutenberg's header and footer where its markers are found.")
    clean: Cleaning = Field(default_factory=Cleaning, description="What is mended and what is left out.")
    split: Split = Field(default_factory=Split, description="How documents are divided.")

    @property
    def mapping(self) -> dict[str, str]:
        return {str(part): column for part, column in self.columns.items()}


class Model(Section):
    """The base model."""

    base: str = Field(
        "galvan/spark", description="A local folder, a Hub id with optional `@revision`, or the bundled `galvan/spark`."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format of the weights; auto takes float32 on a CPU and bfloat16 on a GPU that has it."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where the model runs; auto takes a GPU if there is one."
    )
    quantization: Literal["none", "nf4"] = Field(
        "none", description="nf4 loads the base in 4 bits with bitsandbytes (QLoRA); both arms then use the same quantised base."
    )


class Lora(Section):
    """The adapter."""

    rank: Positive = Field(8, description="Rank r of the update B A.")
    alpha: Annotated[float, Field(gt=0)] = Field(16.0, description="The update is scaled by alpha / rank.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Dropout on the adapter's input while training.")
    targets: list[str] | Literal["all-linear"] = Field(
        "all-linear", description="Names of the linear layers that are adapted, or `all-linear` for all but the head."
    )
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Numbers of the blocks that are adapted, from 0; null means all."
    )
    rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) instead of alpha / rank.")
    dora: bool = Field(False, description="Learn direction and magnitude apart (DoRA).")
    start: Literal["default", "pissa", "olora"] = Field(
        "default",
        description="default: A random and B zero. pissa, olora: A and B from the weights' own decomposition; saved as a plain LoRA of twice the rank.",
    )
    bias: Literal["none", "lora_only", "all"] = Field("none", description="Which biases are trained with the adapter.")
    save_modules: list[str] = Field(
        default_factory=list, description="Modules trained and saved whole beside the adapter, such as embed_tokens and lm_head."
    )
    b_rate_ratio: Annotated[float, Field(gt=0)] = Field(1.0, description="Learning rate of B over that of A (LoRA+ takes 16).")
    continue_from: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="An adapter to go on training, a folder or a Hub id, instead of a fresh one: its weights are the start, the optimizer is fresh and "
        "the learning rate rises and falls anew. Rank, alpha, targets and the rest of this block must be those that it has.",
    )
    continue_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None,
        description="sha256 of that adapter's weights; another file is refused. A run writes it into its own recipe, so null is enough.",
    )

    def as_saved(self) -> dict[str, Any]:
        """Rank and alpha in the saved adapter: with a start out of the weights both B A and the start's own B A are in it, at the same scale."""
        twice = 1 if self.start == "default" else 2
        alpha = self.alpha * (math.sqrt(twice) if self.rslora else twice)
        return {"alpha": alpha, "rank": self.rank * twice, "use_rslora": self.rslora}

    @model_validator(mode="after")
    def _a_start_ends_as_plain_lora(self) -> Lora:
        if self.start != "default" and self.dora:
            raise ValueError(f"start {self.start} is saved as a plain LoRA, which dora is not; choose one of them")
        return self

    @model_validator(mode="after")
    def _what_goes_on_has_its_start(self) -> Lora:
        if self.continue_from is not None and self.start != "default":
            raise ValueError(
                f"start {self.start} is for a fresh adapter, and continue_from gives the start; leave start at default"
            )
        if self.continue_from is None and self.continue_sha256 is not None:
            raise ValueError("continue_sha256 names the weights of continue_from, which is null; give both or neither")
        return self


class Training(Section):
    """How the weights are changed."""

    method: Literal["lora", "full"] = Field("lora", description="lora trains an adapter, full trains every weight.")
    lora: Lora = Field(default_factory=Lora, description="The adapter, where `method: lora`.")
    epochs: Annotated[float, Field(gt=0)] = Field(3.0, description="How often the training documents are gone through.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(3e-4, description="Peak learning rate.")
    batch_size: Positive = Field(16, description="Documents that share one forward pass at most; memory, not mathematics.")
    accumulation: Positive = Field(
        1, description="Passes per step: batch_size x accumulation documents make one step, weighted by their tokens."
    )
    document_tokens: Positive | None = Field(
        None,
        description="Documents are truncated to this many tokens in training; null means data.document_tokens plus BOS and EOS.",
    )
    packing: bool = Field(
        False,
        description="Put several documents into one row, each with positions and attention of its own: less padding, the same gradient.",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="How the learning rate falls after warm-up.")
    warmup_ratio: Fraction = Field(0.05, description="Share of the steps in which the learning rate rises to its peak.")
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw8bit", "muon"] = Field(
        "adamw",
        description="adamw; adamw8bit or paged_adamw8bit: its state in 8 bits, by bitsandbytes; or muon: orthogonalised momentum for the inner "
        "weight matrices and AdamW for the rest (full training only).",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute the forward pass of a block again instead of keeping it: less memory, about a third slower, same gradient.",
    )
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Decay of AdamW's first and second moment.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="Decoupled weight decay.")
    max_gradient_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="Gradients are scaled down to this norm.")
    learn_eos: bool = Field(True, description="Append and train the end-of-text token, so that the model learns where texts end.")
    evaluations: Annotated[int, Field(ge=1)] = Field(
        6, description="How often validation and probe documents are scored after step 0, the last step included."
    )
    probe_documents: Positive = Field(50, description="How many training documents are scored at each evaluation.")
    early_stop: bool = Field(
        False,
        description="End where validation documents are surely worse than at the best evaluation (paired, max-T), and keep the weights of the "
        "evaluation with the lowest validation loss, stopped or not; the test documents have no say in it.",
    )
    checkpoint_seconds: Annotated[float, Field(ge=0)] = Field(
        60.0, description="Seconds between checkpoints from which a killed run goes on."
    )
    checkpoints: Positive = Field(
        2,
        description="How many of the newest checkpoints are kept while a run goes on; the best is kept beside them with early_stop.",
    )
    shard: bool = Field(
        False,
        description="With several processes, share out the weights of the blocks among them (FSDP2) instead of holding the base whole on each.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        None,
        description="Seed of the adapter's start, the order of documents and dropout; null means the recipe's seed, which also splits the data.",
    )

    @model_validator(mode="after")
    def _shards_are_stepped_by_adamw(self) -> Training:
        if self.shard and self.optimizer != "adamw":
            raise ValueError(
                f"optimizer {self.optimizer} needs whole matrices, and shard shares them out; set one of them otherwise"
            )
        return self

    @model_validator(mode="after")
    def _adapters_alone_go_on(self) -> Training:
        if self.method == "full" and self.lora.continue_from is not None:
            raise ValueError("lora.continue_from is for method lora; to go on from a whole model, make it the base")
        return self

    @model_validator(mode="after")
    def _muon_is_for_full_training(self) -> Training:
        if self.optimizer == "muon" and self.method != "full":
            raise ValueError("optimizer muon is for method full; an adapter's factors are trained with adamw")
        return self

    def identity(self) -> dict[str, Any]:
        """All settings that the trained weights depend on; an adapter that is gone on with counts by its bytes, wherever it lies."""
        here = {"checkpoint_seconds", "checkpoints", "shard", "seed"}
        found = self.model_dump(exclude={**dict.fromkeys(here, True), "lora": {"continue_from", "continue_sha256"}})
        return found if self.lora.continue_sha256 is None else {**found, "continued": self.lora.continue_sha256}


class Evaluation(Section):
    """How base and tuned are compared."""

    margin_nats: Annotated[float, Field(gt=0)] = Field(
        0.01,
        description="Gains smaller than this many nats a token are called too small to matter (0.01 is about 1 % of perplexity).",
    )
    context_tokens: Positive | None = Field(
        None, description="Longer documents are scored in half-overlapping windows of this size; null means the training length."
    )
    tokens_per_pass: Annotated[int, Field(ge=16)] = Field(
        2048, description="Tokens scored in one forward pass; memory, not mathematics."
    )
    score_eos: bool = Field(False, description="Also report the end-of-text token, apart from the text.")
    neutral: str = Field(
        "galvan/plain",
        description="Text that has nothing to do with the author, on which forgetting is measured: the bundled one, or a file of yours.",
    )
    forgetting_percent: Annotated[float, Field(gt=0, lt=100)] = Field(
        2.0, description="A rise of perplexity on neutral text that is surely above so many percent is called forgetting."
    )
    lm_eval_tasks: list[str] = Field(
        default_factory=list,
        description="Tasks of lm-eval (names, or YAML files of yours) that base and tuned also answer, compared item by item; needs lm-eval.",
    )


class Generation(Section):
    """What base and tuned are asked to write, for style, originality and for reading side by side."""

    documents: Annotated[int, Field(ge=0)] = Field(
        50,
        description="How many held-out documents' beginnings (35 words) are continued; validation helps out where test has fewer.",
    )
    prompts: list[str] = Field(default_factory=list, description="Prompts of your own, continued beside them.")
    samples: Positive = Field(1, description="Samples of each prompt at temperature 1 and top_p 1: the model's own distribution.")
    temperature: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Temperature of a second set of samples, with settings of your own; null: there is none."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="top_p of that second set.")
    greedy: Annotated[int, Field(ge=0)] = Field(8, description="So many prompts are also continued greedily.")
    max_new_tokens: Positive | None = Field(
        None, description="Tokens written at most; null means the median of the held-out texts after their prompts, at most 512."
    )
    tokens_per_pass: Annotated[int, Field(ge=16)] = Field(
        16384, description="Positions of all texts written at the same time; memory, not mathematics."
    )
    engine: Literal["galvan", "vllm"] = Field(
        "galvan",
        description="vllm writes with vLLM where it is installed; its texts are scored by galvan and refused where both disagree.",
    )


class Recipe(Section):
    """A whole run."""

    name: str = Field(
        "run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Names the run's folder: letters, digits, . _ -"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(42, description="Every random choice follows from it.")
    data: Data = Field(default_factory=Data, description="The text.")
    model: Model = Field(default_factory=Model, description="The base model.")
    training: Training = Field(default_factory=Training, description="The fine-tune.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="The comparison.")
    generation: Generation = Field(default_factory=Generation, description="The texts that both arms write.")
    trackers: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(
        default_factory=list,
        description="Programs that also get the curves and the verdict, each installed by you: tensorboard, wandb, mlflow, trackio. No text is sent.",
    )

    @property
    def training_seed(self) -> int:
        return self.seed if self.training.seed is None else self.training.seed


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers (`1e-4` is one, 010 is not 8), no duplicate keys, and no aliases, with which ten lines can fill the memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"write the value out instead of the alias `*{event.anchor}`", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a single word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key `{key.value}` is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that `_Loader` would read as something else; line ends of other alphabets survive in double quotes alone."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if set(data) & set("\x85\u2028\u2029\ufeff") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)


_NUMBERS = {
    "float": r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$",
    "int": r"^[-+]?(?:0|[1-9][0-9_]*)$",
}
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0].rpartition(":")[2] not in _NUMBERS]
    for first, pairs in _Loader.yaml_implicit_resolvers.items()
}
for _kind, _pattern in _NUMBERS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), list("-+0123456789."))


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "context", None) or str(error)
        if isinstance(error, yaml.reader.ReaderError):
            line = f" line {text.count(chr(10), 0, error.position) + 1}"
            problem = f"the character U+{ord(text[error.position]):04X} may not stand in YAML"
        raise RecipeError("recipe/yaml", f"{where}{line}: not readable as YAML: {shown(problem, 200)}.") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError("recipe/yaml", f"{where}: not readable as YAML: {shown(str(error), 200)}.") from None


def _line_of(text: str, path: Sequence[Any]) -> int | None:
    """The line (from 1) on which the key at `path` stands, found in YAML's own parse tree."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    line = None
    for part in path:
        if not isinstance(node, yaml.MappingNode):
            break
        for key, value in node.value:
            if key.value == part:
                line, node = key.start_mark.line + 1, value
                break
        else:
            break
    return line


def options(section: type[Section] = Recipe, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every leaf option with its dotted name, in order of declaration; the docs page and `galvan init` are made from it."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from options(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _explain(error: ValidationError, text: str, where: str, settings: Sequence[str]) -> RecipeError:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"] if isinstance(part, str)]
    known = dict(options())
    sections = {name.rsplit(".", depth)[0] for name in known for depth in range(1, name.count(".") + 1)}
    unknown = first["type"] == "extra_forbidden"
    while path and not unknown and ".".join(path) not in known and ".".join(path) not in sections:
        path.pop()  # pydantic appends the union branch to the path
    dotted = ".".join(path)
    place = _place(dotted, _line_of(text, path), where, settings)
    if unknown:
        return RecipeError(
            "recipe/unknown-key",
            f"{place}: there is no option `{shown(dotted, 80)}`; {_nearest(dotted, list(known), sorted(sections))}",
        )
    if dotted in sections and first["type"] == "model_type":
        found = "nothing" if first["input"] is None else _short(first["input"])
        return RecipeError("recipe/value", f"{place}: `{dotted}` is a block of options, got {found}.")
    field = known.get(dotted)
    meaning = f" ({field.description})" if field is not None and field.description else ""
    message = first["msg"].removeprefix("Value error, ")
    subject = f"`{dotted}`" if dotted else "the recipe"
    found = "" if first["type"] == "value_error" else f", got {_short(first.get('input'))}"
    return RecipeError("recipe/value", f"{place}: {subject}: {message[0].lower()}{message[1:]}{found}.{meaning}")


def _place(dotted: str, line: int | None, where: str, settings: Sequence[str]) -> str:
    """The `--set` that gave this option, or else its line in the file."""
    for setting in settings:
        name = setting.partition("=")[0].strip()
        if name == dotted or dotted.startswith(name + ".") or (line is None and name.startswith(dotted + ".")):
            return f"--set {shown(setting, 80)}"
    return f"{where} line {line}" if line else where


def _nearest(dotted: str, known: list[str], sections: list[str]) -> str:
    """What was probably meant: the same leaf in another block, or the nearest name."""
    leaf = dotted.rsplit(".", 1)[-1]
    elsewhere = [name for name in known if name.rsplit(".", 1)[-1] == leaf]
    leaves = {name.rsplit(".", 1)[-1]: name for name in known}
    near = (
        elsewhere
        or difflib.get_close_matches(dotted, [*known, *sections], 1, 0.75)
        or [leaves[name] for name in difflib.get_close_matches(leaf, list(leaves), 1, 0.6)]
    )
    return f"did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else "see `galvan init` for all options."


def _short(value: Any) -> str:
    return shown(reprlib.repr(value), 80)


def _merge(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    for parent in parents:
        below = tree.setdefault(parent, {})
        if not isinstance(below, dict):
            raise RecipeError("recipe/set", f"--set {shown(dotted, 80)}: `{shown(parent, 80)}` is a value, not a block.")
        tree = below
    tree[leaf] = value


def _setting(setting: str, texts: set[str]) -> tuple[str, Any]:
    """`a.b=c` as (option, value). An option that is a text takes the characters as they are: a file may be called 2024 or "a: b"."""
    dotted, equals, raw = (part.strip() for part in setting.partition("="))
    if not equals or not dotted:
        raise RecipeError("recipe/set", f"--set {shown(setting, 80)}: write it as a.b=value.")
    if dotted in texts and raw[:1] not in ("'", '"'):
        return dotted, raw
    return dotted, _parse(raw, f"--set {shown(setting, 80)}")


def values_of(text: str, where: str) -> list[Any]:
    """Values between commas, each read as a recipe's: `8,16` are numbers, `[q_proj, v_proj],all-linear` a list and a word."""
    return list(_parse(f"[{text}]", where))


def from_text(text: str, where: str = "recipe", settings: Sequence[str] = ()) -> Recipe:
    """Parse and check a recipe. `settings` are `a.b=c` strings as given to `--set`; they win over the text.

    Raises RecipeError with the line of the offending key.
    """
    tree = _parse(text, where)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise RecipeError("recipe/shape", f"{where}: a recipe is a YAML mapping of options, found {type(tree).__name__}.")
    texts = {name for name, field in options() if field.annotation is str}
    for setting in settings:
        _merge(tree, *_setting(setting, texts))
    for name in _secret_options(tree):
        raise RecipeError(
            "recipe/secret",
            f"{where}: {shown(name)} holds what looks like an access token, and a recipe is copied into every run; take it out and revoke it: "
            "tokens come from HF_TOKEN in the environment, or from `hf auth login`.",
        )
    training = tree.get("training")
    if isinstance(training, dict) and isinstance(training.get("betas"), list):
        training["betas"] = tuple(training["betas"])  # YAML has no tuples
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, text, where, settings) from None


def with_values(recipe: Recipe, values: Mapping[str, Any], where: str) -> Recipe:
    """The recipe with some options, by their dotted names, at other values; RecipeError names the one that it cannot take."""
    tree = recipe.model_dump()
    for dotted, value in values.items():
        _merge(tree, dotted, value)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, "", where, ()) from None


def _secret_options(tree: object, name: str = "", depth: int = 20) -> Iterator[str]:
    """Names of the options with an access token in them, as key or value."""
    inner: Iterable[tuple[object, object]] = (
        tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    )
    for key, value in inner:
        path = f"{name}.{key}" if name else str(key)
        if has_secret(str(key)) or (isinstance(value, str) and has_secret(value)):
            yield without_secrets(path)
        elif depth:
            yield from _secret_options(value, path, depth - 1)


def load(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe file; RecipeError if it is missing or wrong."""
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_RECIPE + 1)
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise RecipeError("recipe/missing", f"There is no recipe {shown(str(path))}; `galvan init` writes one.") from None
    except IsADirectoryError:
        raise RecipeError("recipe/missing", f"{shown(str(path))} is a folder; a recipe is a YAML file.") from None
    except OSError as error:
        raise RecipeError(
            "recipe/unreadable", f"{shown(str(path))}: cannot be read: {shown(error.strerror or str(error))}."
        ) from None
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise RecipeError(
            "recipe/unreadable", f"{shown(str(path))} line {line}: byte 0x{byte:02x} is not UTF-8; a recipe is a YAML text."
        ) from None
    if len(content) > LARGEST_RECIPE:
        raise RecipeError("recipe/unreadable", f"{shown(str(path))} is larger than 64 KiB; a recipe is a short YAML text.")
    return from_text(text, shown(str(path)), settings)


def resolved(recipe: Recipe) -> str:
    """The whole recipe as YAML, every default written out; reading it back gives the same recipe."""
    return yaml.dump(recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def commented() -> str:
    """A recipe with every option at its default, each under its sentence: what `galvan init` writes."""
    lines = ["# A galvan recipe. Every option is shown with its default; delete what you do not change.", ""]
    _comment(Recipe, Recipe(), lines, "")
    return "\n".join(lines) + "\n"


def _comment(section: type[Section], values: Section, lines: list[str], indent: str) -> None:
    for name, field in section.model_fields.items():
        value = getattr(values, name)
        for sentence in textwrap.wrap(field.description or "", 100 - len(indent)):
            lines.append(f"{indent}# {sentence}")
        if isinstance(value, Section):
            lines.append(f"{indent}{name}:")
            _comment(type(value), value, lines, indent + "  ")
            if not indent:
                lines.append("")
        else:
            lines.append(f"{indent}{name}: {plain_yaml(value)}")


def plain_yaml(value: Any) -> str:
    """One value as it stands in a recipe, on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).removesuffix("\n...\n").strip()
