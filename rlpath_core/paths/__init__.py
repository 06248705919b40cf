"""Reaction paths: where saddle searches begin, the searches, what proves a saddle, and what is known by now."""
