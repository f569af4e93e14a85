"""Family E: data, labels, tokens."""

from __future__ import annotations

from galvan.diagnosis.asking import NO_TOKENS, base_nats, log, notices, prompts, reported_by, reported_is_right, run, supported
from galvan.diagnosis.catalogue import Answer, Facts, absent, cause, evidence, present, unknown
from galvan.diagnosis.thresholds import (
    ENDS_LEARNED,
    FEWEST_SAMPLES,
    LOSS_SHARE,
    LOST_TARGETS,
    MUCH_LOST,
    ODD_LOSS,
    PADDING_NATS,
    STOPPED,
)
from galvan.text import shown


@cause(
    "E01",
    title="The model was not taught where texts end",
    symptom="Generated texts never stop, or stop only at the limit.",
    proof="In at least half of the training rows the last learned token is the end-of-text token, and it is not masked as padding.",
    remedy="give the tokenizer a padding token of its own (not the end-of-text token), keep training.learn_eos on, and run "
    "`galvan prepare RECIPE --show 3`: the last token of a row must be learned",
    settle="Generate twenty texts with a high limit: if none ends by itself and none of the training rows ends in a learned end "
    "token, it is proved; if some end, it is excluded.",
    sources=["llm-course#33", "unsloth#416", "unsloth#419", "trl#734", "trl#1623", "torchtune#949", "mlx-examples#849"],
)
def end_not_taught(facts: Facts) -> Answer:
    tokens, samples = run(facts).tokens, run(facts).samples
    stops = _stops(facts)
    never = bool(
        samples and samples.count["tuned"] >= FEWEST_SAMPLES and samples.stopped["tuned"] < STOPPED * samples.count["tuned"]
    )
    if tokens is None or tokens.ends_survive_share is None:
        return unknown(NO_TOKENS, evidence(stops) if never else [], [] if never else evidence(stops))
    share = tokens.ends_survive_share
    learned = f"In {share:.0%} of {tokens.rows:,} training rows the end is learned."
    if share >= ENDS_LEARNED:
        return absent(evidence(learned, None if never else stops), evidence(stops if never else None))
    if tokens.truncated_rows > ENDS_LEARNED * tokens.rows and not notices(facts, "E01"):
        return absent(["The rows that are whole have their end; the others lost it to truncation, which is E06."], [learned])
    wanted = run(facts).setting("training.learn_eos") is False
    asked = "The recipe asks for it (training.learn_eos: false): where texts are to go on, it is no fault." if wanted else None
    return present(evidence(learned, *notices(facts, "E01"), stops if never else None), evidence(asked, None if never else stops))


def _stops(facts: Facts) -> str | None:
    samples = run(facts).samples
    if samples is None or not samples.count["tuned"]:
        return None
    return f"{samples.stopped['tuned']} of {samples.count['tuned']} texts of the tuned model ended by themselves."


@cause(
    "E02",
    title="The template differs between training and use",
    symptom="The tuned model looks untrained, or writes gibberish, although its training loss fell.",
    proof="The prompt as it is given in use is, token by token, how the training row begins, and both arms have one chat template.",
    remedy="give the model at use the prompt that it was trained on: bring messages where it has a chat template, and save the "
    "template with the adapter; `galvan prepare RECIPE --show 3` prints what is trained",
    settle="Print the first 30 ids of a training row and of a prompt in use: other ids prove it.",
    sources=["ChatGLM2-6B#571", "ollama#6823", "ollama#5319", "unsloth#3899", "llama.cpp#7062"],
)
def template_differs(facts: Facts) -> Answer:
    tokens, asked = run(facts).tokens, prompts(facts)
    cut = "whether more than the boundary of prompt and answer differs, which is cut differently in context (E05)."
    if asked is not None and asked.prefix_of_training < asked.checked:
        others = asked.checked - asked.prefix_of_training
        text = f"Of {asked.checked} prompts that texts were generated from, {others} are not how their training row begins."
        return unknown(cut, [text]) if notices(facts, "E05") else present([text])
    if tokens is None:
        return unknown(NO_TOKENS)
    said = notices(facts, "E02")
    if said:
        differs = [sentence for sentence in said if "not how its training row begins" in sentence]
        if differs and notices(facts, "E05"):
            return unknown(cut, differs)
        return present([*differs, *(s for s in said if s not in differs)], [], "certain" if differs else "likely")
    if tokens.shape == "plain text":
        return absent(["The training rows are plain text, to which no template is applied; they are scored as they are."])
    return absent(
        [f"Prompts as they are given in use begin {tokens.rows:,} training rows ({shown(tokens.shape)}), token by token."]
    )


