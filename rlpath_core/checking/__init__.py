"""What rlpath sees in a file: a structure, a data set or a model, and what looks wrong with it."""

from rlpath_core.checking.check import check_file, check_files
from rlpath_core.checking.options import CheckSpec
from rlpath_core.checking.report import Report

__all__ = ["CheckSpec", "Report", "check_file", "check_files"]
