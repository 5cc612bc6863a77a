"""The words of the short instructions: common, short, lower-case, each in exactly one group."""

from __future__ import annotations

from collections.abc import Mapping

WORDS: Mapping[str, tuple[str, ...]] = {
    "animal": (
        *("ant", "bat", "bear", "bee", "bird", "cat", "cow", "crab", "deer", "dog", "duck", "eagle"),
        *("fox", "frog", "goat", "hen", "horse", "lion", "mouse", "owl", "pig", "sheep", "tiger", "wolf"),
    ),
    "colour": ("black", "blue", "brown", "gold", "green", "grey", "pink", "purple", "red", "silver", "white", "yellow"),
    "food": (
        *("apple", "bean", "bread", "butter", "cake", "cheese", "corn", "egg", "grape", "honey", "jam", "lemon"),
        *("melon", "milk", "nut", "onion", "pear", "pie", "plum", "potato", "rice", "salt", "soup", "sugar"),
    ),
    "thing": (
        *("bag", "ball", "bed", "bell", "boat", "book", "bottle", "box", "car", "chair", "clock", "coat"),
        *("cup", "door", "drum", "hat", "house", "key", "lamp", "paper", "pen", "ring", "table", "window"),
    ),
}

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
