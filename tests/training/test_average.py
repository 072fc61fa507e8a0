"""The optimiser that averages the weights, in one process."""

import pytest
import torch

from mimir_ray.training.average import AVERAGE, AveragingAdamW, decay_at


def test_the_decay_is_small_at_first_and_ends_at_the_one_asked_for() -> None:
    assert [decay_at(step, 0.9) for step in (0, 8, 80, 81, 10_000)] == pytest.approx([0.1, 0.5, 0.9, 0.9, 0.9])


def test_the_average_follows_the_weights_that_have_changed() -> None:
    learnt, left = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))
    plain = torch.nn.Parameter(torch.ones(3))
    averaging = AveragingAdamW([{"params": [learnt, left], "average_decay": 0.8}], lr=0.1)
    alone = torch.optim.AdamW([plain], lr=0.1)
    expected = torch.zeros(0)
    for step in range(4):
        learnt.grad = plain.grad = torch.arange(3.0) + step
        averaging.step()
        alone.step()
        now = plain.detach().clone()
        expected = now if step == 0 else 0.8 * expected + 0.2 * now
    assert torch.equal(learnt, plain), "the average takes no part in the steps"
    torch.testing.assert_close(averaging.state[learnt][AVERAGE], expected)
    assert AVERAGE not in averaging.state[left], "what got no gradient was not trained"
