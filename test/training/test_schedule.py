"""Learning rates and averages, each against a value worked by hand."""

import pytest
import torch

from training.fit.schedule import (
    averaged_network,
    lr_factor,
    lr_schedule,
    optimizer_for,
    warmed_up_ema,
)
from training.networks.network import SegmentationNetwork
from training.recipes.schema import OptimSection, Recipe


def _optim(recipe: Recipe, **changes: object) -> OptimSection:
    return recipe.optim.model_copy(update=changes)


def _rates(optim: OptimSection, steps: int) -> list[float]:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([{'params': [weight], 'lr': optim.lr}])
    schedule = lr_schedule(optimizer, optim, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ('schedule', 'expected'),
    [
        ('constant', [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        # After the warm-up t = 0, 1/4, 2/4, 3/4: (1 + cos(pi t)) / 2.
        ('cosine', [0.5, 1.0, 1.0, 0.8535534, 0.5, 0.1464466]),
        ('poly', [0.5, 1.0, 1.0, 0.5625, 0.25, 0.0625]),  # (1 - t) ** 2
    ],
)
def test_rates_by_hand(tiny_recipe: Recipe, schedule: str, expected: list[float]) -> None:
    optim = _optim(tiny_recipe, schedule=schedule, warmup=1 / 3, poly_power=2.0, lr=0.1)
    assert _rates(optim, 6) == pytest.approx([0.1 * factor for factor in expected])


def test_without_warm_up_the_cosine_is_the_paper_s(tiny_recipe: Recipe) -> None:
    optim = _optim(tiny_recipe, schedule='cosine', warmup=0.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=optim.lr), T_max=9
    )
    for rate in _rates(optim, 9):
        assert rate == pytest.approx(reference.get_last_lr()[0])
        reference.optimizer.step()
        reference.step()
    assert lr_factor(optim, 9, 9) == pytest.approx(0.0, abs=1e-12)
    assert lr_factor(optim, 12, 9) == pytest.approx(0.0, abs=1e-12)


def test_one_cycle_peaks_after_the_warm_up(tiny_recipe: Recipe) -> None:
    rates = _rates(_optim(tiny_recipe, schedule='one_cycle', warmup=0.25, lr=0.1), 41)
    assert rates[0] == pytest.approx(0.1 / 25)
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    assert 8 <= rates.index(max(rates)) <= 11
    assert rates[-1] < 1e-6


@pytest.mark.parametrize(('steps', 'warmup'), [(1, 0.0), (2, 0.0), (3, 0.0), (3, 1.0), (9, 1.0)])
def test_one_cycle_has_a_rate_for_every_step(
    tiny_recipe: Recipe, steps: int, warmup: float
) -> None:
    rates = _rates(_optim(tiny_recipe, schedule='one_cycle', warmup=warmup, lr=0.1), steps)
    assert len(rates) == steps
    assert all(0.0 < rate <= 0.1 for rate in rates)


def test_the_encoder_has_its_own_rate(tiny_recipe: Recipe) -> None:
    network = SegmentationNetwork(tiny_recipe.model, 8)
    optim = _optim(tiny_recipe, lr=0.1, encoder_lr_factor=0.25, weight_decay=0.3)
    optimizer = optimizer_for(network, optim)
    groups = {group['name']: group for group in optimizer.param_groups}
    assert (groups['encoder']['lr'], groups['rest']['lr']) == pytest.approx((0.025, 0.1))
    assert {group['weight_decay'] for group in groups.values()} == {0.3}
    assert len(groups['encoder']['params']) == len(list(network.encoder_parameters()))
    everything = [id(p) for group in groups.values() for p in group['params']]
    assert sorted(everything) == sorted(id(p) for p in network.parameters())


def test_a_frozen_encoder_is_not_optimised(tiny_recipe: Recipe) -> None:
    frozen = tiny_recipe.model.model_copy(update={'frozen_encoder': 'all'})
    optimizer = optimizer_for(SegmentationNetwork(frozen, 8), tiny_recipe.optim)
    assert [group['name'] for group in optimizer.param_groups] == ['rest']


def test_the_warmed_up_average_by_hand() -> None:
    update = warmed_up_ema(0.5)
    averaged, current = [torch.tensor([0.0])], [torch.tensor([1.0])]
    update(averaged, current, torch.tensor(1))  # decay min(.5, 2 / 11)
    assert averaged[0].item() == pytest.approx(9 / 11)
    update(averaged, [torch.tensor([0.0])], torch.tensor(1000))  # decay .5
    assert averaged[0].item() == pytest.approx(4.5 / 11)
    counter = [torch.tensor(3)]
    update(counter, [torch.tensor(7)], torch.tensor(1))
    assert counter[0].item() == 7


def test_the_average_follows_the_network_and_is_not_trained(tiny_recipe: Recipe) -> None:
    network = SegmentationNetwork(tiny_recipe.model, 8)
    averaged = averaged_network(network, 0.9)
    assert not any(p.requires_grad for p in averaged.parameters())
    assert all(p.requires_grad for p in network.parameters())
    head = network.network.segmentation_head[0].bias
    averaged.update_parameters(network)  # the first is a copy
    with torch.no_grad():
        head += 1.0
    before = averaged.module.network.segmentation_head[0].bias.clone()
    averaged.update_parameters(network)  # decay min(.9, 2 / 11)
    after = averaged.module.network.segmentation_head[0].bias
    assert (after - before).tolist() == pytest.approx([9 / 11] * 8)
