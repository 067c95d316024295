"""The initial parameters of subnets, for a network with random weights."""

import fit
import torch
from distill import map_error

from autopatch.supernet import ElasticTimmNetwork
from autopatch.supernet.elastic_network import ElasticSetting

MODEL, KWARGS = "tf_mobilenetv3_small_075", {}


def test_the_order_of_channels_is_that_of_fits():
    """Each channel, with the previous ones, leaves the smallest unexplained part of the output."""
    generator = torch.Generator().manual_seed(7)
    inside = torch.randn(200, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    inside = (inside - inside.mean(dim=0)).double()
    output = inside @ torch.randn(6, 3, generator=generator).double()
    covariance, left, expected = inside.T.cov(correction=0), set(range(6)), []

    def rest(channels):
        weight = torch.linalg.lstsq(inside[:, channels], output).solution
        return float((output - inside[:, channels] @ weight).square().sum())

    while left:
        expected.append(min(left, key=lambda channel: rest([*expected, channel])))
        left.remove(expected[-1])
    found = fit._by_fit(covariance, covariance @ torch.linalg.lstsq(inside, output).solution)
    assert found.tolist() == expected


def test_subnets_start_close_to_the_largest_which_stays(monkeypatch):
    """Compares errors on images not used for fitting, for a network with batch-norm statistics."""
    generator = torch.Generator().manual_seed(6)
    fitted_on, images = torch.randn(2, 40, 3, 64, 64, generator=generator)

    def network():
        made = ElasticTimmNetwork(MODEL, KWARGS, seed=5).requires_grad_(False)
        values = torch.Generator().manual_seed(8)
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=values)
                module.running_var.uniform_(0.5, 2.0, generator=values)
                module.weight.uniform_(0.5, 1.5, generator=values)
        made.start_from_largest()
        return made

    copied, started, turned = network(), network(), network()
    largest = copied.largest_setting
    shallow = [section.depths[0] for section in copied.sections]
    others = {
        "narrow": ElasticSetting((3,) * 4, largest.depths, largest.levels),
        "shallow": ElasticSetting((6,) * 4, tuple(shallow), largest.levels),
        "both": ElasticSetting((4,) * 4, tuple(shallow), largest.levels),
    }
    expected = copied(images, largest)

    @torch.no_grad()
    def errors(network):
        return {k: map_error(network(images, s), expected) for k, s in others.items()}

    fit.start_subnets(started, fitted_on)
    for found, right in zip(started(images, largest), expected, strict=True):
        assert (found - right).abs().max() < 1e-4 * right.abs().max()
    by_fit = fit._by_fit
    monkeypatch.setattr(fit, "_by_fit", lambda *values: by_fit(*values).flip(0))
    fit.start_subnets(turned, fitted_on)
    before, after, wrong_order = map(errors, (copied, started, turned))
    assert all(after[name] < 0.8 * before[name] for name in others), (before, after)
    assert all(after[name] < 0.95 * wrong_order[name] for name in ("narrow", "both"))
