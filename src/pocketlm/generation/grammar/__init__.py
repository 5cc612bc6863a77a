"""Constrained text: what one sequence may say next, by JSON schema, regular expression or Lark grammar (llguidance).

    grammars = Grammars(tokenizer, model.settings.vocabulary)
    constraint = grammars.json_schema(schema, max_tokens=200)
    request = Request(tokens, 200, stop_tokens=(tokenizer.turn_end, tokenizer.end_of_text), constraint=constraint)

The tokens that end an answer may come where the grammar is satisfied; other special tokens never do. A text to which
nothing can be added ends by itself. `schema.py` says how JSON schemas are narrowed, `constraint.py` how a text ends in
time.

Not covered: what a schema means beyond JSON (a free-form object may have two equal names), keywords that llguidance
does not know (refused), tokenizers that it cannot read (refused).
"""

from pocketlm.generation.grammar.grammars import Grammars

__all__ = ["Grammars"]
