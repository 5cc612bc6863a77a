"""Numbers as word problems write them, read and written exactly.

Read: digits 0-9, plain or in groups of three with commas, with or without a sign, decimal places and a dollar sign.
Written: whole numbers plain, others as decimals of at most four places.
"""

from __future__ import annotations

import re
from fractions import Fraction

LONGEST_NUMBER = 40
PLACES = 4
NUMBER = re.compile(r"(?P<sign>-?)\$?(?P<whole>0|[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]*)?(?P<places>\.[0-9]+)?")


def read_number(text: str) -> Fraction | None:
    """The value of a text that is one number and nothing else; None for any other text.

    `1,234.50`, `-$3`, `.5` are numbers; `1,23`, `007`, `1e9`, `3.`, `٣` and a text of more than 40 characters are none.
    """
    match = NUMBER.fullmatch(text) if len(text) <= LONGEST_NUMBER else None
    if match is None or not (match["whole"] or match["places"]):
        return None
    return Fraction(f"{match['sign']}{(match['whole'] or '0').replace(',', '')}{match['places'] or ''}")


def write_number(value: Fraction) -> str:
    """A whole number plain, else a decimal of at most four places, rounded half to even, without trailing zeros."""
    scaled = round(value * 10**PLACES)
    whole, places = divmod(abs(scaled), 10**PLACES)
    sign = "-" if scaled < 0 else ""
    return f"{sign}{whole}" + (f".{places:0{PLACES}d}".rstrip("0") if places else "")


def is_written_exactly(value: Fraction) -> bool:
    """Whether `write_number` loses nothing of the value."""
    return (value * 10**PLACES).denominator == 1
