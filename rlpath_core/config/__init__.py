"""Configs: sections that pydantic checks, and the files and ``--params`` that are read into them.

The options of each room stand beside what they configure (``sampling/options.py``, ``dft/options.py``, ...); this room
knows none of them.
"""

from rlpath_core.config.base import Section, check, part, wrong
from rlpath_core.config.compare import Change, first_change
from rlpath_core.config.load import merge, nested, parse_params, read_layer, read_mapping, read_section, yaml_of
from rlpath_core.config.paths import ModelReference, is_path, located

__all__ = [
    "Change",
    "ModelReference",
    "Section",
    "check",
    "first_change",
    "is_path",
    "located",
    "merge",
    "nested",
    "parse_params",
    "part",
    "read_layer",
    "read_mapping",
    "read_section",
    "wrong",
    "yaml_of",
]
