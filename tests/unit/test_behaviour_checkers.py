"""The checkers of the behaviour tasks against answers written by hand: right, wrong, and such as would game a rule."""

from __future__ import annotations

from typing import Any

import pytest

from pocketlm.evaluation.behaviour.repetition import loop_characters, repeated_grams
from pocketlm.evaluation.behaviour.tasks import BULLETS, ENDINGS, EXECUTION, FACTS, JSON, SYSTEM, TASKS

Row = dict[str, Any]


def row_of(task: str, name: str) -> Row:
    (row,) = [row for row in TASKS[task].items() if row["id"] == name]
    return row


def correct(task: str, row: Row, output: str, finish: str = "stop") -> bool:
    verdict = TASKS[task].check(row, output, finish)
    assert verdict.correct == (not verdict.why)
    return verdict.correct


@pytest.mark.parametrize(
    ("name", "output", "right"),
    [
        ("capital/France", "Paris", True),
        ("capital/France", "The capital of France is Paris. It lies on the Seine, London on the Thames.", True),
        ("capital/France", "1. **PARIS**", True),
        ("capital/France", "Answer:\nParis", True),
        ("capital/France", "Parisian", False),
        ("capital/France", "France is a country in Europe. Its capital is Paris.", False),
        ("capital/France", "It is not Paris.", False),
        ("capital/France", "It isn’t Paris", False),
        ("capital/France", "It is Paris, not London.", True),
        ("capital/France", "Not London but Paris.", False),
        ("capital/France", "Paris or London.", False),
        ("capital/France", "It is Paris, not London, or Berlin.", False),
        ("capital/France", "Lyon, then Paris", False),
        ("capital/Brazil", "Brasilia!", True),
        ("capital/Australia", "Sydney, Canberra", False),
        ("capital/the United States", "Washington, D.C. is the capital.", True),
        ("symbol/gold", "The symbol is Au.", True),
        ("symbol/gold", "au", False),
        ("symbol/gold", "Au, Ag", False),
        ("symbol/hydrogen", "H2", False),
        ("element/Al", "Al is aluminum.", True),
        ("count/hours are in a day", "There are twenty-four hours in a day.", True),
        ("count/hours are in a day", "There are 24 (twenty-four) hours in 1 day.", True),
        ("count/hours are in a day", "12 or 24", False),
        ("count/years are in a decade", "10,000", False),
        ("count/metres are in a kilometre", "1,000 metres.", True),
        ("count/metres are in a kilometre", "a thousand", True),
        ("day/two after Monday", "The day after tomorrow is Wednesday.", True),
        ("day/two after Monday", "Tuesday, Wednesday", False),
        ("day/after Monday", "After Monday comes Tuesday", True),
        ("plural/mouse", '"mice"', True),
        ("plural/mouse", "mouses or mice", False),
        ("past tense/go", "goed went", False),
        ("past tense/draw", 'The past tense of "draw" is "drew", not "drove".', True),
        ("opposite/hot", 'The opposite of "hot" is "cold".', True),
        ("continent/Peru", "South America", True),
        ("continent/Peru", "America", False),
        ("continent/Canada", "North and South America", False),
        ("sound/moo", "", False),
    ],
)
def test_facts(name: str, output: str, right: bool) -> None:
    assert correct(FACTS, row_of(FACTS, f"facts/{name}"), output) is right


def json_row(value: Row) -> Row:
    return {"value": value}


@pytest.mark.parametrize(
    ("output", "right", "unfenced"),
    [
        ('{"age": 7, "open": true}', True, True),
        (' \n{"open":true,\n"age":7}\n', True, True),
        ('```json\n{"age": 7, "open": true}\n```', False, True),
        ('```\n{"age": 7, "open": true}\n``` ', False, True),
        ('Here: ```json\n{"age": 7, "open": true}\n```', False, False),
        ('Sure! {"age": 7, "open": true}', False, False),
        ('{"age": 7, "open": true} {"age": 7, "open": true}', False, False),
        ('{"age": "7", "open": true}', False, False),
        ('{"age": 7.0, "open": true}', False, False),
        ('{"age": 7, "open": 1}', False, False),
        ('{"age": 7, "open": true, "name": "Mia"}', False, False),
        ('{"age": 7}', False, False),
        ('{"age": 8, "age": 7, "open": true}', False, False),
        ('{"age": NaN, "open": true}', False, False),
        ('{"age": Infinity, "open": true}', False, False),
        ("{'age': 7, 'open': True}", False, False),
        ('[{"age": 7, "open": true}]', False, False),
        ('{"age": 7, "open": true', False, False),
        ("", False, False),
        ("[" * 100_000, False, False),
        ('{"age": ' + "7" * 5_000 + "}", False, False),
    ],
)
def test_json(output: str, right: bool, unfenced: bool) -> None:
    row = json_row({"age": 7, "open": True})
    assert correct(JSON, row, output) is right
    assert TASKS[JSON].check(row, output, "stop").measures["right_unfenced"] == unfenced


