"""Training EquiformerV2 and GemNet-OC by FairChem's own trainer, in FairChem's own environment.

``config`` (FairChem's configuration of a run) and ``parent`` (which starts and follows its process) run anywhere;
``launch``, ``trainer`` and ``dataset`` run only where fairchem is installed.
"""
