"""Numbers of other rooms that memory and disk depend on, without importing torch. A test holds them equal."""

FLOAT = 4
"""Bytes of a number: masters, optimizer state, key-value cache and logits that are kept are fp32."""
KEPT_CHECKPOINTS = 2  # training/checkpoint.py: KEPT
HEAD_CHUNK = {"cpu": 1 << 21, "cuda": 1 << 28}  # model/loss.py: logits of one chunk
SHELF = 64  # generation/engine.py: prompts prefilled together
EVALUATION_TOKENS = {"cpu": 512, "cuda": 8192}  # evaluation/scoring.py: TOKENS_PER_PASS
EVALUATION_HEAD_ROWS = 64  # evaluation/scoring.py: HEAD_ROWS
EVALUATION_CACHE = {"cpu": 2 << 30, "cuda": 16 << 30}  # generation/engine.py: CACHE_BYTES
PROMPT_TOKENS = 64
"""Tokens of a prompt that plans assume for answers to problems: nobody knows them before the tokenizer is made."""