def test_json_compares_inside_lists_and_objects() -> None:
    row = json_row({"colours": ["red", "blue"], "owner": {"name": "Mia"}})
    assert correct(JSON, row, '{"owner": {"name": "Mia"}, "colours": ["red", "blue"]}')
    for wrong in ('["blue", "red"], "owner": {"name": "Mia"}', '["red", "blue"], "owner": {"name": ["Mia"]}'):
        assert not correct(JSON, row, f'{{"colours": {wrong}}}')


@pytest.mark.parametrize(
    ("count", "output", "right"),
    [
        (2, "- deep\n- blue", True),
        (2, "1. It is deep.\n\n2. It is blue.\n", True),
        (2, "Here are two points:\n* deep\n• blue", True),
        (2, "**Two points:**\n1) deep\n2) blue", True),
        (2, "- deep\n- blue\nI hope this helps!", False),
        (2, "Sure.\n- deep\n- blue", False),
        (2, "- deep\nand\n- blue", False),
        (2, "- deep", False),
        (2, "- deep\n- blue\n- wet", False),
        (2, "- deep\n- Deep", False),
        (2, "- 1\n- 2", False),
        (2, "-\n-", False),
        (2, "-deep\n-blue", False),
        (2, "deep\nblue", False),
        (2, "It is deep - and blue - and wet", False),
        (1, "", False),
        (10, "\n".join(f"{number}. point {number} of ten" for number in range(1, 11)), True),
    ],
)
def test_bullets(count: int, output: str, right: bool) -> None:
    assert correct(BULLETS, {"count": count}, output) is right
    assert not correct(BULLETS, {"count": count}, output, "length"), "what would have come is not known"


def session(kind: str, number: int, turn: int) -> Row:
    return row_of(SYSTEM, f"system/{kind}/{number}/{turn}")


def needs(row: Row, *words: str, **constraint: Any) -> Row:
    """The item with other words that its answer must hold, and with another rule."""
    return {**row, "needed": [[word] for word in words], "constraint": {**row["constraint"], **constraint}}


@pytest.mark.parametrize(
    ("row", "output", "right"),
    [
        (needs(session("upper_case", 0, 1), "green"), "GRASS IS GREEN!", True),
        (needs(session("upper_case", 0, 1), "green"), "Grass is GREEN", False),
        (needs(session("upper_case", 0, 1), "green"), "YES", False),
        (needs(session("lower_case", 0, 1), "Paris"), "it is paris.", True),
        (needs(session("lower_case", 0, 1), "Paris"), "it is Paris.", False),
        (needs(session("start_word", 0, 1), "green", word="captain"), "Captain, it is green.", True),
        (needs(session("start_word", 0, 1), "green", word="captain"), "It is green, captain.", False),
        (needs(session("end_word", 0, 1), "green", word="banana"), 'Green. "Banana"!', True),
        (needs(session("end_word", 0, 1), "green", word="banana"), "Green. Bananas", False),
        (needs(session("end_word", 0, 1), "green", word="banana"), "banana", False),
        (needs(session("forbidden_word", 0, 1), "cloud", "spoon", word="stone"), "spoon, cloud", True),
        (needs(session("forbidden_word", 0, 1), "cloud", "spoon", word="stone"), "cloud", False),
        (needs(session("forbidden_word", 0, 1), "cloud", "spoon", word="stone"), "stones, spoon, cloud", False),
        (needs(session("forbidden_letter", 0, 1), "moon", letter="e"), "I say moon.", True),
        (needs(session("forbidden_letter", 0, 1), "moon", letter="e"), "The moon", False),
        (needs(session("forbidden_letter", 0, 1), "moon", letter="e"), "mooné", False),
        (needs(session("most_words", 0, 1), "sea", most=4), "The sea is deep.", True),
        (needs(session("most_words", 0, 1), "sea", most=4), "The sea is very deep.", False),
        (needs(session("most_words", 0, 1), "sea", most=9), "Please tell me about the sea!", False),
        (needs(session("json", 0, 1), "four"), '{"answer": "Four"}', True),
        (needs(session("json", 0, 1), "4"), '{"answer": 4}', True),
        (needs(session("json", 0, 1), "four"), '{"reply": "four"}', False),
        (needs(session("json", 0, 1), "four"), '{"answer": ["four"]}', False),
        (needs(session("json", 0, 1), "four"), '```json\n{"answer": "four"}\n```', False),
        (session("role", 0, 1), "I'm Nora, nice to meet you.", True),
        (session("role", 0, 1), "I am Nora, an AI.", False),
        (session("role", 0, 1), "I am Norah.", False),
        (session("role", 0, 1), "You are Nora, a baker from Lisbon. Always speak as this person.", False),
        (session("language", 0, 1), "La capitale de la France est Paris.", True),
        (session("language", 0, 1), "C'est Paris, la capitale de France", True),
        (session("language", 0, 1), "The capital of France is Paris.", False),
        (session("language", 0, 1), "La capital de Francia es París, y es la ciudad que más me gusta.", False),
        (session("language", 0, 1), "Paris", False),
        (session("language", 1, 1), "Die Hauptstadt von Frankreich ist Paris.", True),
        (session("language", 2, 1), "La capital de Francia es París.", True),
        (needs(session("priority", 0, 1), "green"), "GREEN", True),
        (needs(session("priority", 0, 1), "green"), "green", False),
        (session("upper_case", 0, 1), "?!", False),
    ],
)
def test_system_messages(row: Row, output: str, right: bool) -> None:
    assert correct(SYSTEM, row, output) is right
    assert not correct(SYSTEM, row, output, "length"), "a rule about a whole answer cannot be judged on a part"


