"""Looking through a pickle without obeying it, before ``torch.load(weights_only=True)`` may.

That function runs no code, but it believes a file about memory, and small files can unfold without end: a list of a
list of a list, each twice in the next, takes 2^n steps to print or to look up.
"""

import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from esrgan.errors import EsrganError

SAFE = re.compile(
    r"collections (OrderedDict|Counter)|(builtins|__builtin__) (set|complex)|torch\.nn\.parameter Parameter"
    r"|torch (Size|device|float\w*|bfloat16)|torch(\.cuda)? \w+Storage"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
)
"""What a pickle of weights and of a training's state refers to. ``weights_only`` allows more, for instance
``bytearray`` and ``torch.storage.UntypedStorage``, which take any amount of memory that the file asks for."""
MOST_INSTRUCTIONS = 2**19
LARGEST = 2**24  # characters to print all that they describe
EXTENDING = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}


@dataclass(slots=True)
class _Thing:
    """What an instruction makes: how long it would be in print, and whether something else refers to it."""

    size: int
    shared: bool = False


MARK = _Thing(0)


def look_through(file: Any, path: Path) -> None:
    """Follow one pickle's instructions; leaves ``file`` behind it.

    Raises:
        EsrganError: It names something that weights do not need, or unfolds to more than any model file.
        Exception: Whatever ``pickletools`` raises for what is no pickle.
    """
    stream: BinaryIO = file
    texts: list[str] = []
    stack: list[_Thing] = []
    memo: dict[int, _Thing] = {}
    for count, (operation, value, _) in enumerate(pickletools.genops(stream)):
        if operation.name == "STACK_GLOBAL":
            value = " ".join(texts[-2:])  # noqa: PLW2901 - the same thing as GLOBAL's, named by the two texts before
        elif isinstance(value, str) and operation.name != "GLOBAL":
            texts = [*texts[-1:], value]
        if operation.name in ("GLOBAL", "STACK_GLOBAL", "INST") and not SAFE.fullmatch(str(value)):
            wanted = str(value).replace(" ", ".")
            raise EsrganError(
                f"{path} is a pickle that asks for {wanted!r}, which weights do not need: refused, and nothing in it "
                "was run; ask its author for a .safetensors file, or for one with the weights alone"
            )
        _follow(operation, value, stack, memo)
        if count > MOST_INSTRUCTIONS or (stack and stack[-1].size > LARGEST):
            raise EsrganError(f"{path} is a pickle that unfolds to more than any model file; it is malicious: refused")


def _follow(operation: pickletools.OpcodeInfo, value: Any, stack: list[_Thing], memo: dict[int, _Thing]) -> None:
    """Do to the sizes on ``stack`` what the instruction would do to the things."""
    name = operation.name
    if "PUT" in name or name == "MEMOIZE":
        memo[len(memo) if value is None else value] = stack[-1]
    elif "GET" in name:
        memo[value].shared = True
        stack.append(memo[value])
    elif name == "MARK":
        stack.append(MARK)
    else:
        taken = _take(operation, stack)
        size = sum(thing.size for thing in taken)
        if name in EXTENDING:
            if taken[0].shared:
                raise ValueError("a thing that contains itself")
            taken[0].size = size
            stack.append(taken[0])
        else:
            size += 1 + (len(value) if isinstance(value, str | bytes) else 0)
            stack += [_Thing(size) for _ in operation.stack_after]


def _take(operation: pickletools.OpcodeInfo, stack: list[_Thing]) -> list[_Thing]:
    count = len(operation.stack_before)
    if pickletools.markobject in operation.stack_before:
        place = next((i for i in reversed(range(len(stack))) if stack[i] is MARK), -1)
        count = len(stack) - place + operation.stack_before.index(pickletools.markobject)
    if count > len(stack):
        raise ValueError("instructions that take from an empty stack")
    taken = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return taken
