"""The module that is trained: its loss, sample by sample."""

from dataclasses import replace

import torch

from mimir_ray.training.module import load_start
from tests.training.runs import World, batches_of, config


def test_copies_that_fill_a_batch_up_are_not_learnt(world: World) -> None:
    made = config()
    module, batch = load_start(world.model, made).module, batches_of(world, made, 0, 1).batch(0)
    weight = torch.ones(made.batch_size)
    weight[-2:] = 0
    with torch.no_grad():
        whole, per_sample = module(batch)
        loss, again = module(replace(batch, weight=weight))
    assert torch.equal(per_sample, again)
    torch.testing.assert_close(whole, per_sample.mean())
    torch.testing.assert_close(loss, per_sample[:-2].sum() / made.batch_size)
