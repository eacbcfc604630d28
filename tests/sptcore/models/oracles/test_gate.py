"""O14 to O16 and O18: the gate in both modes, its gradients, its place after the norm, score propagation."""

from __future__ import annotations

import math

import pytest
import torch

from sptcore.models.backbone import HierarchicalBackbone
from sptcore.models.config import BackboneConfig
from sptcore.models.selectors import GateSelector, TokenContext
from sptcore.ops.selection import coarsen
from tests.sptcore.ops.test_packing import random_mask
from tests.support.networks import DIM, Fixed, context, our_block, randomise, small_config, tokens
from tests.support.numerics import assert_same


def selector(**settings) -> GateSelector:
    made = GateSelector(DIM, BackboneConfig(**settings))
    randomise(made)
    made.gate.weight.data.mul_(6)
    return made


def test_o14_evaluation_is_the_plain_threshold_whatever_seed_and_tau():
    """O14: in evaluation sel == (s > logit(thr)), bit-equal twice, independent of seed, noise and tau."""
    x = tokens(2, 9, 9, DIM)
    expected = None
    for seed, settings in enumerate([{}, {"tau": 0.3}, {"tau": 5.0}, {"noise": "logistic"}]):
        torch.manual_seed(seed)
        selection = selector(**settings).eval()(x, x, context(x))
        assert torch.equal(selection.mask, selection.logits > math.log(0.01 / 0.99))
        assert expected is None or torch.equal(selection.weight, expected)
        expected = selection.weight
    assert 0 < expected.mean() < 1


def test_o14_training_depends_on_the_seed():
    """O14, negative control: in training the noise decides, repeatably for one seed."""
    x = tokens(2, 9, 9, DIM)
    module = selector().train()
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(module(x, x, context(x)).mask)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_o14_tau_moves_the_boundary_in_training_only():
    """O14: noise off, the training boundary is s > tau * logit(thr)."""
    x = tokens(2, 9, 9, DIM)
    module = selector(tau=0.3, noise="none")
    trained, evaluated = (module.train(mode)(x, x, context(x)) for mode in (True, False))
    assert torch.equal(trained.mask, trained.logits > 0.3 * math.log(0.01 / 0.99))
    assert not torch.equal(trained.mask, evaluated.mask)


def test_o15_forward_is_that_of_the_mask_and_only_selected_scores_have_gradients():
    """O15: hard path == 0/1 mask bit for bit; d(task)/ds nonzero on selected tokens, exactly 0 on the others."""
    logits = (tokens(2, 9, 9, seed=2) * 4 - 4).requires_grad_()
    x = tokens(2, 9, 9, DIM)
    block = our_block("gate")
    block.selector.forward = lambda x, normed, context: chosen(logits, context)  # type: ignore[union-attr, method-assign]
    output = block(x, context(x))
    mask = output.selection.mask
    assert 0.1 < mask.float().mean() < 0.9
    plain = our_block(Fixed(mask, logits.detach()))
    plain.load_state_dict({name: value for name, value in block.state_dict().items() if "selector" not in name})
    assert torch.equal(output.tokens.detach(), plain(x, context(x)).tokens.detach())
    (gradient,) = torch.autograd.grad(output.tokens.square().sum(), logits)
    assert (gradient[mask] != 0).all()
    assert (gradient[~mask] == 0).all()


def chosen(logits, context):
    from sptcore.ops.selection import Selection, gumbel_select

    return Selection(logits, gumbel_select(logits, context.valid, noise="none"), context.valid)


@pytest.mark.parametrize("bypass", ["identity", "proj"])
def test_o15_gradcheck_of_the_gating_for_a_fixed_mask(bypass):
    """O15: finite differences through sigmoid gating, packing and both residuals, fp64 (not through the threshold)."""
    mask = random_mask([7, 0, 4], grid=(3, 4))
    x = tokens(3, 3, 4, DIM, dtype=torch.float64).requires_grad_()
    logits = tokens(3, 3, 4, seed=4, dtype=torch.float64).requires_grad_()

    def block_of(x, logits):
        block = our_block(Fixed(mask, logits), container_len=3, bypass=bypass).double()
        return block(x, context(x)).tokens[..., :2]

    assert torch.autograd.gradcheck(block_of, (x, logits), nondet_tol=0.0, fast_mode=True)


