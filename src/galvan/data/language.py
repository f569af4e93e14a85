"""Which texts are in another language or script than the rest. No model and no network: letters and little words tell.

The language of a collection is the one that most of its words vote for; a text is an outlier only where another language's little
words are clearly commoner in it, or most of its letters are of another script. Short texts are not judged.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from galvan.text import without_marks, words

_LOOKED_AT = 400  # characters; more would change no vote and cost the time of reading all
_FEWEST_WORDS, _FEWEST_LETTERS = 20, 20
_LITTLE_WORDS = {
    "English": "the and of to that in it was he she his her with as for not but had you they is this my were from which have",
    "French": "le la les et des une dans que qui pas pour sur au du est il elle avec ce sa ses vous nous je mais ne plus",
    "German": "der die das und ich ist nicht sie es ein eine mit den dem zu von auf sich auch wie wir hat aber war im für",
    "Spanish": "el los las y que una por con para del se no su al lo como más pero sus le ya este porque muy sin sobre",
    "Italian": "il di che non per una con gli della del si sono mi ma alla nel più le come ha anche dei delle era lo suo",
    "Portuguese": "o os as que não uma com para do da em se por mais dos das ao ele como mas foi seu sua pelo pela eu",
    "Dutch": "de het een van en niet dat is op te zijn voor met hij die aan er maar om ook als bij haar ze naar nog",
    "Latin": "et in est non cum ad ut sed quod qui ex esse enim atque quae aut nec per hoc ab etiam autem sunt quam",
}
_WORDS = {language: frozenset(little.split()) for language, little in _LITTLE_WORDS.items()}
_LANGUAGES_OF = {word: tuple(name for name, some in _WORDS.items() if word in some) for word in frozenset().union(*_WORDS.values())}
_SCRIPT = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Look:
    """What a text looks like: its letters by script, its words, and the votes of its little words."""

    scripts: dict[str, int]
    n_words: int
    votes: dict[str, int]


def look(text: str) -> Look:
    """The look of the beginning of `text`."""
    beginning = text[:_LOOKED_AT]
    spoken = words(beginning)
    votes: dict[str, int] = {}
    for languages in map(_LANGUAGES_OF.get, spoken):
        for language in languages or ():
            votes[language] = votes.get(language, 0) + 1
    plain = without_marks(beginning)
    return Look({"LATIN": sum(map(len, spoken))} if plain.isascii() else _scripts(plain), len(spoken), votes)


def _scripts(text: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for letter, count in Counter(_SCRIPT.findall(text)).items():
        found["LATIN" if letter.isascii() else unicodedata.name(letter, "UNKNOWN").split()[0]] += count
    return found


def outliers(texts: Iterable[str]) -> list[tuple[int, str]]:
    """Index and reason of each text that is in another script or language than most of the collection."""
    looks = [look(text) for text in texts]
    scripts, votes = Counter[str](), Counter[str]()
    for one in looks:
        scripts.update(one.scripts)
        votes.update(one.votes)
    if not scripts:
        return []
    script = scripts.most_common(1)[0][0]
    language = votes.most_common(1)[0][0] if votes else None
    said = ((number, _stranger(one, script, language)) for number, one in enumerate(looks))
    return [(number, reason) for number, reason in said if reason is not None]


def _stranger(one: Look, script: str, language: str | None) -> str | None:
    letters = sum(one.scripts.values())
    if letters >= _FEWEST_LETTERS and one.scripts.get(script, 0) < 0.5 * letters:
        return f"mostly {max(one.scripts, key=lambda name: one.scripts[name]).lower()} letters among {script.lower()} ones"
    if language is None or one.n_words < _FEWEST_WORDS or not one.votes:
        return None
    best, count = max(one.votes.items(), key=lambda pair: pair[1])
    if best != language and count >= 0.15 * one.n_words and count >= 2 * one.votes.get(language, 0) + 3:
        return f"{best} among {language}"
    return None
