"""Lockstep: straight-line code of many walkers that share one batched model, with ASE inside."""
