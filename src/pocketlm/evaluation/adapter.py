"""Our models as lm-evaluation-harness sees them: `lm_eval.api.model.LM` over Transformer, Tokenizer and Engine.

Context and continuation are split, cut and windowed by the harness's own code (`TemplateLM`, `lm_eval.utils`), so that
scores mean what they mean for its Hugging Face model, item by item. As there, a text that spells a special token
means that token: prompts arrive rendered, with the chat form's markers in them. The requests of one item (of one task
and document) are scored together and share what they have in common.

Not covered: sampling (a task that asks for it is refused), few-shot system prompts, images.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from pocketlm.data.tokens.chat import CHAT_TEMPLATE, render
from pocketlm.data.tokens.tokenizer import IM_END, SPECIAL_TOKENS
from pocketlm.errors import InputError
from pocketlm.evaluation.scoring import Continuation, score
from pocketlm.generation.engine import Engine, Request

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from pocketlm.data.tokens.tokenizer import Tokenizer
    from pocketlm.model.transformer import Transformer

DEFAULT_NEW_TOKENS = 256
"""Most new tokens of a task that does not say; the harness's default for Hugging Face models."""


class PocketLM(TemplateLM):
    """A model to score.

    Args:
        model: fp32 transformer.
        tokenizer: the tokenizer that it was trained with.
        name: identifies model and tokenizer in the harness's records.
        tokens_per_pass: see `scoring.score`.
        progress: called with the number of items (or the part of one) of each finished pass.

    Attributes:
        truncated: task -> requests whose context did not fit into the model's and was cut from the left, so far; tasks
            without one are not in it. A rolling log-likelihood is read in windows and never cut.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        name: str = "pocketlm",
        tokens_per_pass: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__()
        self._model, self._own_tokenizer, self._name = model, tokenizer, name
        self._engine = Engine(model, decode=tokenizer.decode)
        self._tokens_per_pass, self._progress = tokens_per_pass, progress
        self.truncated: Counter[str] = Counter()
        self._special_ids = dict(
            zip(SPECIAL_TOKENS, (tokenizer.end_of_text, tokenizer.im_start, tokenizer.im_end), strict=True)
        )
        if tokenizer.chat_template is not None:
            self._special_ids |= tokenizer.chat_template.special_tokens
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)))

    @property
    def eot_token_id(self) -> int:
        return self._own_tokenizer.turn_end

    @property
    def prefix_token_id(self) -> int:
        """What stands before the first token of a text: the document border, as in training."""
        return self._own_tokenizer.end_of_text

    @property
    def max_length(self) -> int:
        return self._model.settings.context

    @property
    def tokenizer_name(self) -> str:
        return self._name

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        if not chat_template:
            return None
        own = self._own_tokenizer.chat_template
        return CHAT_TEMPLATE if own is None else own.source

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text; without a generation prompt the last turn is left open, to be continued."""
        if (own := self._own_tokenizer.chat_template) is not None:
            return own.render(chat_history, True) if add_generation_prompt else own.render_open(chat_history)
        text = render(chat_history, add_generation_prompt=add_generation_prompt)
        return text if add_generation_prompt else text.removesuffix(f"{IM_END}\n")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; special tokens that the text spells become their ids (none is added)."""
        ids: list[int] = []
        start = 0
        for match in self._special.finditer(string):
            ids += [*self._own_tokenizer.encode(string[start : match.start()]), self._special_ids[match.group()]]
            start = match.end()
        return ids + self._own_tokenizer.encode(string[start:])

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        pairs: list[tuple[tuple[str, str], list[int], list[int]]] = []
        items: list[Hashable] = []
        for number, request in enumerate(requests):
            context, continuation = request.args
            context_ids, target_ids = self._context_and_targets(context, continuation)
            if not target_ids:
                raise InputError(
                    f"task {request.task_name}, document {request.doc_id}: a choice has no text to score; every choice "
                    "needs at least one character"
                )
            self._note_cut(request, len(context_ids) + len(target_ids) > self.max_length + 1)
            pairs.append(((context, continuation), context_ids, target_ids))
            items.append(number if request.doc_id is None else (request.task_name, request.doc_id))
        return self._loglikelihood_tokens(pairs, items)

    def _context_and_targets(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Split as the harness does; before an empty context stands what opens a text."""
        if context:
            context_ids, target_ids = self._encode_pair(context, continuation)
            return context_ids, target_ids
        ids = self.tok_encode(continuation)
        opening = self._own_tokenizer.text_start
        return (ids[:1], ids[1:]) if ids[:1] == [opening] else ([opening], ids)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        items: Sequence[Hashable] | None = None,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        continuations = [Continuation(context, targets) for _, context, targets in requests]
        share = 1.0 if items is None else len(set(items)) / max(1, len(requests))
        scores = score(self._model, continuations, items, self._tokens_per_pass, lambda n: self._advance(n * share))
        return [(item.log_likelihood, item.greedy) for item in scores]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        owners: list[int] = []
        windows: list[Continuation] = []
        for index, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1):
                owners.append(index)
                windows.append(Continuation(*make_disjoint_window(window)))
        share = len(requests) / max(1, len(windows))
        scores = score(self._model, windows, None, self._tokens_per_pass, lambda count: self._advance(count * share))
        totals = [0.0] * len(requests)
        for index, item in zip(owners, scores, strict=True):
            totals[index] += item.log_likelihood
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuations, cut before the first stop string; end-of-turn and end-of-text always stop."""
        orders, stops = [], []
        for request in requests:
            context, options = request.args
            until, new_tokens = self._stopping(request.task_name, options)
            room = self.max_length - new_tokens
            prompt = self.tok_encode(context)
            self._note_cut(request, len(prompt) > room)
            orders.append(
                Request(
                    prompt[-room:],
                    new_tokens,
                    stop_tokens=self._stop_tokens(until),
                    stop_strings=tuple(text for text in until if text),
                )
            )
            stops.append(until)
        texts = []
        for until, (completion,) in zip(stops, self._engine.generate(orders), strict=True):
            text = self._own_tokenizer.decode(completion.tokens) if completion.text is None else completion.text
            texts.append(postprocess_generated_text(text, until, None))
        self._advance(len(requests))
        return texts

    def _note_cut(self, request: Instance, cut: bool) -> None:
        if cut:
            self.truncated[str(request.task_name)] += 1

    def require_possible(self, task: str, options: dict[str, Any]) -> None:
        """InputError where a task's answers cannot be generated as it wants: sampling, or no room in the context."""
        self._stopping(task, options)

    def _advance(self, items: float) -> None:
        if self._progress is not None:
            self._progress(items)

    def _stopping(self, task: str | None, options: dict[str, Any]) -> tuple[list[str], int]:
        """Stop strings and the most new tokens of a request; refuses what greedy decoding cannot honour."""
        normal = dict(normalize_gen_kwargs(options, DEFAULT_NEW_TOKENS))
        until = handle_stop_sequences(normal.pop("until"), eos=IM_END)
        new_tokens = int(normal.pop("max_gen_toks"))
        if normal.pop("do_sample", False) or normal.pop("temperature", 0.0):
            raise InputError(f"task {task}: asks for sampling; only greedy generation is scored (do_sample: false)")
        if normal:
            raise InputError(f"task {task}: generation_kwargs has {', '.join(normal)}, which has no meaning here")
        if not 0 < new_tokens < self.max_length:
            raise InputError(
                f"task {task}: max_gen_toks is {new_tokens}, but the model's context is {self.max_length} tokens: "
                f"ask for 1 to {self.max_length - 1}"
            )
        return until, new_tokens

    def _stop_tokens(self, until: list[str]) -> tuple[int, ...]:
        """Ids that end a text for sure: end of turn, end of text, and stop strings that are one token."""
        encoded = [self.tok_encode(text) for text in until if text]
        single = {ids[0] for ids in encoded if len(ids) == 1}
        return tuple(sorted(single | {self._own_tokenizer.end_of_text, self._own_tokenizer.turn_end}))