@cause(
    "E03",
    title="Two beginning-of-text tokens stand in front",
    symptom="Perplexity is higher than it should be, often in one arm only, so that the gain is overstated.",
    proof="No row begins with the beginning-of-text token twice, in training, in scoring or in generation.",
    remedy="take the token out of the data or the template, or call the tokenizer with add_special_tokens=False on text that a "
    "template has written; check with `galvan prepare RECIPE --show 3`",
    settle="Print the first two ids of what each arm was given: two equal beginning-of-text ids prove it.",
    sources=["lm-eval#3333", "Soup#781", "open-r1 PR #462", "retaining-by-doing#5"],
)
def two_beginnings(facts: Facts) -> Answer:
    told, said, tokens = reported_by(facts, "E03"), notices(facts, "E03"), run(facts).tokens
    asked = prompts(facts)
    if asked is not None and asked.double_bos:
        said.append(f"{asked.double_bos} of {asked.checked} prompts that texts were generated from begin with it twice.")
    if said:
        return present(said)
    if told:
        return told
    rule = run(facts).provenance.get("first_token_rule")
    if tokens is None:
        return unknown(NO_TOKENS, [], evidence(reported_is_right(facts)))
    return absent(
        evidence(
            f"None of {tokens.rows:,} training rows begins with it twice.",
            f"Scoring puts its own beginning in front once ({shown(rule)})." if isinstance(rule, str) else None,
            reported_is_right(facts),
        )
    )


@cause(
    "E04",
    title="The beginning-of-text token is missing where the model expects it",
    symptom="Perplexity is absurdly high, in both arms or in one.",
    proof="Training rows and scored rows begin by one and the same rule, and that is what the tokenizer does by itself.",
    remedy="score with the tokenizer's own beginning-of-text token (`galvan evaluate BASE ADAPTER --data FILE` does), and train with it",
    settle="Score ten texts with the token in front and without: if one is lower by far, that is how the model was trained.",
    sources=["lm-eval PR #1465", "lm-eval#2049"],
)
def beginning_missing(facts: Facts) -> Answer:
    told, tokens, rule = reported_by(facts, "E04"), run(facts).tokens, run(facts).provenance.get("first_token_rule")
    if told:
        return told
    if tokens is None:
        return unknown(NO_TOKENS, [], evidence(reported_is_right(facts)))
    if said := notices(facts, "E04"):
        return present(said, [], "very likely")
    if not isinstance(rule, str):
        return unknown(
            "by which rule the scored rows begin; nothing was scored.", [], [f"Training rows: {shown(tokens.first_token_rule)}."]
        )
    if rule != tokens.first_token_rule:
        return present([f"Training rows begin by the rule {shown(tokens.first_token_rule)}, scored rows by {shown(rule)}."])
    return absent(
        evidence(f"Training rows and scored rows begin by one rule, the tokenizer's own: {shown(rule)}.", reported_is_right(facts))
    )


@cause(
    "E05",
    title="The boundary of prompt and answer is cut differently in context",
    symptom="Rows are silently left out, or the prompt alone ends in other tokens than in training.",
    proof="No token holds characters of the prompt and of what is learned, and no row is without a token to learn.",
    remedy="let the completion, not the prompt, hold the space or line break between them; look with `galvan prepare RECIPE --show 3`",
    settle="Encode the prompt alone and prompt and answer together: if the first is not how the second begins, it is proved.",
    sources=["trl#598", "trl#588", "trl#980", "trl#1183", "trl#1820", "trl#1920"],
)
def boundary_cut(facts: Facts) -> Answer:
    tokens, said = run(facts).tokens, notices(facts, "E05")
    if tokens is None:
        return unknown(NO_TOKENS)
    if said:
        return present(said)
    why = "there is no prompt in plain text" if tokens.shape == "plain text" else "characters and tokens were lined up row by row"
    return absent([f"In none of {tokens.rows:,} rows does a token hold both: {why}."])


