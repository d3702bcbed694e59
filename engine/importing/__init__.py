"""Avatars from other people's checkpoints. Nothing here is loaded when serving; torch is, once something is imported."""

KNOWN = ("make-your-anchor",)
