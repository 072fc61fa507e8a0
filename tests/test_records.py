"""Schemas, requests and packed arrays."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pydantic
import pytest

from mimir_ray.records import (
    SCHEMAS,
    STATUSES,
    GenerationRequest,
    Prompt,
    StateDtype,
    pack_array,
    unpack_array,
)

REQUEST = GenerationRequest(
    prompt="a red circle",
    seed=3,
    num_frames=9,
    height=64,
    width=64,
    num_inference_steps=12,
    guidance_scale=3,
    fps=2,
    model="mimir",
)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_table_has_a_key_and_ends_with_its_account(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema.names[0] in ("video_id", "clip_id", "request_id")
    assert schema.names[-2:] == ["status", "reason"]
    assert [field.name for field in schema if not field.nullable] == [schema.names[0], "status", "reason"]


def test_binary_columns_do_not_overflow_at_two_gibibytes() -> None:
    small = {pa.binary()}
    for schema in SCHEMAS.values():
        assert not small & {field.type for field in schema}
    assert SCHEMAS["llm_tokens"].field("answers").type.value_type.field("states").type == pa.large_binary()


def test_the_three_statuses() -> None:
    assert STATUSES == ("ok", "rejected", "quarantined")


def test_request_id_is_the_content_in_every_process() -> None:
    assert REQUEST.request_id == "cd6b4fff4dcf23cb"
    program = (
        "from mimir_ray.records import GenerationRequest as R;"
        f"print(R.model_validate_json({REQUEST.model_dump_json()!r}).request_id)"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == REQUEST.request_id


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a red circle "},
        {"seed": 4},
        {"model": "base"},
        {"num_frames": 17},
        {"guidance_scale": 3.5},
        {"fps": 4},
    ],
)
def test_request_id_changes_with_every_field(change: dict[str, object]) -> None:
    assert GenerationRequest(**(REQUEST.model_dump() | change)).request_id != REQUEST.request_id


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": ""},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 1.0},
        {"num_frames": 0},
        {"height": 0},
        {"num_inference_steps": 0},
        {"guidance_scale": -1.0},
        {"guidance_scale": float("nan")},
        {"fps": 0},
        {"model": ""},
        {"colour": "red"},
    ],
)
def test_a_request_that_cannot_be_met_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(pydantic.ValidationError):
        GenerationRequest(**(REQUEST.model_dump() | change))


def test_a_prompt_is_not_empty() -> None:
    assert Prompt(prompt="x").seed is None
    with pytest.raises(pydantic.ValidationError):
        Prompt(prompt="")


@pytest.mark.parametrize(
    ("dtype", "width", "error"), [("float16", 2, 2**-11), ("bfloat16", 2, 2**-8), ("float32", 4, 0)]
)
def test_packed_arrays_come_back(dtype: StateDtype, width: int, error: float) -> None:
    array = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    data = pack_array(array, dtype)
    assert len(data) == array.size * width
    back = unpack_array(data, dtype, (5, -1))
    assert back.dtype == np.float32
    assert back.shape == (5, 7)
    np.testing.assert_allclose(back, array, rtol=error, atol=1e-7 if error else 0)
    assert pack_array(back, dtype) == data, "packing is idempotent"


def test_bfloat16_bits_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    halfway = 1 + torch.arange(512) / 256  # every second one lies between two numbers, and goes to the even one
    values = torch.cat([torch.randn(4096) * 10.0**power for power in (-38, -3, 0, 8, 37)] + [halfway])
    ours = unpack_array(pack_array(values.numpy(), "bfloat16"), "bfloat16", (-1,))
    assert torch.equal(torch.from_numpy(ours), values.bfloat16().float())


def test_packing_accepts_views_and_empty_arrays() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert unpack_array(pack_array(array.T, "float16"), "float16", (4, 3)).tolist() == array.T.tolist()
    assert pack_array(np.zeros((0, 8)), "bfloat16") == b""
    assert unpack_array(b"", "bfloat16", (0, 8)).shape == (0, 8)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (70000.0, "float16"),
        (float("nan"), "float16"),
        (float("inf"), "bfloat16"),
        (float("nan"), "bfloat16"),
        (3.4e38, "bfloat16"),
        (float("inf"), "float32"),
    ],
)
def test_a_value_the_dtype_cannot_hold_is_refused(value: float, dtype: StateDtype) -> None:
    with pytest.raises(ValueError, match=f"not finite in {dtype}; store it as"):
        pack_array(np.array([1.0, value]), dtype)


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        unpack_array(b"\0" * 10, "float16", (2, 3))
