"""Training EquiformerV2 and GemNet-OC by FairChem's own trainer, in FairChem's own environment.

``config`` (what FairChem is told) and ``parent`` (which starts and follows its process) run anywhere; ``launch``,
``trainer``, ``dataset`` and ``scales`` run where fairchem is installed, and only there.
"""
