"""The closed lists of the system-message task: easy questions, words, roles, sentences."""

from __future__ import annotations

from collections.abc import Mapping

QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What colour is grass?", ("green",)),
    ("What colour is snow?", ("white",)),
    ("What colour is the sky on a clear day?", ("blue",)),
    ("What colour is a ripe banana?", ("yellow",)),
    ("What do bees make?", ("honey",)),
    ("What do cows give us to drink?", ("milk",)),
    ("Which animal says meow?", ("cat",)),
    ("Which animal says moo?", ("cow",)),
    ("Which animal barks?", ("dog",)),
    ("How many legs does a dog have?", ("four", "4")),
    ("How many days are in a week?", ("seven", "7")),
    ("How many wheels does a bicycle have?", ("two", "2")),
    ("What is the opposite of hot?", ("cold",)),
    ("What is the opposite of up?", ("down",)),
    ("What is the opposite of black?", ("white",)),
    ("What is the opposite of day?", ("night",)),
    ("What is the capital of France?", ("Paris",)),
    ("What is the capital of Italy?", ("Rome",)),
    ("What is the capital of Japan?", ("Tokyo",)),
    ("What day comes after Monday?", ("Tuesday",)),
    ("What month comes after May?", ("June",)),
    ("What is frozen water called?", ("ice",)),
    ("What is a young dog called?", ("puppy", "pup")),
    ("What do we read with?", ("eyes", "eye")),
)
"""Question -> accepted words."""

CLOSING_WORDS = (
    "banana",
    "amen",
    "finished",
    "lemon",
    "kangaroo",
    "thanks",
    "teapot",
    "over",
    "pepper",
    "button",
    "velvet",
    "marble",
)
OPENING_WORDS = (
    "certainly",
    "captain",
    "listen",
    "bravo",
    "well",
    "attention",
    "dear",
    "pumpkin",
    "sunshine",
    "friend",
    "indeed",
    "behold",
)

SPOKEN_WORDS = (
    *(
        "stone",
        "cloud",
        "spoon",
        "tiger",
        "window",
        "pencil",
        "rocket",
        "garden",
        "carpet",
        "lemon",
        "violin",
        "basket",
    ),
    *("mirror", "pillow", "candle", "hammer", "ladder", "button", "turtle", "island"),
)

LETTER_WORDS = (
    *("tree", "moon", "bee", "cat", "dog", "fish", "sun", "milk", "ship", "house", "stone", "apple", "bird", "wolf"),
    *("king", "cup", "hand", "grass", "clock", "rain", "snow", "river", "lamp", "nest", "desk"),
)
LETTERS = ("e", "a", "o", "i")

TOPICS: tuple[tuple[str, str], ...] = (
    ("the sea", "The sea is deep."),
    ("dogs", "Dogs like to run."),
    ("bread", "Bread is good food."),
    ("the moon", "The moon shines."),
    ("horses", "Horses eat grass."),
    ("winter", "Winter is cold."),
    ("trees", "Trees give shade."),
    ("music", "Music is art."),
    ("milk", "Milk is white."),
    ("rain", "Rain is water."),
    ("birds", "Birds can fly."),
    ("bicycles", "Bicycles have wheels."),
)
"""Topic -> a sentence of at most four words about it."""

ROLES: tuple[tuple[str, str, str], ...] = (
    ("Nora", "baker", "Lisbon"),
    ("Hugo", "gardener", "Vienna"),
    ("Clara", "pilot", "Oslo"),
    ("Felix", "teacher", "Dublin"),
    ("Marta", "farmer", "Athens"),
    ("Oscar", "painter", "Prague"),
    ("Greta", "doctor", "Warsaw"),
    ("Simon", "fisherman", "Lima"),
    ("Paula", "carpenter", "Quito"),
    ("Victor", "sailor", "Havana"),
    ("Emma", "librarian", "Cairo"),
    ("Bruno", "tailor", "Seoul"),
)
"""Name, work and town of somebody made up."""
ROLE_QUESTIONS = ("What is your name?", "What work do you do?", "Which town do you come from?")

SENTENCES: Mapping[str, tuple[str, ...]] = {
    "French": (
        "La capitale de la France est Paris.",
        "La capitale de l'Allemagne est Berlin.",
        "La capitale de l'Espagne est Madrid.",
        "La capitale de l'Italie est Rome.",
        "La capitale de l'Autriche est Vienne.",
        "La capitale de la Norvège est Oslo.",
    ),
    "German": (
        "Die Hauptstadt von Frankreich ist Paris.",
        "Die Hauptstadt von Deutschland ist Berlin.",
        "Die Hauptstadt von Spanien ist Madrid.",
        "Die Hauptstadt von Italien ist Rom.",
        "Die Hauptstadt von Österreich ist Wien.",
        "Die Hauptstadt von Norwegen ist Oslo.",
    ),
    "Spanish": (
        "La capital de Francia es París.",
        "La capital de Alemania es Berlín.",
        "La capital de España es Madrid.",
        "La capital de Italia es Roma.",
        "La capital de Austria es Viena.",
        "La capital de Noruega es Oslo.",
    ),
}
COUNTRIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("France", ("Paris",)),
    ("Germany", ("Berlin",)),
    ("Spain", ("Madrid",)),
    ("Italy", ("Rome", "Rom", "Roma")),
    ("Austria", ("Vienna", "Wien", "Vienne", "Viena")),
    ("Norway", ("Oslo",)),
)
"""In the order of `SENTENCES`; the capital is accepted in each of the languages."""
