"""Set-up and running of the local services; `make` calls these."""
