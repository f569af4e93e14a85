"""Which texts are in another language or script than the rest. No model and no network: letters and little words tell.

The language of a collection is the one that most of its words vote for; a text is an outlier only where another language's little
words are clearly commoner in it, or most of its letters are of another script. Short texts are not judged.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from sys import intern

import numpy as np
from numpy.typing import NDArray

from galvan.data.overlap import Table
from galvan.data.spoken import spoken
from galvan.data.together import are_usual, beyond_ascii, codes_of
from galvan.text import without_marks, words

_TOGETHER = 1024  # texts
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


def outliers(texts: Sequence[str]) -> list[tuple[int, str]]:
    """Index and reason of each text that is in another script or language than most of the collection.

    All texts are looked at together first, which leaves a few numbers of each; only those that these do not clear are looked at alone.
    """
    looks = _Looks(texts)
    if looks.script is None:
        return []
    said = ((number, _stranger(look(texts[number]), looks.script, looks.language)) for number in looks.suspects())
    return [(number, reason) for number, reason in said if reason is not None]


class _Looks:
    """Of every text how many letters, letters of the commonest script, words and votes it has: 20 bytes."""

    def __init__(self, texts: Iterable[str]) -> None:
        names = list(_WORDS)
        votes, letters, n_words = (list[NDArray[np.int16]]() for _ in range(3))
        other_scripts: list[tuple[int, str, int]] = []
        beginnings = (text[:_LOOKED_AT] for text in texts)
        begin = 0
        little = spoken(_LANGUAGES_OF)
        order = np.argsort(little.hashes)
        known = Table(little.hashes[order])
        speaks = np.array([[name in languages for name in names] for languages in _LANGUAGES_OF.values()])
        while some := list(islice(beginnings, _TOGETHER)):
            found = spoken(some)
            owner = np.repeat(np.arange(len(some)), found.counts)
            own = np.zeros((len(some), len(names) + 1), dtype=np.int16)
            own[:, -1] = np.bincount(owner, found.ends - found.begins, len(some)) if len(owner) else 0
            are_little = known.found(found.hashes)
            speaker, word = owner[are_little], order[known.place(found.hashes[are_little])]
            for column in range(len(names)):
                own[:, column] = np.bincount(speaker[speaks[word, column]], minlength=len(some))
            for number, text in enumerate(() if are_usual(beyond_ascii(codes_of(some))) else some):
                if not text.isascii() and not (plain := without_marks(text)).isascii():
                    scripts = _scripts(plain)
                    own[number, -1] = scripts.pop("LATIN", 0)
                    other_scripts += [(begin + number, intern(name), count) for name, count in scripts.items()]
            n_words.append(found.counts.astype(np.int16))
            votes.append(own[:, :-1])
            letters.append(own[:, -1])
            begin += len(some)
        self._votes = np.concatenate(votes) if votes else np.zeros((0, len(names)), np.int16)
        self._latin, self._n_words = (np.concatenate(some) if some else np.zeros(0, np.int16) for some in (letters, n_words))
        self._others = other_scripts
        by_script = Counter({"LATIN": int(self._latin.sum(dtype=np.int64))})
        for _, name, count in other_scripts:
            by_script[name] += count
        by_language = self._votes.sum(axis=0, dtype=np.int64)
        self.script = by_script.most_common(1)[0][0] if by_script.total() else None
        self._language = int(by_language.argmax()) if by_language.any() else None
        self.language = None if self._language is None else names[self._language]

    def suspects(self) -> list[int]:
        """Texts of which `_stranger` may say something: its own conditions, all at once."""
        letters, common = self._latin.astype(np.int64), np.where(self.script == "LATIN", self._latin, 0).astype(np.int64)
        for number, name, count in self._others:
            letters[number] += count
            common[number] += count * (name == self.script)
        strange = common < 0.5 * letters
        if self._language is not None:
            most, own = self._votes.max(axis=1, initial=0), self._votes[:, self._language]
            strange |= (self._n_words >= _FEWEST_WORDS) & (most >= 2 * own + 3) & (most >= 0.15 * self._n_words)
        return [int(number) for number in np.flatnonzero(strange)]


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
