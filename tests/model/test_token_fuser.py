"""The token fuser: the ablation grid, the null condition, masks, gradients, saving."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXPipeline
from torch import Tensor, nn

from mimir_ray.config import UserError
from mimir_ray.model.config import FuserConfig
from mimir_ray.model.text_branches import T5Branch
from mimir_ray.model.token_fuser import TokenFuser, room_for_text
from mimir_ray.model.tokens import TextTokens
from tests.tiny import LLM_DIM, TEXT_DIM, TEXT_LENGTH, tiny_base


def ablation_cells() -> dict[str, FuserConfig]:
    """The nine cells of the ablation grid: Table 3's seven rows and the two it leaves out."""
    cells = {"baseline": FuserConfig.baseline()}
    for norm in (False, True):
        for zero_conv in (False, True):
            for stabilizer in (False, True):
                parts = ("norm",) * norm + ("zeroconv",) * zero_conv + ("ss",) * stabilizer
                name = "full" if len(parts) == 3 else "_".join(("decoder", *parts))
                cells[name] = FuserConfig(norm=norm, zero_conv=zero_conv, stabilizer=stabilizer)
    return cells


CELLS = ablation_cells()


def build(config: FuserConfig, *, trained: bool = False) -> TokenFuser:
    torch.manual_seed(0)
    fuser = TokenFuser.build(config, text_dim=TEXT_DIM, llm_dim=LLM_DIM, text_length=TEXT_LENGTH)
    if trained:
        for parameter in fuser.parameters():
            nn.init.normal_(parameter, std=0.3)
    return fuser


def test_the_grid_has_the_nine_cells_of_the_ablation() -> None:
    assert len(CELLS) == len(set(CELLS.values())) == 9
    assert CELLS["full"] == FuserConfig()
    assert not CELLS["baseline"].decoder


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_has_its_length_and_only_zero_conv_without_stabilizer_is_non_destructive(
    name: str, tokens: TextTokens
) -> None:
    config = CELLS[name]
    fuser = build(config)
    fused = fuser(tokens)
    assert fused.shape == (2, fuser.sequence_length, TEXT_DIM)
    assert fuser.sequence_length == TEXT_LENGTH + 4 * config.stabilizer
    unchanged = torch.equal(fused[:, :TEXT_LENGTH], tokens.t5)
    assert unchanged == (config.zero_conv or not config.decoder)


def test_a_residual_stabilizer_keeps_the_length_and_changes_nothing_when_fresh(tokens: TextTokens) -> None:
    fuser = build(FuserConfig(stabilizer_join="residual"))
    assert fuser.sequence_length == TEXT_LENGTH
    assert torch.equal(fuser(tokens), tokens.t5)
    trained = build(FuserConfig(stabilizer_join="residual", decoder=True), trained=True)
    plain = build(FuserConfig(stabilizer=False))
    plain.load_state_dict({k: v for k, v in trained.state_dict().items() if k in plain.state_dict()})
    moved = (trained(tokens) - plain(tokens)).abs().amax(dim=(0, 2)) > 1e-4
    assert moved.tolist() == [False] * (TEXT_LENGTH - 4) + [True] * 4