@cause(
    "E06",
    title="Truncation hides the ends of the rows",
    symptom="Endings are never learned, and long rows are learned in part only.",
    proof=f"Less than {LOST_TARGETS:.0%} of the tokens to learn are cut off, and the ends of the rows are left.",
    remedy="raise training.document_tokens, or lower data.document_tokens, so that rows fit (`galvan run RECIPE --set "
    "training.document_tokens=1024`)",
    settle="Train again with rows that fit: if endings are learned then, it is proved.",
    sources=["trl#2400", "unsloth#2904", "LlamaFactory#2996", "trl PR #6025"],
)
def ends_cut_off(facts: Facts) -> Answer:
    tokens = run(facts).tokens
    if tokens is None:
        training = run(facts).training or {}
        cut, rows = training.get("truncated_rows"), training.get("rows")
        if cut == 0:
            return absent([f"None of {rows} rows was truncated in training."])
        return unknown(NO_TOKENS, evidence(f"{cut} of {rows} rows were truncated in training." if cut else None))
    lost = tokens.lost_supervised_tokens / max(1, tokens.lost_supervised_tokens + tokens.supervised_tokens)
    text = f"{tokens.truncated_rows:,} of {tokens.rows:,} rows are cut, and {tokens.lost_supervised_tokens:,} tokens to learn ({lost:.1%}) with them."
    ends = None if tokens.ends_survive_share is None else f"In {tokens.ends_survive_share:.0%} of the rows the end is left."
    if lost > LOST_TARGETS:
        return present(evidence(text, ends), [], supported(lost, MUCH_LOST))
    return absent([text])


@cause(
    "E07",
    title="Training used rows from a stale cache",
    symptom="A changed setting, template or file has no effect.",
    proof="Rows are encoded anew from the present file, tokenizer and template, and come to the counts that were recorded.",
    remedy="delete the cache of tokenised rows (of datasets: ~/.cache/huggingface/datasets; of galvan: the run's folder) and train "
    "again with `galvan run RECIPE`",
    settle="Encode twenty rows anew and compare them with the cached ones: other ids prove it.",
    sources=["axolotl#341", "Soup#1067", "open-instruct PR #1497", "unitxt#7"],
)
def stale_rows(facts: Facts) -> Answer:
    here = run(facts)
    tokens, now, trained = here.tokens, here.preflight, here.training
    if tokens is None or now is None:
        return unknown("what the rows come to when they are encoded again; that is done before training (preflight.json).")
    names = ("rows", "tokens", "supervised_tokens", "truncated_rows")
    then = {name: getattr(tokens, name) for name in names}
    because = [
        f"Encoded again, the rows have {now[name]:,} {name.replace('_', ' ')}, not the recorded {then[name]:,}."
        for name in names
        if isinstance(now.get(name), int) and now[name] != then[name]
    ]
    if trained is not None and isinstance(trained.get("rows"), int) and trained["rows"] != tokens.rows:
        because.append(f"Training saw {trained['rows']:,} rows, and {tokens.rows:,} are recorded.")
    cut = trained.get("truncated_rows") if trained is not None else None
    if isinstance(cut, int) and cut != tokens.truncated_rows:
        because.append(f"Of the rows that training saw {cut:,} were cut, of those recorded {tokens.truncated_rows:,}.")
    if because:
        return present(because)
    return absent(
        [f"Encoded again just before training, the rows have the recorded {tokens.rows:,} rows and {tokens.tokens:,} tokens."]
    )


