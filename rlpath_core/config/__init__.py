"""Configs: sections that pydantic checks, files and ``--params`` that are read into them, one-line errors.

The options of a room stand beside what they configure (``sampling/options.py``, ``dft/options.py``, ...); this room
knows none of them.
"""