def test_equation_3_written_out(tokens: TextTokens) -> None:
    fuser = build(FuserConfig(alpha=0.5), trained=True)
    fused = fuser(tokens)
    row = tokens.select([1])
    count = int(row.llm_mask.sum())
    llm = row.llm[0, :count]
    normed = llm / (llm.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    beta = (normed * fuser.llm_norm.scale + fuser.llm_norm.bias) @ fuser.z_beta.weight.T + fuser.z_beta.bias
    theta = row.t5[0] + row.t5[0] @ fuser.z_theta.weight.T + fuser.z_theta.bias
    expected = theta.clone()
    expected[:count] += 0.5 * beta
    torch.testing.assert_close(fused[1, :TEXT_LENGTH], expected)
    e_i = fuser.instruction_proj(fuser.instruction_norm(row.instruction[0]))
    torch.testing.assert_close(fused[1, TEXT_LENGTH:], e_i + fuser.learnable_tokens)


@pytest.mark.parametrize("join", ["concat", "residual"])
@pytest.mark.parametrize("null_condition", ["zeros", "empty_prompt"])
def test_keep_0_is_the_null_condition_exactly_and_keep_1_changes_nothing(
    join: str, null_condition: str, tokens: TextTokens
) -> None:
    fuser = build(FuserConfig(stabilizer_join=join, learn_alpha=True, null_condition=null_condition), trained=True)
    if null_condition == "empty_prompt":
        fuser.null_token.copy_(torch.randn(TEXT_LENGTH, TEXT_DIM))
    mixed = fuser(tokens, keep=torch.tensor([0.0, 1.0]))
    null, semantic = fuser.null_token.expand(TEXT_LENGTH, -1), fuser.learnable_tokens
    if join == "concat":
        null = torch.cat([null, semantic])
    else:
        null = torch.cat([null[:-4], null[-4:] + fuser.z_stabilizer(semantic)])
    assert torch.equal(mixed[0], null)
    assert torch.equal(mixed[1], fuser(tokens)[1])


@pytest.mark.parametrize("name", CELLS)
def test_llm_pads_cannot_influence_the_output(name: str, tokens: TextTokens) -> None:
    fuser = build(CELLS[name], trained=True)
    pads = ~tokens.llm_mask[..., None]
    for poison in (1e4, float("nan")):
        poisoned = dataclasses.replace(tokens, llm=torch.where(pads, torch.tensor(poison), tokens.llm))
        assert torch.equal(fuser(poisoned), fuser(tokens))
    alone = tokens.t5 if fuser.z_theta is None else tokens.t5 + fuser.z_theta(tokens.t5)
    silent = nn.functional.pad(pads[..., 0], (0, TEXT_LENGTH - pads.shape[1]), value=True)
    assert torch.equal(fuser(tokens)[:, :TEXT_LENGTH][silent], alone[silent]), "no bias either"


@pytest.mark.parametrize("extra", [3, 40])
def test_more_padding_or_truncation_to_n_changes_nothing_else(extra: int, tokens: TextTokens) -> None:
    fuser = build(CELLS["full"], trained=True)
    batch, _, width = tokens.llm.shape
    padded = dataclasses.replace(
        tokens,
        llm=torch.cat([tokens.llm, torch.full((batch, extra, width), 7.0)], 1),
        llm_mask=torch.cat([tokens.llm_mask, torch.zeros(batch, extra, dtype=torch.bool)], 1),
    )
    assert torch.equal(fuser(padded), fuser(tokens))
    longer = dataclasses.replace(padded, llm_mask=torch.ones_like(padded.llm_mask))
    cut = dataclasses.replace(longer, llm=longer.llm[:, :TEXT_LENGTH], llm_mask=longer.llm_mask[:, :TEXT_LENGTH])
    assert torch.equal(fuser(longer), fuser(cut))


def test_gradients_reach_z_beta_at_step_0_and_the_norm_from_step_1(tokens: TextTokens) -> None:
    fuser = build(CELLS["full"])
    optimizer = torch.optim.SGD(fuser.parameters(), lr=0.1)
    target = torch.randn(2, fuser.sequence_length, TEXT_DIM, generator=torch.Generator().manual_seed(1))

    def gradients() -> dict[str, float]:
        optimizer.zero_grad()
        (fuser(tokens) - target).square().mean().backward()
        return {name: float(p.grad.abs().max()) for name, p in fuser.named_parameters() if p.grad is not None}

    first = gradients()
    assert first["z_beta.weight"] > 0
    assert first["z_theta.weight"] > 0
    assert first["learnable_tokens"] > 0
    assert first["llm_norm.scale"] == first["llm_norm.bias"] == 0
    optimizer.step()
    second = gradients()
    assert second["llm_norm.scale"] > 0
    assert second["llm_norm.bias"] > 0


def test_dropped_text_still_gives_every_parameter_a_gradient(tokens: TextTokens) -> None:
    fuser = build(FuserConfig(learn_alpha=True))
    fuser(tokens, keep=torch.zeros(2)).sum().backward()
    assert all(p.grad is not None for p in fuser.parameters())


def test_alpha_and_z_beta_cannot_both_be_zero() -> None:
    with pytest.raises(ValueError, match="set alpha=1"):
        FuserConfig(alpha=0.0, learn_alpha=True)


@pytest.mark.parametrize(("source", "target"), [(24, 32), (32, 32), (48, 32)])
def test_without_zero_conv_a_fixed_projection_keeps_norms(source: int, target: int) -> None:
    config = FuserConfig(norm=False, zero_conv=False, stabilizer=False)
    fuser = TokenFuser.build(config, text_dim=target, llm_dim=source, text_length=64)
    llm = torch.randn(1, 64, source, generator=torch.Generator().manual_seed(0))
    tokens = TextTokens(torch.zeros(1, 64, target), llm, torch.ones(1, 64, dtype=torch.bool), torch.zeros(1, 4, source))
    before, after = llm.norm(dim=-1), fuser(tokens).norm(dim=-1)
    torch.testing.assert_close(after.mean(), before.mean(), rtol=1e-4 if source <= target else 0.05, atol=0)
    assert not list(fuser.parameters())
    assert (fuser.projection is None) == (source == target)


def test_bfloat16_takes_the_norm_statistics_in_float32(tokens: TextTokens) -> None:
    big = dataclasses.replace(tokens, llm=tokens.llm * 1e3)
    fuser = build(FuserConfig(scale_init=1.0, stabilizer=False), trained=True)
    exact = fuser(big)
    half: Tensor = fuser.bfloat16()(big)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_saved_and_loaded_sharded(name: str, tmp_path: Path, tokens: TextTokens) -> None:
    fuser = build(CELLS[name], trained=True)
    fuser.save_pretrained(tmp_path, max_shard_size="4KB")
    loaded = TokenFuser.from_pretrained(tmp_path)
    assert torch.equal(loaded(tokens), fuser(tokens))
    assert loaded.config.null_condition == ("empty_prompt" if name == "baseline" else "zeros")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or name in ("baseline", "decoder", "decoder_norm")


def test_the_empty_prompt_is_kept_with_the_fuser_and_needs_no_text_encoder(tmp_path: Path, tokens: TextTokens) -> None:
    base = tiny_base(tmp_path / "base")
    fuser = build(FuserConfig.baseline())
    fuser.keep_empty_prompt(T5Branch.of_base(str(base), TEXT_LENGTH, dtype=torch.float32))
    theirs = CogVideoXPipeline.from_pretrained(base)
    with torch.no_grad():
        _, expected = theirs.encode_prompt("a ball", max_sequence_length=TEXT_LENGTH)
    assert expected.abs().min() > 0
    fuser.save_pretrained(tmp_path / "fuser")
    loaded = TokenFuser.from_pretrained(tmp_path / "fuser")
    nothing = torch.zeros(2)
    assert torch.equal(loaded(tokens, keep=nothing), expected.expand(2, -1, -1))
    assert torch.equal(loaded.bfloat16()(tokens, keep=nothing)[:1], expected.bfloat16())


def test_a_fuser_of_before_there_was_a_choice_has_zeros(tmp_path: Path, tokens: TextTokens) -> None:
    build(CELLS["full"], trained=True).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("null_condition") == "zeros"
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = TokenFuser.from_pretrained(tmp_path)
    assert loaded.null_token.shape == (TEXT_DIM,)
    assert not loaded(tokens, keep=torch.zeros(2))[:, :TEXT_LENGTH].any()
    with pytest.raises(ValueError, match="'noise' is not known"):
        TokenFuser.from_config(config | {"null_condition": "noise"})


def test_tokens_of_the_wrong_length_are_refused_with_the_remedy(tokens: TextTokens) -> None:
    short = dataclasses.replace(tokens, t5=tokens.t5[:, :20])
    with pytest.raises(ValueError, match=f"20 x {TEXT_DIM}.*max_length={TEXT_LENGTH}"):
        build(CELLS["full"])(short)


def test_telemetry_reports_what_was_learnt(tokens: TextTokens) -> None:
    fuser = build(CELLS["full"])
    fuser(tokens).square().sum().backward()
    report = fuser.telemetry(gradients={name: weight.grad for name, weight in fuser.named_parameters()})
    assert report["z_theta_norm"] == report["z_beta_norm"] == report["rms_beta_over_theta"] == 0
    assert report["llm_scale"] == pytest.approx(0.01)
    assert report["alpha"] == 1
    assert report["grad_beta"] > 0
    assert report["grad_theta"] > 0
    assert report["grad_stabilizer"] > 0
    trained = build(CELLS["full"], trained=True)
    trained(tokens)
    report = trained.telemetry()
    assert report["rms_theta"] > 0
    assert report["rms_beta_over_theta"] == pytest.approx(report["rms_beta"] / report["rms_theta"])
    assert "grad_beta" not in report


def test_telemetry_of_a_sharded_fuser_is_that_of_the_whole_one(tokens: TextTokens) -> None:
    fuser = build(CELLS["full"], trained=True)
    fuser(tokens).square().sum().backward()
    weights = {name: weight.detach().flatten() for name, weight in fuser.named_parameters()}
    gradients = {name: weight.grad.flatten() for name, weight in fuser.named_parameters()}
    whole = fuser.telemetry(weights, gradients)
    shares: list[torch.Tensor] = []

    def keep(sums: torch.Tensor) -> torch.Tensor:
        shares.append(sums)
        return sums

    for start in (0, 1):  # of two processes each owns every other element
        fuser.telemetry(*({name: x[start::2] for name, x in part.items()} for part in (weights, gradients)), keep)
    nothing = fuser.telemetry({}, {}, lambda sums: sums + shares[0] + shares[1])
    assert nothing == pytest.approx(whole, rel=1e-5)
    assert whole == pytest.approx(fuser.telemetry(gradients=gradients), rel=1e-5)


def test_the_direct_sum_reports_the_ratio_of_the_raw_branches(tokens: TextTokens) -> None:
    fuser = build(CELLS["decoder"])
    fuser(tokens)
    used = tokens.llm[tokens.llm_mask]
    assert fuser.telemetry()["rms_beta"] == pytest.approx(
        float((used.square().sum() / used.shape[0] / TEXT_DIM).sqrt()), rel=1e-4
    )


def test_positions_that_are_computed_make_room_and_learnt_ones_cannot() -> None:
    two_b = {"max_text_seq_length": 226, "use_rotary_positional_embeddings": False}
    five_b = {"max_text_seq_length": 226, "use_rotary_positional_embeddings": True}
    learnt = five_b | {"use_learned_positional_embeddings": True}
    assert room_for_text(two_b, 230, "base") == {"max_text_seq_length": 230}
    assert room_for_text(five_b, 230, "base") == {}
    assert room_for_text(learnt, 226, "base") == room_for_text(two_b, 226, "base") == {}
    with pytest.raises(UserError, match="base has learnt positions for 226 text tokens, but the fuser makes 230"):
        room_for_text(learnt, 230, "base")
