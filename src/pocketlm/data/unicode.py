"""Text that UTF-8 cannot hold: halves of surrogate pairs, which JSON and Python let through."""

import re

HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def half_a_pair(text: str) -> str:
    """What is wrong with a text that UTF-8 cannot hold; empty for all others."""
    found = HALF_A_PAIR.search(text)
    if found is None:
        return ""
    return (
        f"its character {found.start() + 1} is U+{ord(found.group()):04X}, half of a surrogate pair, which is no text"
    )
