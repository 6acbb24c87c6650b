"""A trained run on one's own video or image."""

from relgrounding.inference._grounder import Answer, Grounder

__all__ = ["Answer", "Grounder"]