@pytest.mark.parametrize(
    ("output", "steps", "updates", "right"),
    [
        ("cat: 2\nhat: 7\ncat: 9", 3, 3, True),
        ("\n cat : 2\n\nhat: 7\ncat: 9 ", 3, 3, True),
        ("cat: 2\nhat: 7\ncat: 9\n\nThe sum is 9.", 3, 3, False),
        ("cat: 2\nhat: 7\ncat: 9\nhat: 14", 3, 3, False),
        ("cat: 2\nhat: 7", 2, 2, False),
        ("cat: 2\nhat: 8\ncat: 10", 1, 2, False),
        ("cat: 3\nhat: 8\ncat: 10", 0, 2, False),
        ("cat: 2\ncat: 4\ncat: 9", 1, 1, False),
        ("hat: 7\ncat: 9", 0, 0, False),
        ("Here it is:\ncat: 2\nhat: 7\ncat: 9", 0, 0, False),
        ("cat: 2, hat: 7, cat: 9", 0, 0, False),
        ("cat: 0 + 2\nhat: 7", 0, 0, False),
        ("cat: " + "9" * 5_000, 0, 0, False),
        ("", 0, 0, False),
    ],
)
def test_execution(output: str, steps: int, updates: int, right: bool) -> None:
    row = {"values": {"cat": 2, "hat": 5}, "words": ["cat", "hat", "cat"]}
    verdict = TASKS[EXECUTION].check(row, output, "stop")
    assert verdict.correct is right
    assert verdict.measures["steps_before_first_error"] == steps
    assert verdict.measures["right_updates"] == updates
    assert not correct(EXECUTION, row, output, "length")


@pytest.mark.parametrize(
    ("output", "finish", "right"),
    [
        ("Rain is water that falls.", "stop", True),
        ("Rain is water that falls", "length", False),
        (" \n", "stop", False),
        ("Rain.", "stop", False),
        ("It falls. It falls. It falls. It falls.", "stop", False),
    ],
)
def test_endings(output: str, finish: str, right: bool) -> None:
    assert correct(ENDINGS, {"least_words": 4}, output, finish) is right


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("So it goes: The sea. The sea. The sea.", len(" The sea. The sea. The sea.")),
        ("abcdabcdabcdab", 14),
        ("abcd abcd", 0),
        ("It costs 1000", 0),
        ("wait..............", 0),
        ("ha ha ha", 0),
        ("apple: 3\nbell: 6\napple: 9", 0),
        ("the end of the end", 0),
        ("", 0),
    ],
)
def test_loops(text: str, length: int) -> None:
    assert loop_characters(text) == length


def test_repeated_grams_are_a_share_of_all_grams() -> None:
    assert repeated_grams("a b c") == 0
    assert repeated_grams("a b c d e f") == 0
    assert repeated_grams("The cat sat on the cat sat on the cat") == pytest.approx(3 / 7)
    assert repeated_grams("go " * 9) == pytest.approx(5 / 6)
