"""Which FairChem it has to be. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Final

DISTRIBUTION: Final = "fairchem-core"
VERSION: Final = "1.10.0"
"""The last with EquiformerV2 and GemNet-OC, which 2.x dropped."""
BACKENDS: Final = ("equiformer_v2", "gemnet_oc")
MEND: Final = "run `make fairchem` in a checkout"
