"""The terms of the report in plain words. A page shows those that occur on it."""

from __future__ import annotations

TERMS = {
    "95 % interval": "The range that would hold the true value in 95 of 100 repetitions of the measurement with other "
    "items of the same kind. Two figures whose intervals overlap widely cannot be told apart.",
    "advantage": "How much better a sampled answer scored than the average of its group; training makes answers with "
    "a positive advantage more likely.",
    "bits per byte": "How many bits the model needs, on average, to encode one byte of text that it has never seen: "
    "the model's loss in units that do not depend on its tokenizer. Lower is better; plain text is 8.",
    "cloze": "A test in which the model must find the word that was left out, here the last one.",
    "contamination": "Training text that repeats the questions of a test. It makes scores look better than they are, "
    "so it is searched for and removed.",
    "continued SFT": "A control for reinforcement learning: the same model trained further on the same solved "
    "problems. Learning from rewards has shown something only if it does better than this.",
    "digest": "A checksum (SHA-256) over the files that a stage produced. Equal digests mean equal bytes.",
    "exact match": "The share of problems whose answer is right to the last character.",
    "fingerprint": "A checksum over a stage's settings and inputs. It decides whether work can be reused.",
    "held-out": "Kept away from training, so that a score on it says something about new text.",
    "interpolation": "A model whose weights lie between those of two others.",
    "live group": "A prompt whose sampled answers are neither all right nor all wrong. Only live groups teach "
    "anything, because only they show a difference.",
    "NOASSERTION": "The word of SPDX (the list of licence names) for: no licence is stated. It does not mean that the "
    "text is free.",
    "n-gram": "A baseline that predicts the next byte from the few before it by counting. A neural model that does "
    "not beat it has learned little.",
    "near-duplicate": "A document that is almost, but not exactly, the same as another; found by MinHash and checked.",
    "paired": "Two models compared item by item on the same items, which tells smaller differences from chance.",
    "pass@k": "The chance that at least one of k sampled answers is right. It shows what the model can reach at all, "
    "while the score of one answer shows what it does reliably.",
    "pretraining": "Learning to predict the next token of plain text.",
    "rejection sampling": "A control for reinforcement learning: answer many times, keep the right answers, train on "
    "those as on solved problems.",
    "RLVR": "Reinforcement learning from verifiable rewards: the model tries, a program checks the answer, and what "
    "was right becomes more likely.",
    "selection split": "Data used to choose between candidates. It is never the data on which the chosen one is "
    "reported, since a winner looks better where it won.",
    "SFT": "Supervised fine-tuning: learning from examples of questions with good answers.",
    "token": "The unit that the model reads and writes: a piece of a word, found by the tokenizer.",
    "update-to-weight ratio": "How far one training step moves the weights relative to their size. Around 0.001 is "
    "usual; close to zero means that nothing is learned.",
    "WSD": "A learning-rate schedule: warm-up, stable, decay.",
}

_OTHER_SPELLINGS = {
    "advantage": ("advantages",),
    "continued SFT": ("continued_sft",),
    "exact match": ("exact_match",),
    "bits per byte": ("bits_per_byte",),
    "held-out": ("heldout", "held out"),
    "interpolation": ("interpolat",),
    "live group": ("live_group", "live-group"),
    "n-gram": ("ngram", "trigram", "6-gram"),
    "near-duplicate": ("near_duplicate", "near duplicate"),
    "pass@k": ("pass@", "pass_at"),
    "pretraining": ("pretrain",),
    "rejection sampling": ("rejection_sampling",),
    "selection split": ("selection",),
    "update-to-weight ratio": ("update_to_weight", "update-to-weight"),
}


def terms_in(text: str) -> dict[str, str]:
    """The terms that occur in `text`, in alphabetical order."""
    lowered = text.lower()
    spellings = {term: (term, *_OTHER_SPELLINGS.get(term, ())) for term in TERMS}
    return {term: TERMS[term] for term in TERMS if any(form.lower() in lowered for form in spellings[term])}
