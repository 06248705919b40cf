"""Networks of minima and saddles: rates by harmonic transition state theory, and the files that other programs read."""