@cause(
    "E08",
    title="Documents packed into one row see each other",
    symptom="Training with packing is a little worse than without.",
    proof="When a packed document is replaced by another, no logit of the next one moves.",
    remedy="set training.packing to false, or use an attention implementation that keeps documents apart",
    settle="Replace the first document of a packed row and compare the logits of the second: any change proves it.",
    sources=["trl#1230", "trl#3067", "trl#805", "alignment-handbook#204", "axolotl sdpa_varlen.py"],
)
def packed_contamination(facts: Facts) -> Answer:
    checks, packing = run(facts).checks, run(facts).setting("training.packing")
    moved = checks.contamination if checks else None
    if moved:
        return present([f"With another document packed before it, a document's logits move by up to {moved:.3g}."])
    if moved == 0:
        return absent(["With another document packed before it, not one logit of a document moves."])
    if run(facts).training is None:
        return unknown("whether documents were packed, and whether they were kept apart.")
    if packing is False:
        return absent(
            ["Nothing was packed: documents that share a pass were proved apart on the live model, or each was a row of its own."]
        )
    if packing is True:
        return absent(
            ["Training refuses to pack before its first step unless no logit of a packed document moves, and it trained."]
        )
    return unknown("whether documents were packed, and whether they were kept apart.")


@cause(
    "E09",
    title="The loss is taken across the seam of two packed documents",
    symptom="Noise: the first token of a document is learned from the end of another.",
    proof="No label stands on the first token of a packed document.",
    remedy="mask the first label of every packed document with -100, or set training.packing to false",
    settle="Print the labels at position 0 of each packed document: anything but -100 proves it.",
    sources=["bionemo-recipes PR #1449"],
)
def learned_across_seam(facts: Facts) -> Answer:
    checks, packing = run(facts).checks, run(facts).setting("training.packing")
    seams = checks.seams_learned if checks else None
    if seams:
        return present([f"{seams} labels stand on the first token of a packed document."])
    if seams == 0:
        return absent(["No label stands on the first token of a packed document."])
    if run(facts).training is None or packing is None:
        return unknown("whether documents were packed, and which labels stand at their seams.")
    if packing is False:
        return absent(["Nothing was packed, and the first position of a document is never a target."])
    return absent(["Labels of packed rows are set from each document's own second token on, so that none stands on a seam."])


@cause(
    "E10",
    title="Held-out text stands in the training text",
    symptom="Validation looks too good, and fresh text shows less of the gain or none.",
    proof="No held-out document is, nearly is, or shares twenty words in a row with a training document.",
    remedy="remove the copies (data.split.leaks: remove), or split by block or group, and run `galvan run RECIPE` again",
    settle="Score a text by the same author that certainly was not trained on: if the gain is much smaller there, it is proved.",
    sources=["Soup#680", "OpenTau PR #498", "webui#1", "MidcurveNN#34"],
)
def leaked(facts: Facts) -> Answer:
    pairs = run(facts).overlaps
    if not pairs:
        return unknown(
            "what training and held-out text share; give the training text too (`galvan evaluate ... --train-data FILE`)."
        )
    held_out = [pair for pair in pairs if "train" in (pair.a, pair.b)]
    from galvan.data.leak import reasons

    found = [said for pair in held_out for said in reasons(pair)]
    if found:
        copies = any(pair.leaking or pair.long_duplicates or pair.near_duplicates for pair in held_out)
        return present([shown(f"{said}.", 400) for said in found], [], "certain" if copies else "likely")
    longest = max((pair.longest_span_words for pair in held_out), default=0)
    return absent([f"No held-out document repeats one of training; the longest run of words that they share has {longest}."])


@cause(
    "E11",
    title="The labels are shifted twice",
    symptom="The loss stays high, and the model learns the token after the next.",
    proof="The training loss is the NLL of the next token, computed anew from the logits.",
    remedy="give the label of a position as the id at that position and let the model shift them, once",
    settle="Compute the cross-entropy of one row from its logits by hand: if the model's loss is another, it is proved.",
    sources=["transformers PR #47395", "transformers#46898", "transformers#37830", "transformers PR #44642", "LlamaFactory#10457"],
)
def shifted_twice(facts: Facts) -> Answer:
    told, said, checks, logged = reported_by(facts, "E11"), notices(facts, "E11"), run(facts).checks, log(facts)
    error = checks.loss_error if checks else None
    if said or told:
        return present([*said, *(told.because if told else [])])
    if error is not None and error > LOSS_SHARE:
        return present([f"The training loss of one row is {error:.0%} away from the NLL of the next token."], [], "very likely")
    first = _first_loss(facts)
    if error is not None:
        return absent(evidence(f"The training loss of one row is the NLL of the next token to {error:.1g} of it.", first))
    known = base_nats(facts)
    if logged is None or known is None or logged.first_eval is None:
        return unknown(
            "whether the training loss is the NLL of the next token; no check of it was recorded.",
            [],
            evidence(reported_is_right(facts)),
        )
    away = logged.first_eval / known[0] - 1
    if logged.ours and logged.first_eval_step == 0 and abs(away) <= ODD_LOSS:
        return absent(
            evidence("Training does not begin unless its loss is the NLL of the next token, computed anew from the logits.", first)
        )
    if away > ODD_LOSS:
        return unknown("why the first losses are so much higher than the base's NLL.", evidence(first))
    return unknown(
        "whether the training loss is the NLL of the next token; the first losses do not contradict it.", [], evidence(first)
    )


