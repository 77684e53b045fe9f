"""The tree, its tiles and its proofs, beside the recursive definition of RFC 9162 and its published vectors."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.governance.log.merkle import EMPTY, LogError, leaf_hash, node_hash, split, verify_consistency, verify_inclusion
from locum.governance.log.tree import MemoryTiles, Tree, entries_path, tile_path

LEAVES = [b"", b"\x00", b"\x10", b"\x20\x21", b"\x30\x31", b"\x40\x41\x42\x43", b"\x50\x51\x52\x53\x54\x55\x56\x57", bytes(range(0x60, 0x70))]
ROOTS = {  # certificate-transparency-go and its predecessors test with these leaves and roots
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, word for word."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY
    k = split(len(leaves))
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


def grown(n: int, seed: int = 0) -> tuple[Tree, list[bytes]]:
    """A tree that was extended in batches of random sizes, and its leaves."""
    leaves, tree, rng = [leaf_hash(b"%d" % i) for i in range(n)], Tree(MemoryTiles()), random.Random(seed)
    while tree.size < n:
        tree.extend(leaves[tree.size : tree.size + rng.randint(1, 90)])
    return tree, leaves


def test_published_roots() -> None:
    tree = Tree(MemoryTiles())
    for n, entry in enumerate(LEAVES, 1):
        tree.extend([leaf_hash(entry)])
        assert tree.root().hex() == ROOTS[n]
    assert tree.root(0) == EMPTY


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70_000), st.data())
def test_a_split_is_a_power_of_two_below(n: int, data: st.DataObject) -> None:
    if n > 1:
        k = split(n)
        assert k < n <= 2 * k
        assert k & (k - 1) == 0


def test_every_proof_of_every_size() -> None:
    tree, leaves = grown(70)
    for n in range(71):
        root = tree.root(n)
        assert root == mth(leaves[:n])
        for i in range(n):
            verify_inclusion(i, n, leaves[i], tree.inclusion(i, n), root)
        for m in range(n + 1):
            verify_consistency(m, n, tree.root(m), root, tree.consistency(m, n))


@pytest.mark.parametrize("n", [255, 256, 257, 511, 512, 513, 70_000])
def test_across_tiles(n: int) -> None:
    tree, leaves = grown(n)
    root = tree.root()
    assert n > 600 or root == mth(leaves)
    for i in {0, 1, 254, n // 2, n - 1}:
        verify_inclusion(i, n, leaves[i], tree.inclusion(i), root)
    for m in {0, 1, 200, n // 3, n - 1, n}:
        verify_consistency(m, n, tree.root(m), root, tree.consistency(m))


def test_a_tree_goes_on_from_its_tiles() -> None:
    tiles = MemoryTiles()
    Tree(tiles).extend([leaf_hash(b"%d" % i) for i in range(300)])
    again = Tree(tiles, 300)
    again.extend([leaf_hash(b"%d" % i) for i in range(300, 600)])
    assert again.root() == grown(600)[0].root()


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 400), st.data())
def test_an_altered_proof_is_refused(n: int, data: st.DataObject) -> None:
    tree, leaves = grown(n)
    i, m = data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, n - 1))
    inclusion, consistency = tree.inclusion(i), tree.consistency(m)
    for proof, check in (
        (inclusion, lambda p: verify_inclusion(i, n, leaves[i], p, tree.root())),
        (consistency, lambda p: verify_consistency(m, n, tree.root(m), tree.root(), p)),
    ):
        k = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[k][0] ^ 1]) + proof[k][1:]
        for bad in ([*proof[:k], flipped, *proof[k + 1 :]], proof[:-1], [*proof, proof[-1]], [p[:31] for p in proof]):
            with pytest.raises(LogError):
                check(bad)
    with pytest.raises(LogError):
        verify_inclusion(i, n, leaf_hash(b"another"), inclusion, tree.root())
    with pytest.raises(LogError):
        verify_inclusion((i + 1) % n, n, leaves[i], inclusion, tree.root())


def test_nonsense_is_refused() -> None:
    tree, _ = grown(10)
    for ask in (lambda: tree.root(11), lambda: tree.inclusion(10), lambda: tree.inclusion(-1), lambda: tree.consistency(11), lambda: tree.consistency(5, 4)):
        with pytest.raises(LogError):
            ask()
    with pytest.raises(LogError, match="shorter"):
        verify_consistency(5, 4, EMPTY, EMPTY, [])
    with pytest.raises(LogError):
        Tree(MemoryTiles(), 5).root()
    with pytest.raises(LogError):
        Tree(MemoryTiles(), 5).extend([EMPTY])


def test_paths_are_those_of_tlog_tiles() -> None:
    assert tile_path(0, 1_234_067) == "tile/0/x001/x234/067"
    assert tile_path(2, 5, 17) == "tile/2/005.p/17"
    assert entries_path(0) == "tile/entries/000"
