"""Which of several processes this is, as torchrun tells it in the environment. Knows no torch."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

from pocketlm.errors import InputError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Rank:
    """This process: its number among `size` that train together, and among the `local_size` of them on this machine."""

    number: int = 0
    size: int = 1
    local: int = 0
    local_size: int = 1

    @classmethod
    def of_environment(cls) -> "Rank":
        """From RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE; without them this process is alone."""
        size = _number("WORLD_SIZE", 1)
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if size > 1 and missing:
            raise InputError(
                f"the environment says that {size} processes train together (WORLD_SIZE) but not {missing[0]}; start "
                "with torchrun, or unset WORLD_SIZE to run alone"
            )
        return cls(_number("RANK", 0), size, _number("LOCAL_RANK", 0), _number("LOCAL_WORLD_SIZE", size))

    def require_rows(self, stage: str, batch_rows: int) -> None:
        """InputError when a step has fewer rows than there are ranks."""
        if self.size > batch_rows:
            raise InputError(
                f"{stage}: batch_rows is {batch_rows}, but {self.size} ranks train together and each takes rows of its "
                f"own; start at most {batch_rows} (torchrun --nproc-per-node), or raise batch_rows"
            )


def on_rank_0(work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorator: rank 0 does the work, the others follow it (`distributed.py`) and end with its exit code."""

    @wraps(work)
    def on_this_rank(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        rank = Rank.of_environment()
        if rank.size == 1:
            return work(*arguments, **named)
        from pocketlm.training.distributed import follow, leading

        if rank.number > 0:
            raise SystemExit(follow())
        with leading():
            return work(*arguments, **named)

    return on_this_rank


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise InputError(f"the environment variable {name} is {text!r}; torchrun sets a number")
    return int(text)
