"""Texts on which two tokenizers that should be the same may part: scripts, digits, spaces, special tokens.

Only characters that Python knows are drawn: what a later Unicode adds is a letter or a digit to one program and nothing
to another with older tables.
"""

from __future__ import annotations

import random
import unicodedata

CURATED = (
    "The quick brown fox jumps over the lazy dog.",
    "I'm sure they've said it's what we'd do; you'll see, she's here, he'D, WE'LL, I'Ve, 'tis",
    "O\u2019Brien\u2019s and the ſ in 'ſ, K (Kelvin), İstanbul, ﬁne",
    "1 12 123 1234 12345678901234567890 3.14159 1,000,000 -7 +8 0x1F 1e-9 2^10 50% $3.50 §4 №5",
    "½ ¾ ² ³ ⁴ ₁₂ Ⅳ ⅻ ① ⑳ ٣٤٥ १२३ ๑๒๓ 一二三 〇 ㊿ 𝟙𝟚 🄀",
    "naïve café Ångström façade Straße ÆØÅ œuvre ñandú",
    "Ελληνικά, Русский язык, עברית, العربية, हिन्दी, ไทย, 한국어, 日本語テキスト、中文。",
    "e\u0301 n\u0303 a\u0308\u0323 Z͑ͫ̓a̴͓l͎g̀o",
    "🙂 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ ☃︎ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    " leading", "trailing ", "  two", "\ttab\tand\t\ttabs", "a  b   c    d     e",
    "\n", "\n\n", " \n \n ", "\r\n\r\nline\r",
    "word \n  indented\n\tmore\n\n\n  end   \n", "x\u00a0y\u2003z\u3000w\u200bv\ufeffu\u2028t\u0085s",
    "\x00\x01\x07\x1b[0m\x7f",
    "def f(x: int) -> int:\n    return x**2 if x > 0 else -x  # comment\n\n\nclass A(B):\n\tpass\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 2.5f; } /* ok */",
    "https://example.org/path?q=1&r=%20#frag user.name+tag@mail.example",
    "<|im_start|>user\nHello<|im_end|>\n<|endoftext|>", "<|im_start|", "<|im_end|><|im_end|>",
    "<|IM_END|>", "< |im_end| >",
    "...!!!???---***___===~~~``` \"quoted\" 'single' (par) [br] {cu} <an> a/b\\c|d",
    "snake_case camelCase PascalCase kebab-case SCREAMING_CASE v1.2.3-rc4",
    "\\frac{a}{b} = \\sqrt{x^2 + y^2} \\quad \\forall \\epsilon > 0",
    "|a|b|\n|---|---:|\n| 1 | 2 |\n", "\u202eright to left\u202c", "ﷺ ﷽ ℡ ™ © ® ℃",
    "\ue000\uf8ff\U000f0000", "\ufffd\ufffe",
    "Ⱥ ⱥ Ꞁ ꞁ Ɐ ꟸ 𐐀𐐨 𞤀𞤢 𑢠", "𗀀 𛀀 🜀 𠀀 𪜀 𰀀 𲎰",
)  # fmt: skip
RANGES = (
    (0x20, 0x7F), (0x09, 0x0E), (0xA0, 0x180), (0x370, 0x500), (0x5D0, 0x700), (0x900, 0xE80), (0x1E00, 0x2100),
    (0x2100, 0x2C00), (0x3000, 0x3100), (0x4E00, 0x5200), (0xAC00, 0xB000), (0xFB00, 0xFDD0), (0xFDF0, 0xFFFE),
    (0x10000, 0x11000),
    (0x1F300, 0x1FB00),
)  # fmt: skip

UNASSIGNED = "Cn"


def texts(prose: str, count: int, seed: int = 0) -> list[str]:
    """The curated texts, pieces of `prose`, and random characters of mixed scripts and spaces; `count` in all."""
    generator = random.Random(seed)
    found = list(CURATED)
    while len(found) < count:
        if len(found) % 3:
            start = generator.randrange(max(1, len(prose) - 400))
            found.append(prose[start : start + generator.randrange(1, 400)])
            continue
        ranges = generator.sample(RANGES, generator.randrange(1, 4))
        drawn = [chr(generator.randrange(*generator.choice(ranges))) for _ in range(generator.randrange(1, 60))]
        characters = [character for character in drawn if unicodedata.category(character) != UNASSIGNED]
        spaced = (character + generator.choice(["", "", "", " ", "\n", "  "]) for character in characters)
        found.append("".join(spaced))
    return found[:count]
