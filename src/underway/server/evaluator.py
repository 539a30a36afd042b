"""The process in which expensive expressions are evaluated: frames on stdin, answers on stdout.

A frame is its length (4 bytes, big-endian) and MessagePack; see ``api.cel.program.Postponed`` for
the question and ``Outcome`` for the answer. It ends when its input does.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import BinaryIO

import msgspec

from underway.api.cel.program import evaluate_payload

_LENGTH_BYTES = 4


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no more questions."""
    while len(head := questions.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
        outcome = evaluate_payload(questions.read(int.from_bytes(head, "big")))
        data = msgspec.msgpack.encode(dataclasses.asdict(outcome))
        answers.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
