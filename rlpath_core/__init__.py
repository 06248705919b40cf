"""The science and the data of rlpath: no Prefect here, and no torch until a backend is asked for."""

__version__ = "0.2.0"
