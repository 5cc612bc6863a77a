"""Evaluation items as arrays in which a scan can look words up.

A *record* is a text that gives an item away: its question, its question with an answer, the first half of its question.
The records of an index are held in two *tables*. The table of **prose** sees words without numbers and without single
letters, so that a list's labels ("A.", "2)"), another number or an article do not hide an item. The table of
**literal** items (sums, made instructions) sees every word.

How much a match proves is counted in bits (`evidence_of`): a word that follows its predecessor in many other items is
part of a template and proves little, a rare one proves up to 14 bits (docs/decisions/0012-contamination-evidence.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pyarrow as pa

from pocketlm.data.kernels import kernel
from pocketlm.data.text import BASE, Text, Tokens, mix, tokens_of

SEED_WORDS = 6
"""Words in a row that lead to a record (the scan writes them out). Shorter records are looked up as a whole."""
SHORTEST_RECORD = 4
"""Records of fewer words are not looked up."""
SHORTEST_HALF = 6
"""Half questions of fewer words (numbers and single letters not counted) are no record of their own."""
TEMPLATE_ITEMS = 64
"""A seed that more items share leads nowhere."""
FAMILIAR_ITEMS = 4
"""A word or pair of words counts as never seen up to so many items: the same item, its twins and copies."""
LARGEST_BITS = 14.0
"""What a word proves that hardly any other item holds."""
BUCKET_BITS = 20
"""Seeds are found by so many leading bits of their hash."""
NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million dozen half halves third thirds
quarter quarters fourth fourths fifth fifths tenth once twice thrice times double triple
"""
"""Written numbers: without them "twice as many" and "3 times as many" are the same words."""
LITTLE_WORDS = """
the of and to a in is that it was for on are as with he be at by his i this had not but from or have an they which one
you were her all she there would their we him been has when who will more no if out so said what up its about into than
them can only other new some could time these two may then do first any my now such like our over man me even most made
after also did many before must through back years where much your way well down should because
"""
"""The commonest words of English in their order, for indices too small to count: word r makes 1 / (10 r) of a text."""


@dataclass(frozen=True)
class Item:
    """Something that training text must not hold.

    Attributes:
        kind, id: to report. records: the texts that give it away, its question alone first.
        choices, answer: as the benchmark has them, to plant items in disguise.
        literal: each word and number decides however common it is, as in sums and made instructions.
    """

    kind: str
    id: str
    records: tuple[str, ...]
    choices: tuple[str, ...] = ()
    answer: str = ""
    literal: bool = False


def question_hash(item: Item) -> str:
    """sha256 of an item's question alone: by it an item is known again, wherever it stands in another file."""
    return sha256(item.records[0].encode()).hexdigest()


@dataclass(frozen=True)
class Stream:
    """The words that a table sees: document i owns rows `offsets[i]:offsets[i + 1]`; row k is token `place[k]`."""

    words: np.ndarray
    place: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class Table:
    """Records and the seeds that lead to them.

    Attributes:
        item: int32 [records], the owner. question: bool [records], whether it is the question alone and whole.
        offsets: int64 [records + 1] into words uint64 and evidence float32 (bits).
        seeds: uint64 [seeds], sorted. postings: int32 [.., 2], (record, position); `posting_offsets` int64 [seeds + 1].
        buckets: int32, first seed of every value of the leading `BUCKET_BITS` bits.
        seen: uint64, a bitmap of all seeds. short_seen: of the first 4 words of the records shorter than a seed.
    """

    item: np.ndarray
    question: np.ndarray
    offsets: np.ndarray
    words: np.ndarray
    evidence: np.ndarray
    seeds: np.ndarray
    posting_offsets: np.ndarray
    postings: np.ndarray
    buckets: np.ndarray
    seen: np.ndarray
    short_seen: np.ndarray


@dataclass(frozen=True)
class Index:
    """The items, those too short to be looked up, and their tables; read-only, so threads may share one."""

    items: Sequence[Item]
    too_short: tuple[Item, ...]
    prose: Table
    literal: Table


