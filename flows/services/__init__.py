"""The local Prefect server and workers (``rlpath services``), and the loop run by them (``rlpath loop --services``)."""
