"""The terms of the report in plain words. A page shows those that occur on it."""

from __future__ import annotations

import re

TERMS = {
    "95 % interval": "The range that would hold the true value in 95 of 100 repetitions of the measurement with other "
    "items of the same kind. Two figures whose intervals overlap widely cannot be told apart.",
    "advantage": "How much better a sampled answer scored than the average of its group; training makes answers with "
    "a positive advantage more likely.",
    "avg@k": "The share of right answers when each problem is answered k times by chance, not once by the most likely "
    "words. It varies less from run to run than the score of single answers.",
    "bits per byte": "How many bits the model needs, on average, to encode one byte of text that it has never seen: "
    "the model's loss in units that do not depend on its tokenizer. Lower is better; plain text is 8.",
    "cloze": "A test in which the model must find the word that was left out, here the last one.",
    "contamination": "Training text that repeats the questions of a test. It makes scores look better than they are, "
    "so it is searched for and removed.",
    "continued SFT": "A control for reinforcement learning: the same model trained further on the same solved "
    "problems. Learning from rewards has shown something only if it does better than this.",
    "curriculum": "Problems in order: easy ones first, harder ones as training goes on.",
    "digest": "A checksum (SHA-256) over the files that a stage produced. Equal digests mean equal bytes.",
    "distillation": "A model learns from another one, its teacher: from its answers, or from how likely it finds each "
    "possible word.",
    "DPO": "Direct preference optimisation: the model learns from pairs of a better and a worse answer to raise the "
    "one and lower the other, held to where it started. ORPO and KTO are relatives of it.",
    "exact match": "The share of problems whose answer is right to the last character.",
    "fingerprint": "A checksum over a stage's settings and inputs. It decides whether work can be reused.",
    "forgetting": "What a model has lost of what it could do before it was trained on something else.",
    "held-out": "Kept away from training, so that a score on it says something about new text.",
    "Holm's correction": "Of many comparisons some look clear by chance. Each p-value is raised so that a false claim "
    "anywhere among them is made at most once in 20 such tables.",
    "horizon": "How many steps of a task at least half of the answers get right before their first mistake.",
    "interpolation": "A model whose weights lie between those of two others.",
    "KL": "Kullback-Leibler divergence: how far the probabilities of one model lie from those of another; 0 means that "
    "they are equal.",
    "ledger": "The file in which a run notes everything that it did, one line an event. Every line holds the hash of "
    "the line before it, so that none can be changed, removed or added unseen.",
    "live group": "A prompt whose sampled answers are neither all right nor all wrong. Only live groups teach "
    "anything, because only they show a difference.",
    "margin": "How much more training has raised the better answer of a pair than the worse one. Above zero, the pair "
    "is ranked rightly.",
    "mean of levels": "The average of the scores of an exercise's levels, so that each level counts alike however many "
    "problems it has.",
    "merging": "Making one model of the weights of several that come from the same start, without training.",
    "n-gram": "A baseline that predicts the next byte from the few before it by counting. A neural model that does "
    "not beat it has learned little.",
    "near-duplicate": "A document that is almost, but not exactly, the same as another; found by MinHash and checked.",
    "NOASSERTION": "The word of SPDX (the list of licence names) for: no licence is stated. It does not mean that the "
    "text is free.",
    "paired": "Two models compared item by item on the same items, which tells smaller differences from chance.",
    "pass@k": "The chance that at least one of k sampled answers is right. It shows what the model can reach at all, "
    "while the score of one answer shows what it does reliably.",
    "preference pair": "Two answers to the same question, one better than the other.",
    "pretraining": "Learning to predict the next token of plain text.",
    "rejection sampling": "Answer many times, keep the right answers, train on those as on solved problems; once, as a "
    "control for reinforcement learning, or in rounds. It moves a model that is seldom right.",
    "RLVR": "Reinforcement learning from verifiable rewards: the model tries, a program checks the answer, and what "
    "was right becomes more likely.",
    "seal": "The hash of the last line of the ledger, which holds the digests of everything that the run made. Whoever "
    "knows it can tell whether anything was changed since.",
    "selection split": "Data used to choose between candidates. It is never the data on which the chosen one is "
    "reported, since a winner looks better where it won.",
    "SFT": "Supervised fine-tuning: learning from examples of questions with good answers.",
    "teacher": "The model that another one learns from.",
    "token": "The unit that the model reads and writes: a piece of a word, found by the tokenizer.",
    "update-to-weight ratio": "How far one training step moves the weights relative to their size. Around 0.001 is "
    "usual; close to zero means that nothing is learned.",
    "WSD": "A learning-rate schedule: warm-up, stable, decay.",
}

_OTHER_SPELLINGS = {
    "avg@k": ("avg@",),
    "continued SFT": ("continued_sft",),
    "distillation": ("distil",),
    "exact match": ("exact_match",),
    "bits per byte": ("bits_per_byte",),
    "forgetting": ("forget",),
    "held-out": ("heldout", "held_out", "held out"),
    "interpolation": ("interpolat",),
    "live group": ("live_group", "live-group"),
    "merging": ("merge",),
    "n-gram": ("ngram", "trigram", "6-gram"),
    "near-duplicate": ("near_duplicate", "near duplicate"),
    "pass@k": ("pass@", "pass_at"),
    "preference pair": ("preference",),
    "pretraining": ("pretrain",),
    "rejection sampling": ("rejection_sampling",),
    "selection split": ("selection",),
    "update-to-weight ratio": ("update_to_weight", "update-to-weight"),
}


def terms_in(text: str) -> dict[str, str]:
    """The terms that occur in `text`, in alphabetical order."""
    lowered = text.lower()
    return {
        term: meaning
        for term, meaning in TERMS.items()
        if any(_occurs(form, lowered) for form in (term, *_OTHER_SPELLINGS.get(term, ())))
    }


def _occurs(form: str, lowered: str) -> bool:
    """Whether a word begins with `form`, or is it where that is an abbreviation: no "endpoint" is DPO."""
    end = "(?![a-z])" if form.isupper() else ""
    return re.search(rf"(?<![a-z]){re.escape(form.lower())}{end}", lowered) is not None