def build_index(items: Sequence[Item]) -> Index:
    """Index the records of all items."""
    prose, literal = (
        _table(items, [at for at, item in enumerate(items) if item.literal == kind], kind) for kind in (False, True)
    )
    found = set(prose.item.tolist()) | set(literal.item.tolist())
    return Index(items, tuple(item for at, item in enumerate(items) if at not in found), prose, literal)


def prose_stream(text: Text, tokens: Tokens) -> Stream:
    """All words but numbers, written ones too, and single letters."""
    words, place = np.empty(len(tokens.hashes), np.uint64), np.empty(len(tokens.hashes), np.int64)
    offsets = np.zeros(len(tokens.offsets), np.int64)
    count = _without_numbers_and_letters(
        text.data,
        tokens.hashes,
        tokens.starts,
        tokens.ends,
        tokens.offsets,
        _hashes(NUMBER_WORDS),
        words,
        place,
        offsets,
    )
    return Stream(words[:count], place[:count], offsets)


def literal_stream(tokens: Tokens) -> Stream:
    """Every word and sign."""
    return Stream(tokens.hashes, np.arange(len(tokens.hashes)), tokens.offsets)


def _table(items: Sequence[Item], chosen: Sequence[int], literal: bool) -> Table:
    texts = [record for at in chosen for record in items[at].records]
    text = Text.from_arrow(pa.array(texts, pa.large_string()))
    tokens = tokens_of(text)
    stream = literal_stream(tokens) if literal else prose_stream(text, tokens)
    item = np.array([at for at in chosen for _ in items[at].records], np.int32)
    question = np.array([place == 0 for at in chosen for place in range(len(items[at].records))], bool)
    starts, ends = stream.offsets[:-1], stream.offsets[1:]
    if not literal:
        half = -(-(ends - starts) // 2)
        halved = np.flatnonzero(question & (half >= SHORTEST_HALF))
        item, question = np.append(item, item[halved]), np.append(question, np.zeros(len(halved), bool))
        starts, ends = np.append(starts, starts[halved]), np.append(ends, starts[halved] + half[halved])
    long_enough = ends - starts >= SHORTEST_RECORD
    item, question, starts, ends = (column[long_enough] for column in (item, question, starts, ends))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(ends - starts)])
    rows = np.repeat(starts - offsets[:-1], ends - starts) + np.arange(offsets[-1])
    words = stream.words[rows]
    evidence = np.full(len(words), LARGEST_BITS) if literal else evidence_of(words, offsets, item)
    seeds, posting_offsets, postings = _seeds(words, offsets, item)
    return Table(
        item=item,
        question=question,
        offsets=offsets,
        words=words,
        evidence=evidence.astype(np.float32),
        seeds=seeds,
        posting_offsets=posting_offsets,
        postings=postings,
        buckets=_buckets(seeds),
        seen=_bitmap(seeds),
        short_seen=_bitmap(_heads(words, offsets)),
    )


