"""EquiformerV2 and GemNet-OC of fairchem-core 1.10.0, which live in an environment of their own."""
