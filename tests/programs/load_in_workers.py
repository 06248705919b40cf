"""load_in_workers.py (fork|spawn): a data loader's worker imports the packages that the stand-in provides."""

import sys

import torch

from rlpath_core.backends.fairchem.shims import provide


class Places(torch.utils.data.Dataset[list[str]]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, k: int) -> list[str]:
        import torch_scatter  # as FairChem's modules do, in whatever process they are unpickled
        import torch_sparse

        return [torch_scatter.__file__, torch_sparse.__file__]


if __name__ == "__main__":
    provide()
    loader = torch.utils.data.DataLoader(Places(), None, num_workers=1, multiprocessing_context=sys.argv[1])
    assert list(loader) == [Places()[0]] * 2
    print("both")
