"""What a network needs where many ranks train it."""

import torch
from torch import distributed, nn


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """``model``; among several GPU ranks with batch norm over all of them, for a rank's share of a
    batch is small."""
    several = distributed.is_available() and distributed.is_initialized()
    if several and distributed.get_world_size() > 1 and device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model