def _first_loss(facts: Facts) -> str | None:
    logged, known = log(facts), base_nats(facts)
    if logged is None or known is None or logged.first_eval is None:
        return None
    return f"At step {logged.first_eval_step} the log has {logged.first_eval:.4f} nats a token; the base of record has {known[0]:.4f} on {known[1]}."


@cause(
    "E12",
    title="The adapter brings another tokenizer than its base",
    symptom="Perplexity shifts in both arms, or in one, for no reason in the weights.",
    proof="The tokenizer files in both folders give the same ids.",
    remedy="score both arms with the base's tokenizer, or, if tokens were added, load the resized base in both arms; compare the folders "
    "with `galvan check BASE ADAPTER`",
    settle="Encode one text with both tokenizers: other ids prove it.",
    sources=["lm-eval huggingface.py", "llama.cpp PR #9948"],
)
def other_tokenizer(facts: Facts) -> Answer:
    files = facts.files
    if files is not None and files.same_tokenizer is False:
        if files.kind == "full":
            return absent(["The tuned model is a whole model, and each arm is scored with its own tokenizer, by bytes."])
        return present(
            ["The tokenizer in the adapter's folder gives other ids than the base's."],
            ["Both arms are scored here with the base's tokenizer."],
        )
    base, tuned = (run(facts).provenance.get(key) for key in ("tokenizer_sha256", "tuned_tokenizer_sha256"))
    if files is not None and files.same_tokenizer:
        return absent(["The tokenizers in both folders give the same ids."])
    if isinstance(base, str) and base == tuned:
        return absent([f"Both arms were scored with one tokenizer (SHA-256 {base[:16]})."])
    if files is not None and files.kind == "lora":
        return unknown(
            "which tokenizer the adapter was trained with; its folder holds none.", [], ["Both arms are scored with the base's."]
        )
    return unknown("which tokenizers the two arms were given.")


@cause(
    "E13",
    title="Padding is not masked, so that results depend on it",
    symptom="A text's likelihood changes with the batch that it is in.",
    proof="Likelihoods at real positions are the same with and without padding, to rounding.",
    remedy="pass the tokenizer's attention_mask to the model, and never infer it from the padding id where that is also the end-of-text id",
    settle="Score one text alone and padded beside a long one: other numbers prove it.",
    sources=["transformers#25790", "axolotl callbacks/perplexity.py"],
)
def padding_seen(facts: Facts) -> Answer:
    checks, function = run(facts).checks, facts.function
    error = checks.padding_error if checks else None
    moved = function.batch_nats if function else None
    if error is not None and error > LOSS_SHARE:
        return present([f"A logit at a real position moves by {error:.0%} of the largest when the row is padded."])
    if moved is not None and function is not None and moved > PADDING_NATS:
        return present(
            [f"A token's likelihood is {moved:.3g} nats another in a padded batch than alone."],
            evidence(f"Two passes of one row agree to {function.repeat_nats:.1g}." if function.repeat_nats < moved else None),
            "very likely",
        )
    if moved is None and error is None:
        return unknown("whether likelihoods change with padding; no model was loaded.")
    return absent(
        evidence(
            f"Alone and in a padded batch a token's likelihood is the same to {moved:.1g} nats." if moved is not None else None,
            f"Padding moves a logit by {error:.1g} of the largest." if error is not None else None,
        )
    )
