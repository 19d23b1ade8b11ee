"""Memory arithmetic against published figures and its own laws."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild import catalog
from trtbuild.catalog import ModelInfo
from trtbuild.plan import memory
from trtbuild.plan.memory import GIB, MIB, Layout, Limits

MODELS = catalog.models()
PLAIN = catalog.preset("none")
LIMITS = Limits(max_batch_size=64, max_seq_len=2048, max_num_tokens=8192)


def named(alias: str) -> ModelInfo:
    model = catalog.find_model(alias)
    assert model is not None
    return model


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_one_rank_holds_exactly_the_parameters(model: ModelInfo) -> None:
    (stage,) = memory.stage_weights(model, Layout(dtype="bfloat16", preset=PLAIN, shares_tied_head=True))
    assert stage.total == 2 * model.parameters


# One public measurement of Qwen2.5-0.5B-Instruct's engines (1.2 line, MiB): the table of 260 MiB is in them twice.
@pytest.mark.parametrize(
    ("preset", "megabytes"), [("none", 1215), ("fp8", 875), ("int4-awq", 709)], ids=["float16", "fp8", "int4-awq"]
)
def test_engines_hold_a_tied_head_twice(preset: str, megabytes: int) -> None:
    layout = Layout(dtype="float16", preset=catalog.preset(preset))
    room = memory.host_room(named("qwen2.5-0.5b-instruct"), layout)
    assert room.checkpoint_bytes / MIB == pytest.approx(megabytes, rel=0.03)


# Bytes of key/value cache per token, 16 bit: 2 x layers x kv heads x head size x 2, as given in the models'
# papers and in the sizing guides of serving engines (Llama 2 7B: 0.5 MiB, Llama 3 8B: 128 KiB, Llama 3 70B: 320 KiB).
@pytest.mark.parametrize(
    ("alias", "kv_bytes"),
    [
        ("gpt2", 36_864), ("llama-2-7b", 524_288), ("llama-2-13b", 819_200), ("llama-2-70b", 327_680),
        ("llama-3-8b", 131_072), ("llama-3-70b", 327_680), ("llama-3.2-1b", 32_768), ("mixtral-8x7b-instruct", 131_072),
        ("qwen2.5-7b-instruct", 57_344), ("qwen3-8b", 147_456), ("gemma-2-9b-it", 344_064), ("falcon-7b", 8_192),
        ("phi-4", 204_800),
    ],
)  # fmt: skip
def test_key_value_bytes_per_token(alias: str, kv_bytes: int) -> None:
    assert memory.kv_bytes_per_token(named(alias)) == kv_bytes
    assert memory.kv_bytes_per_token(named(alias), 1) == kv_bytes // 2


@pytest.mark.parametrize(
    ("tp_size", "pp_size", "expected"),
    [(1, 1, None), (1, 2, 256 * MIB), (2, 1, 256 * MIB + 2 * 8192 * 4096 * 2)],
    ids=["alone", "pipeline", "tensor"],
)
def test_only_ranks_that_talk_to_others_pay_for_it(tp_size: int, pp_size: int, expected: int | None) -> None:
    layout = Layout(dtype="float16", preset=PLAIN, tp_size=tp_size, pp_size=pp_size)
    need = memory.gpu_memory(named("llama-3-8b"), layout, LIMITS, gpu_bytes=80 * GIB)
    found = [line.size_bytes for line in need.lines if line.label == "communication"]
    assert found == ([] if expected is None else [expected])


def test_the_published_log_of_an_fp8_engine() -> None:
    """The only complete memory log upstream publishes: Llama 2 7B, FP8 with FP8 cache, on an 80 GB GPU.

    Source: TensorRT-LLM docs/source/legacy/reference/memory.md, FAQ 1: engine 6695 MiB, execution context 1134.01 MiB,
    70.48 of 79.10 GiB available, 63.44 GiB of paged KV cache for 259840 tokens.
    """
    layout = Layout(dtype="float16", preset=catalog.preset("fp8"), kv_cache_dtype="fp8")
    limits = Limits(max_batch_size=256, max_seq_len=2048, max_num_tokens=8192)
    found = memory.gpu_memory(named("llama-2-7b"), layout, limits, gpu_bytes=int(79.10 * GIB))
    assert found.weights_bytes / MIB == pytest.approx(6695, rel=0.005)
    assert found.activation_bytes / MIB == pytest.approx(1134, rel=0.05)
    assert found.kv_bytes_per_token == 262_144
    assert found.kv_pool_bytes / GIB == pytest.approx(63.44, rel=0.01)
    assert found.kv_tokens == pytest.approx(259_840, rel=0.01)


@pytest.mark.parametrize(
    ("layers", "pp_size", "stages"),
    [(32, 1, (32,)), (32, 4, (8, 8, 8, 8)), (42, 4, (11, 11, 10, 10)), (3, 3, (1, 1, 1))],
)
def test_stages(layers: int, pp_size: int, stages: tuple[int, ...]) -> None:
    assert memory.stage_layers(layers, pp_size) == stages


def test_embedding_and_head_are_on_the_ranks_that_use_them() -> None:
    model = named("llama-3-70b")
    first, middle, *_, last = memory.stage_weights(model, Layout(dtype="bfloat16", preset=PLAIN, tp_size=2, pp_size=4))
    table = 128_256 * 8192 * 2
    assert (first.embedding_bytes, first.head_bytes) == (table, 0)
    assert (middle.embedding_bytes, middle.head_bytes) == (0, 0)
    assert (last.embedding_bytes, last.head_bytes) == (0, table // 2 + 8192 * 2)


def test_a_tied_head_needs_room_of_its_own_on_several_ranks() -> None:
    model = named("gemma-2-9b-it")
    (engine,) = memory.stage_weights(model, Layout(dtype="bfloat16", preset=PLAIN))
    (whole,) = memory.stage_weights(model, Layout(dtype="bfloat16", preset=PLAIN, shares_tied_head=True))
    (cut,) = memory.stage_weights(model, Layout(dtype="bfloat16", preset=PLAIN, tp_size=2))
    table = 256_000 * 3584 * 2
    assert whole.head_bytes == 3584 * 2
    assert engine.head_bytes == table + 3584 * 2
    assert (cut.embedding_bytes, cut.head_bytes) == (table, table // 2 + 3584 * 2)


def test_key_value_heads_are_copied_when_there_are_more_ranks() -> None:
    model = named("llama-3-8b")
    eight, sixteen = (Layout(dtype="bfloat16", preset=PLAIN, tp_size=tp) for tp in (8, 16))
    assert (memory.rank_kv_heads(model.kv_heads, 8), memory.rank_kv_heads(model.kv_heads, 16)) == (1, 1)
    found = memory.gpu_memory(model, sixteen, LIMITS, gpu_bytes=80 * GIB)
    assert found.kv_bytes_per_token == memory.gpu_memory(model, eight, LIMITS, gpu_bytes=80 * GIB).kv_bytes_per_token
    assert "8 kv heads on 2 ranks" in found.lines[0].formula
    # The k and v matrices of one head (2 x 4096 x 128 values a layer) stay, everything else halves.
    one_head = 2 * 4096 * 128 * 2
    small, large = (memory.stage_weights(model, layout)[0].block_bytes[0] for layout in (sixteen, eight))
    norms = 2 * 4096 * 2
    assert large - one_head - norms == 2 * (small - one_head - norms)


@pytest.mark.parametrize(
    ("preset", "bytes_per_weight"),
    [
        ("none", 2.0),
        ("int8-weight-only", 1.0),
        ("fp8", 1.0),
        ("int4-weight-only", 0.5),
        ("int4-awq", 0.5 + 2 / 128),
        ("nvfp4", 0.5 + 1 / 16),
    ],
)
def test_bytes_of_a_quantized_weight(preset: str, bytes_per_weight: float) -> None:
    layout = Layout(dtype="bfloat16", preset=catalog.preset(preset))
    assert memory.matrix_bytes(1 << 20, layout) == bytes_per_weight * (1 << 20)


def test_quantization_leaves_embeddings_alone() -> None:
    model = named("llama-3-8b")
    (stage,) = memory.stage_weights(model, Layout(dtype="bfloat16", preset=catalog.preset("int4-awq")))
    assert stage.embedding_bytes == 128_256 * 4096 * 2
    assert stage.head_bytes == (128_256 * 4096 + 4096) * 2


POWERS = st.sampled_from([1, 2, 4, 8])


@given(model=st.sampled_from(MODELS), tp=POWERS, pp=POWERS, preset=st.sampled_from(catalog.presets()))
def test_cutting_never_loses_weights(model: ModelInfo, tp: int, pp: int, preset: catalog.Preset) -> None:
    one = Layout(dtype="float16", preset=preset)
    many = dataclasses.replace(one, tp_size=tp, pp_size=pp)
    assert memory.checkpoint_bytes(model, many) >= memory.checkpoint_bytes(model, one)
    # Several ranks need a copy of a tied table for lm_head: 4-bit gpt2 is larger on a rank of two than on one.
    copy = -(-model.vocab_size // tp) * model.hidden_size * 2 if model.tied_embeddings else 0
    fullest = max(stage.total for stage in memory.stage_weights(model, many))
    assert fullest <= memory.checkpoint_bytes(model, one) + copy


@given(
    model=st.sampled_from(MODELS),
    gib=st.integers(16, 192),
    batch=st.integers(1, 2048),
    tokens=st.integers(256, 1 << 17),
    tp=POWERS,
)
def test_the_lines_add_up_to_the_gpu(model: ModelInfo, gib: int, batch: int, tokens: int, tp: int) -> None:
    limits = Limits(max_batch_size=batch, max_seq_len=model.context_tokens, max_num_tokens=tokens)
    layout = Layout(dtype="bfloat16", preset=PLAIN, tp_size=tp)
    found = memory.gpu_memory(model, layout, limits, gpu_bytes=gib * GIB)
    by_label = {line.label: line.size_bytes for line in found.lines}
    told = {"key/value cache per token", "one longest sequence", "all slots at that length", "key/value cache pool"}
    fixed = sum(size for label, size in by_label.items() if label not in told)
    assert fixed == found.weights_bytes + found.activation_bytes + found.runtime_bytes
    assert found.kv_pool_bytes == max(int((gib * GIB - fixed) * memory.KV_FRACTION), 0)
    assert found.fits == (found.kv_tokens >= model.context_tokens)
    assert found.fits == (found.missing_bytes == 0)
    if not found.fits:
        enough = found.gpu_bytes + found.missing_bytes + MIB
        assert memory.gpu_memory(model, layout, limits, gpu_bytes=enough).fits


def test_host_room_of_a_70b_on_four_gpus() -> None:
    model = named("llama-3-70b-instruct")
    layout = Layout(dtype="bfloat16", preset=PLAIN, tp_size=4)
    room = memory.host_room(model, layout)
    assert room.snapshot_bytes - model.stored_bytes == memory.TOKENIZER_BYTES
    # Three more copies of the embedding table, and norms on every rank.
    extra = 3 * (128_256 * 8192 + 80 * 2 * 8192 + 8192) * 2
    assert room.checkpoint_bytes == 2 * model.parameters + extra
    assert room.disk_bytes == room.snapshot_bytes + room.checkpoint_bytes + room.engine_bytes
    assert room.shm_bytes == 2 * GIB
    assert memory.host_room(model, layout, workers=4).build_memory_bytes == 4 * room.build_memory_bytes
    assert memory.host_room(model, layout, is_calibrated=True).convert_memory_bytes > 2 * model.stored_bytes


@pytest.mark.parametrize(
    ("gpus", "memory_gib", "workers"), [(4, 1024, 4), (2, 1024, 2), (4, 160, 2), (4, 16, 1), (8, 1024, 4), (4, 0, 1)]
)
def test_build_workers(gpus: int, memory_gib: int, workers: int) -> None:
    layout = Layout(dtype="bfloat16", preset=PLAIN, tp_size=4)
    found = memory.build_workers(named("llama-3-70b"), layout, gpus=gpus, host_memory_bytes=memory_gib * GIB)
    assert found == workers


def test_lines_mark_estimates() -> None:
    found = memory.gpu_memory(named("gpt2"), Layout(dtype="float16", preset=PLAIN), LIMITS, gpu_bytes=16 * GIB)
    texts = dict(zip((line.label for line in found.lines), memory.text_lines(found.lines), strict=True))
    assert texts["layers"].startswith("layers                       =  162.2 MiB  12 of 12 layers x 14,175,744 B")
    assert " ~ " in texts["activations"]
