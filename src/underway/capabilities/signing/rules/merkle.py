"""The Merkle tree of an append-only log: roots, proofs, and checking them.

Source: RFC 6962 sections 2.1, 2.1.1 and 2.1.2; checking as in RFC 9162 sections 2.1.3.2, 2.1.4.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from underway.capabilities.signing.model import Unverified

Node = Callable[[int, int], bytes]
"""``(level, index)`` -> hash of the full subtree of ``2**level`` leaves from ``index << level``."""

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of an entry."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def completed(index: int) -> int:
    """How many subtrees above it a new leaf at ``index`` makes full."""
    return ((index + 1) & -(index + 1)).bit_length() - 1


def root(size: int, node: Node) -> bytes:
    """The root over the first ``size`` leaves."""
    return _span(0, size, node) if size else EMPTY_ROOT


def inclusion(index: int, size: int, node: Node) -> list[bytes]:
    """The proof that leaf ``index`` is in the tree of ``size`` leaves."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    return _path(index, 0, size, node)


def consistency(old: int, new: int, node: Node) -> list[bytes]:
    """The proof that the tree of ``old`` leaves is the beginning of that of ``new``."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves does not go on from one of {old}")
    return [] if old in (0, new) else _subproof(old, 0, new, node, whole=True)


def check_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes
) -> None:
    """Check an inclusion proof of a leaf's hash against a root.

    Raises:
        Unverified: it does not lead to that root.
    """
    if not 0 <= index < size:
        raise Unverified(f"inclusion proof: no leaf {index} in a tree of {size}")
    place, last, found = index, size - 1, leaf
    for each in proof:
        if last == 0:
            raise Unverified("inclusion proof: it is too long")
        if place & 1 or place == last:
            found = node_hash(each, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, each)
        place, last = place >> 1, last >> 1
    if last != 0:
        raise Unverified("inclusion proof: it is too short")
    if found != expected:
        raise Unverified("inclusion proof: it does not lead to the log's root")


def check_consistency(
    old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that a log only grew.

    Raises:
        Unverified: the newer tree does not begin with the older one.
    """
    if old > new:
        raise Unverified(f"the log shrank from {old} entries to {new}")
    if old in (0, new):
        if proof or (old == new and old_root != new_root):
            raise Unverified("the log was rewritten")
        return
    hashes = list(proof)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        raise Unverified("consistency proof: it is empty")
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    first = second = hashes[0]
    for each in hashes[1:]:
        if last == 0:
            raise Unverified("consistency proof: it is too long")
        if place & 1 or place == last:
            first, second = node_hash(each, first), node_hash(each, second)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            second = node_hash(second, each)
        place, last = place >> 1, last >> 1
    if last != 0 or first != old_root or second != new_root:
        raise Unverified("the log was rewritten: its older root is not within the newer")


def _split(count: int) -> int:
    """The largest power of two below ``count``."""
    return 1 << ((count - 1).bit_length() - 1)


def _span(begin: int, end: int, node: Node) -> bytes:
    count = end - begin
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return node(level, begin >> level)
    middle = begin + _split(count)
    return node_hash(_span(begin, middle, node), _span(middle, end, node))


def _path(index: int, begin: int, end: int, node: Node) -> list[bytes]:
    if end - begin == 1:
        return []
    middle = begin + _split(end - begin)
    if index < middle:
        return [*_path(index, begin, middle, node), _span(middle, end, node)]
    return [*_path(index, middle, end, node), _span(begin, middle, node)]


def _subproof(old: int, begin: int, end: int, node: Node, *, whole: bool) -> list[bytes]:
    if old == end:
        return [] if whole else [_span(begin, end, node)]
    middle = begin + _split(end - begin)
    if old <= middle:
        return [*_subproof(old, begin, middle, node, whole=whole), _span(middle, end, node)]
    return [*_subproof(old, middle, end, node, whole=False), _span(begin, middle, node)]
