"""Text generation and chat: what the model is given, what is left out, and that it is said."""

from __future__ import annotations

import pytest
import torch

from pocketlm.data.tokens.chat import encode_chat
from pocketlm.data.tokens.tokenizer import Tokenizer, train_tokenizer
from pocketlm.errors import InputError
from pocketlm.generation.engine import Engine, Request
from pocketlm.generation.text import ChatSession, generate_text
from pocketlm.model.config import ModelSettings
from pocketlm.model.transformer import Transformer
from pocketlm.pipeline.seeds import derive_seed

CONTEXT = 80


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer(["user assistant hello there again and again"], 270))


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.set_num_threads(1)
    shape = ModelSettings(
        vocabulary=270, width=32, layers=2, heads=2, kv_heads=2, head_dim=16, ffn_width=48, context=CONTEXT
    )
    made = Transformer(shape)
    made.init_weights(0)
    return made.requires_grad_(False)


def test_a_text_is_continued_from_the_start_of_a_document(model: Transformer, tokenizer: Tokenizer) -> None:
    text = generate_text(model, tokenizer, "hello é", max_tokens=9, seed=4, temperature=0.7, top_p=0.5)
    assert text.startswith("hello é")
    tokens = [tokenizer.end_of_text, *tokenizer.encode("hello é")]
    request = Request(tokens, 9, 0.7, 4, stop_tokens=(tokenizer.end_of_text,), top_p=0.5)
    assert text == tokenizer.decode([*tokens, *Engine(model).generate([request])[0][0].tokens])
    assert text == generate_text(model, tokenizer, "hello é", 9, 4, 0.7, 0.5)
    assert text != generate_text(model, tokenizer, "hello é", 9, 5, 0.7, 0.5)
    assert text != generate_text(model, tokenizer, "hello é", 9, 4, 0.7)
    assert generate_text(model, tokenizer, "", 5, 0, 1.0)


def test_a_chat_gives_the_model_the_whole_conversation(model: Transformer, tokenizer: Tokenizer) -> None:
    session = ChatSession(model, tokenizer, temperature=0.9, seed=3, max_tokens=6, top_p=0.6)
    first = session.reply("hello")
    second = session.reply("again")
    assert [message["role"] for message in session.messages] == ["user", "assistant"] * 2
    tokens, _ = encode_chat(tokenizer, session.messages[:3], add_generation_prompt=True)
    stop = (tokenizer.im_end, tokenizer.end_of_text)
    request = Request(tokens, 6, 0.9, derive_seed(3, "chat", 3), stop_tokens=stop, top_p=0.6)
    expected = Engine(model).generate([request])[0][0]
    assert second == tokenizer.decode(expected.tokens)
    again = ChatSession(model, tokenizer, temperature=0.9, seed=3, max_tokens=6, top_p=0.6)
    assert [again.reply("hello"), again.reply("again")] == [first, second]


def test_old_turns_are_left_out_and_it_is_said(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    generate = Engine.generate

    def spy(self: Engine, requests: list[Request]) -> object:
        given.append(len(requests[0].tokens))
        return generate(self, requests)

    monkeypatch.setattr(Engine, "generate", spy)
    session = ChatSession(model, tokenizer, max_tokens=8)
    notices = []
    for _ in range(6):
        session.reply("hello there")
        notices.append(session.notice)
    assert len(session.messages) == 12
    assert max(given) <= CONTEXT - 8
    assert "left out" not in notices[0]
    assert f"oldest 2 messages no longer fit the context of {CONTEXT} tokens" in "; ".join(notices)


def test_a_cut_answer_is_said(model: Transformer, tokenizer: Tokenizer) -> None:
    session = ChatSession(model, tokenizer, max_tokens=1)
    session.reply("hello")
    assert session.notice == "the answer was cut after 1 tokens"


def test_a_message_beyond_the_context_is_refused_and_forgotten(model: Transformer, tokenizer: Tokenizer) -> None:
    session = ChatSession(model, tokenizer, max_tokens=8)
    with pytest.raises(InputError, match=r"takes .* tokens, but 72 is the most"):
        session.reply("hello there " * 40)
    assert session.messages == []
    session.reply("hello")
    assert len(session.messages) == 2
