"""Every round's fine-tuning takes ``update_steps``, whatever the number of labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlpath_core.campaign import open_campaign
from rlpath_core.campaign.fine_tuning import epochs_for
from rlpath_core.training.dataset import epoch_order, update_groups


@pytest.mark.parametrize("labels", [3, 16, 47, 480])
@pytest.mark.parametrize(("ratio", "batch_size", "accum_steps"), [(0.0, 5, 1), (1.0, 10, 1), (2.5, 4, 3)])
def test_epochs_make_the_update_steps_that_the_trainer_counts(
    tmp_path: Path, labels: int, ratio: float, batch_size: int, accum_steps: int
) -> None:
    campaign = open_campaign(
        {
            "campaigns_dir": str(tmp_path / "campaigns"),
            "update_steps": 600,
            "replay_ratio": ratio,
            "train": {"batch_size": batch_size, "accum_steps": accum_steps},
        }
    )
    order = epoch_order(labels, 163 if ratio else 0, ratio, seed=1, epoch=0)
    per_epoch = len(update_groups(order, batch_size, accum_steps, drop_last=False))
    assert abs(epochs_for(campaign.config, labels) * per_epoch - 600) <= per_epoch / 2
