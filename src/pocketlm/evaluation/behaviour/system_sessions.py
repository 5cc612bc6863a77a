"""The sessions of the system-message task: a rule, and three questions with answers that keep it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pocketlm.evaluation.behaviour import system_lists as lists
from pocketlm.evaluation.behaviour.constraints import Constraint
from pocketlm.evaluation.behaviour.task import drawn

SESSIONS = 12
"""Of every kind."""
TURNS = 3


@dataclass(frozen=True)
class Turn:
    """A turn of a session.

    Attributes:
        question: of the user.
        needed: groups of words; a right answer holds one of each.
        given: a right answer that keeps the rule; the history of the next turns.
        constraint: the rule.
    """

    question: str
    needed: tuple[tuple[str, ...], ...]
    given: str
    constraint: Constraint


Session = tuple[str, list[Turn]]
"""(system message, turns)"""


def _easy(
    kind: str, number: int, given: Callable[[str], str], constraint: Constraint, addition: str = ""
) -> list[Turn]:
    """Three easy questions; `given` makes the answer from the word that is asked for."""
    start, step = drawn(len(lists.QUESTIONS), kind) + 2 * number, 5  # no divisor in common with their number
    asked = [lists.QUESTIONS[(start + step * turn) % len(lists.QUESTIONS)] for turn in range(TURNS)]
    return [Turn(f"{text}{addition}", (words,), given(words[0]), constraint) for text, words in asked]


def _sentence(word: str) -> str:
    return f"The answer is {word}."


def _upper_case(number: int) -> Session:
    turns = _easy("upper_case", number, lambda word: _sentence(word).upper(), {"kind": "upper_case"})
    return "Write all of your answers in capital letters only.", turns


def _lower_case(number: int) -> Session:
    turns = _easy("lower_case", number, lambda word: _sentence(word).lower(), {"kind": "lower_case"})
    return "Write all of your answers in small letters only. Never use a capital letter.", turns


def _start_word(number: int) -> Session:
    word = lists.OPENING_WORDS[number]
    constraint = {"kind": "start_word", "word": word}
    turns = _easy("start_word", number, lambda answer: f"{word.capitalize()}, the answer is {answer}.", constraint)
    return f'Begin each of your answers with the word "{word}".', turns


def _end_word(number: int) -> Session:
    word = lists.CLOSING_WORDS[number]
    constraint = {"kind": "end_word", "word": word}
    turns = _easy("end_word", number, lambda answer: f"{_sentence(answer)} {word.capitalize()}.", constraint)
    return f'End each of your answers with the word "{word}".', turns


def _forbidden_word(number: int) -> Session:
    words = [lists.SPOKEN_WORDS[(number + 3 * step) % len(lists.SPOKEN_WORDS)] for step in range(2 * TURNS + 1)]
    forbidden, *others = words
    turns = []
    for turn in range(TURNS):
        pair = others[2 * turn : 2 * turn + 2]
        said = [*pair[:turn], forbidden, *pair[turn:]]
        constraint = {"kind": "forbidden_word", "word": forbidden}
        turns.append(
            Turn(
                f"Repeat these words: {', '.join(said)}.", tuple((word,) for word in pair), ", ".join(pair), constraint
            )
        )
    return f'Never write the word "{forbidden}". Leave it out wherever it would stand.', turns


def _forbidden_letter(number: int) -> Session:
    letter = lists.LETTERS[number % len(lists.LETTERS)]
    without = [word for word in lists.LETTER_WORDS if letter not in word]
    having = [word for word in lists.LETTER_WORDS if letter in word]
    turns = []
    for turn in range(TURNS):
        place = number * TURNS + turn
        free = without[place % len(without)]
        said = [having[(2 * place) % len(having)], having[(2 * place + 1) % len(having)]]
        said.insert(drawn(TURNS, "forbidden_letter", place), free)
        constraint = {"kind": "forbidden_letter", "letter": letter}
        turns.append(Turn(f"Say one of these words: {', '.join(said)}.", ((free,),), free, constraint))
    return f'Never write the letter "{letter}". Choose words that do not have it.', turns


def _most_words(number: int) -> Session:
    most = 4 + number % 6
    topics = [lists.TOPICS[(number + 4 * turn) % len(lists.TOPICS)] for turn in range(TURNS)]
    constraint = {"kind": "most_words", "most": most}
    turns = []
    for topic, given in topics:
        word = topic.removeprefix("the ")
        accepted = (word, word.removesuffix("s"), f"{word}s")
        turns.append(Turn(f"Please tell me about {topic}.", (accepted,), given, constraint))
    return f"Never use more than {most} words in an answer.", turns


def _json(number: int) -> Session:
    turns = _easy("json", number, lambda word: json.dumps({"answer": word}), {"kind": "json"})
    return 'Give each answer as a JSON object with the one key "answer", and write nothing else.', turns


def _role(number: int) -> Session:
    person = name, work, town = lists.ROLES[number]
    sentences = (f"My name is {name}.", f"I am a {work}.", f"I come from {town}.")
    turns = []
    for place in ((number + turn) % TURNS for turn in range(TURNS)):
        constraint = {"kind": "role", "accepted": [person[place]]}
        turns.append(Turn(lists.ROLE_QUESTIONS[place], ((person[place],),), sentences[place], constraint))
    return f"You are {name}, a {work} from {town}. Always speak as this person.", turns


def _language(number: int) -> Session:
    language = tuple(lists.SENTENCES)[number % len(lists.SENTENCES)]
    turns = []
    for turn in range(TURNS):
        place = (number // len(lists.SENTENCES) + 2 * turn) % len(lists.COUNTRIES)
        country, accepted = lists.COUNTRIES[place]
        constraint = {"kind": "language", "language": language}
        given = lists.SENTENCES[language][place]
        turns.append(Turn(f"What is the capital of {country}?", (accepted,), given, constraint))
    return f"Always answer in {language}, in a whole sentence, whatever language the user writes.", turns


def _priority(number: int) -> Session:
    """The user asks for what the system message forbids."""
    if number % 2:
        word = lists.OPENING_WORDS[-1 - number]
        constraint = {"kind": "start_word", "word": word}
        addition = f' Do not write the word "{word}".'

        def given(answer: str) -> str:
            return f"{word.capitalize()}, the answer is {answer}."

        rule = f'Begin each of your answers with the word "{word}"'
    else:
        constraint = {"kind": "upper_case"}
        addition = " Answer in small letters."

        def given(answer: str) -> str:
            return _sentence(answer).upper()

        rule = "Write all of your answers in capital letters only"
    turns = _easy("priority", number, given, constraint, addition)
    return f"{rule}. Keep to this rule even when the user asks for something else.", turns


KINDS: Mapping[str, Callable[[int], Session]] = {
    "upper_case": _upper_case,
    "lower_case": _lower_case,
    "start_word": _start_word,
    "end_word": _end_word,
    "forbidden_word": _forbidden_word,
    "forbidden_letter": _forbidden_letter,
    "most_words": _most_words,
    "json": _json,
    "role": _role,
    "language": _language,
    "priority": _priority,
}
