"""What L20-Edu's policy gradients paid beside 1.0 for the exact answer, for the setting `reward.function`.

.2 for any number, .1 for 8 to 220 words, less a penalty for repetition. Its paper does not say how large: here .2 times
the share of four-word runs that stood in the text before.
"""


def reward(prompt: str, completion: str, row: dict) -> float:
    """-.2 to .3."""
    words = completion.split()
    number = 0.2 * any(character.isdigit() for character in completion)
    length = 0.1 * (8 <= len(words) <= 220)
    runs = [tuple(words[at : at + 4]) for at in range(len(words) - 3)]
    repeated = 1 - len(set(runs)) / len(runs) if runs else 0.0
    return number + length - 0.2 * repeated
