"""A log that nobody can rewrite without being seen: a Merkle tree in tiles, signed checkpoints, witnesses."""

from locum.governance.log.merkle import leaf_hash, verify_consistency, verify_inclusion
from locum.governance.log.note import Checkpoint, NoteKey, Signed
from locum.governance.log.tree import Tiles, Tree

__all__ = ["Checkpoint", "NoteKey", "Signed", "Tiles", "Tree", "leaf_hash", "verify_consistency", "verify_inclusion"]