def evidence_of(words: np.ndarray, offsets: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Bits that each word of each record proves: -log2 of its share among the words that follow its predecessor, or of
    its share among all words, whichever is the larger share; both counted in items.

    Args:
        words: uint64 [words]. offsets: int64 [records + 1]. item: int32 [records].
    """
    if not len(words):
        return np.empty(0)
    owner = np.repeat(item, np.diff(offsets)).astype(np.int64)
    names, code = np.unique(words, return_inverse=True)
    first = np.zeros(len(words), bool)
    first[offsets[:-1]] = True
    before = np.where(first, len(names), np.roll(code, 1))
    single, all_words = _items_with(code, owner)
    pair, _ = _items_with(before * (len(names) + 1) + code, owner)
    known = np.zeros(len(names))
    little = _hashes(LITTLE_WORDS)
    place = np.minimum(np.searchsorted(names, little), len(names) - 1)
    present = names[place] == little
    known[place[present]] = 0.1 / (1 + np.flatnonzero(present))
    share = np.maximum(np.maximum(single - FAMILIAR_ITEMS, 0) / all_words, known[code])
    follows = np.where(first, 0.0, np.maximum(pair - FAMILIAR_ITEMS, 0) / np.roll(single, 1))
    return -np.log2(np.clip(np.maximum(share, follows), 2.0**-LARGEST_BITS, 1.0))


def _hashes(words: str) -> np.ndarray:
    return tokens_of(Text.from_arrow(pa.array([words], pa.large_string()))).hashes


def _items_with(key: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, int]:
    """For each row the number of items that hold its key; and the sum of that over all keys."""
    _, code = np.unique(key, return_inverse=True)
    together = np.unique(code * (owner.max() + 1) + owner)
    return np.bincount(together // (owner.max() + 1))[code], len(together)


def _seeds(words: np.ndarray, offsets: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    record, position, hashes = _seeds_of_records(words, offsets, SEED_WORDS)
    order = np.argsort(hashes, kind="stable")
    hashes, record, position = hashes[order], record[order], position[order]
    seeds, first = np.unique(hashes, return_index=True)
    sizes = np.diff(np.append(first, len(hashes)))
    owner = item[record]
    new_item = np.append(True, (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1]))[: len(hashes)]
    kept = np.add.reduceat(new_item, first) <= TEMPLATE_ITEMS if len(first) else np.zeros(0, bool)
    postings = np.stack([record, position], axis=1)[np.repeat(kept, sizes)]
    return seeds[kept], np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[kept])]), postings


def _heads(words: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    short = np.flatnonzero(np.diff(offsets) < SEED_WORDS)
    rows = offsets[short][:, None] + np.arange(SHORTEST_RECORD)
    heads = np.arange(len(short) + 1) * SHORTEST_RECORD
    hashes: np.ndarray = _seeds_of_records(words[rows].ravel(), heads, SHORTEST_RECORD)[2]
    return hashes


def bitmap_shift(bitmap: np.ndarray) -> np.uint64:
    """The leading bits of a hash choose the word of the bitmap: by how many bits to shift it."""
    return np.uint64(65 - len(bitmap).bit_length())


def _buckets(seeds: np.ndarray) -> np.ndarray:
    counts = np.bincount((seeds >> np.uint64(64 - BUCKET_BITS)).astype(np.int64), minlength=1 << BUCKET_BITS)
    return np.append(0, np.cumsum(counts)).astype(np.int32)


def _bitmap(hashes: np.ndarray) -> np.ndarray:
    """16 bits for each hash, two of them set: 1 in 60 unknown hashes passes."""
    table = np.zeros(1 << max(6, int(len(hashes) // 4).bit_length()), np.uint64)
    word = hashes >> bitmap_shift(table)
    low, high = hashes & np.uint64(63), hashes >> np.uint64(6) & np.uint64(63)
    np.bitwise_or.at(table, word, np.uint64(1) << low | np.uint64(1) << high)
    return table


@kernel
def _without_numbers_and_letters(  # type: ignore[no-untyped-def]
    data, hashes, starts, ends, offsets, numbers, words, place, kept
):
    shift, count = np.uint64(52), 0
    possible = np.zeros(1 << 12, np.bool_)
    for number in numbers:
        possible[number >> shift] = True
    for document in range(len(offsets) - 1):
        for row in range(offsets[document], offsets[document + 1]):
            words[count], place[count] = hashes[row], row
            if possible[hashes[row] >> shift] and (numbers == hashes[row]).any():
                continue
            count += ends[row] - starts[row] > 1 and not 48 <= data[starts[row]] <= 57
        kept[document + 1] = count
    return count


@kernel
def _seeds_of_records(words, offsets, seed_words):  # type: ignore[no-untyped-def]
    record, position = np.empty(len(words), np.int32), np.empty(len(words), np.int32)
    hashes = np.empty(len(words), np.uint64)
    count = 0
    for number in range(len(offsets) - 1):
        start, length = offsets[number], offsets[number + 1] - offsets[number]
        size = min(length, seed_words)
        for at in range(length - size + 1):
            value = np.uint64(0)
            for word in range(size):
                value = value * BASE + words[start + at + word]
            record[count], position[count], hashes[count] = number, at, mix(value + np.uint64(size))
            count += 1
    return record[:count], position[:count], hashes[:count]