def test_o16_gating_before_the_norm_is_inert_and_after_it_is_not():
    """O16: LN(a x) == LN(x) up to eps for any a in [.02, 1], so a gate before LN does nothing; ours acts after it."""
    norm = torch.nn.LayerNorm(DIM)
    x = tokens(200, DIM)
    scale = torch.linspace(0.02, 1, 200).unsqueeze(-1)
    variance = (x * scale).var(-1, unbiased=False)
    shrink = 1 - (variance / (variance + norm.eps)).sqrt()  # all that eps can do
    inert = (norm(scale * x) - norm(x)).abs().amax(-1)
    assert (inert <= 1.01 * shrink * norm(x).abs().amax(-1) + 1e-5).all()
    assert inert.max() < 0.05
    assert (scale * norm(x) - norm(x)).abs().max() > 1

    mask = torch.ones(2, 9, 9, dtype=torch.bool)
    grid = tokens(2, 9, 9, DIM)
    low, high = (
        our_block(Fixed(mask, torch.full((2, 9, 9), logit)))(grid, context(grid)).tokens for logit in (-4.0, 40.0)
    )
    assert (low - high).abs().max() > 0.1


def with_prior(x, prior):
    return TokenContext(torch.ones(x.shape[:3], dtype=torch.bool), prior)


def test_o18_the_finer_score_only_ever_adds_tokens():
    """O18: s_up removes no token in evaluation; -inf equals the single-scale block; +inf selects everything."""
    x = tokens(2, 9, 9, DIM)
    module = selector().eval()
    alone = module(x, x, with_prior(x, None))
    raised = module(x, x, with_prior(x, tokens(2, 9, 9, seed=8) * 8))
    assert (raised.mask | ~alone.mask).all()
    assert raised.counts.sum() > alone.counts.sum()
    assert torch.equal(raised.own_logits, alone.logits)
    nothing = module(x, x, with_prior(x, torch.full((2, 9, 9), -math.inf)))
    assert torch.equal(nothing.mask, alone.mask)
    assert torch.equal(nothing.gain, alone.gain)
    everything = module(x, x, with_prior(x, torch.full((2, 9, 9), math.inf)))
    assert everything.mask.all()
    assert torch.equal(everything.gain, torch.ones(2, 9, 9))


@pytest.mark.parametrize("sizes", [None, torch.tensor([[97, 120], [64, 70]])])
def test_o18_scores_travel_from_stage_to_stage(sizes):
    """Eq. 1 to 4: s0 on the normed output of stage 2; each stage's last score, max-pooled, raises the next one's."""
    model = randomise(HierarchicalBackbone(small_config(gate_bias_init=0.0))).eval()
    features = model(tokens(2, 3, 97, 120), sizes)
    entry = features.entry.selection
    normed = features.maps["1"].permute(0, 2, 3, 1)
    assert_same(entry.logits, model.gate(normed), tolerance=1e-6)
    by_stage = {stage: [s.selection for s in features.selections if s.stage == stage] for stage in (3, 4)}
    for finer, stage in ((entry, 3), (by_stage[3][-1], 4)):
        prior = coarsen(finer.logits, finer.valid)
        assert any(not torch.equal(one.logits, one.own_logits) for one in by_stage[stage])
        for one in by_stage[stage]:
            assert torch.equal(one.logits, torch.maximum(one.own_logits, prior))


def test_the_last_block_of_a_stage_speaks_for_it():
    """Eq. 2 and 3: what stage 4 hears is the score of stage 3's last block, not of its first."""
    model = randomise(HierarchicalBackbone(small_config())).eval()
    for gate in (model.gate, *(block.selector.gate for block in model.stages[3].blocks)):
        gate.bias.data.fill_(-50.0)
    first, last, *coarser = (placed.selection for placed in model(tokens(2, 3, 96, 128)).selections)
    heard, unheard = coarsen(last.logits, last.valid), coarsen(first.logits, first.valid)
    assert not torch.equal(heard, unheard)
    for one in coarser:
        assert torch.equal(one.logits, heard)


def test_without_propagation_every_block_is_on_its_own():
    model = randomise(HierarchicalBackbone(small_config(score_propagation=False))).eval()
    features = model(tokens(1, 3, 64, 64))
    assert features.entry is None
    assert model.gate is None
    assert all(torch.equal(one.selection.logits, one.selection.own_logits) for one in features.selections)


def test_the_gate_stays_in_fp32_under_autocast():
    x = tokens(1, 9, 9, DIM)
    module = selector().eval()
    exact = module(x, x, context(x)).logits
    with torch.autocast("cpu", torch.bfloat16):
        low = module(x, x, context(x)).logits
    assert low.dtype == torch.float32
    assert torch.equal(low, exact)
