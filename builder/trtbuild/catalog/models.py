"""Models known by alias, and the same facts read from any model's config.json.

It decides what a model is called and which numbers describe it. It does not download anything and does not judge what
can be built.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

from trtbuild.catalog.loading import load
from trtbuild.catalog.parameters import count_parameters, exact_architectures
from trtbuild.errors import SpecError
from trtbuild.untrusted import Fields, shown

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_LAYERS_LIMIT, _HEADS_LIMIT = 10_000, 100_000  # far beyond any model; what is counted one by one stays countable
_TIED_BY_DEFAULT = frozenset(
    {"GPT2LMHeadModel", "OPTForCausalLM", "FalconForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM"}
)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is known of a model without its weights.

    Attributes:
        name: Catalog alias, or the id of a model that is not in the catalog.
        model_id: Hugging Face id, or what the caller named.
        architecture: First entry of ``architectures`` in config.json.
        parameters: Weights a forward pass uses; a tied lm_head counts once.
        stored_parameters: Elements in the published weight files.
        is_exact: The parameter count is exact, not an estimate for an unknown architecture.
        layers: Decoder layers.
        heads: Query heads.
        kv_heads: Key/value heads.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLP (of one expert).
        head_dim: Width of one head.
        vocab_size: Rows of the embedding table.
        context_tokens: Longest sequence the model was made for.
        tied_embeddings: lm_head is the embedding table.
        dtype: Type of the published weights.
        gated: The hub asks for an account that accepted the licence.
        licence: Name of the licence.
        aliases: Other accepted names.
        experts: Experts per layer; 0 for a dense model.
        experts_per_token: Experts a token visits.
        sliding_window_tokens: Attention window of (some) layers.
        attention_bias: Biases on the attention's matrices beyond what the architecture always has.
        embedding_size: Width of the embedding table; differs from hidden_size only in some OPT models.
        final_norm: There is a norm after the last layer.
        new_decoder_architecture: Falcon 40B and later: two norms per layer.
        pre_quantized: ``quant_method`` of already quantized weights, or "".
        safetensors: The hub has safetensors, not only pickles.
        rope_type: How rotary positions are scaled, as config.json names it (``su`` is ``longrope``): ``default``,
            ``linear``, ``dynamic``, ``yarn``, ``llama3``, ``longrope``, ``mrope``; "" when it says nothing.
        original_context_tokens: Context before it was extended by such scaling; 0 when config.json names none.
        has_remote_code: config.json names Python code of the model's own (``auto_map``) for its configuration or class.
        note: What people of other tools should know.
        config: The config.json that was read, for backends that know an architecture in depth; None for the catalog's.
    """

    name: str
    model_id: str
    architecture: str
    parameters: int
    layers: int
    heads: int
    kv_heads: int
    hidden_size: int
    intermediate_size: int
    head_dim: int
    vocab_size: int
    context_tokens: int
    tied_embeddings: bool
    dtype: str
    gated: bool = False
    licence: str = ""
    aliases: tuple[str, ...] = ()
    stored_parameters: int = 0
    is_exact: bool = True
    experts: int = 0
    experts_per_token: int = 0
    sliding_window_tokens: int = 0
    attention_bias: bool = False
    embedding_size: int = 0
    final_norm: bool = True
    new_decoder_architecture: bool = False
    pre_quantized: str = ""
    safetensors: bool = True
    rope_type: str = ""
    original_context_tokens: int = 0
    has_remote_code: bool = False
    note: str = ""
    config: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.embedding_size:
            object.__setattr__(self, "embedding_size", self.hidden_size)
        if not self.stored_parameters:
            object.__setattr__(self, "stored_parameters", self.parameters)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the published weight files, without their headers (a few KiB per file)."""
        return self.stored_parameters * _DTYPE_BYTES[self.dtype]

    @classmethod
    def from_hf_config(cls, model_id: str, config: Mapping[str, Any]) -> ModelInfo:
        """Return the facts of a model from its parsed config.json.

        Reads the spellings of transformers 4 and 5 (``torch_dtype`` and ``dtype``), and the ``text_config`` of models
        that wrap a decoder.

        Raises:
            SpecError: No architecture or a size is missing or not a positive number.
        """
        text = config.get("text_config")
        merged = {**config, **text} if isinstance(text, Mapping) and "num_hidden_layers" not in config else config
        # transformers lists the class of the whole model at the top; the wrapped decoder may have none of its own.
        architectures = text.get("architectures") if isinstance(text, Mapping) and merged is not config else None
        architectures = architectures or config.get("architectures")
        if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
            raise SpecError(
                f"{model_id}: config.json names no architecture (architectures: {shown(architectures)})",
                hint="expected a decoder such as LlamaForCausalLM; is this the directory of a text-generation model?",
            )
        if not re.fullmatch(r"\w{1,100}", architectures[0], re.ASCII):
            raise SpecError(
                f"{model_id}: config.json: architectures: expected the name of a class, got {shown(architectures[0])}",
                hint="expected a decoder such as LlamaForCausalLM; is this the directory of a text-generation model?",
            )
        model = _read_shape(model_id, architectures[0], merged)
        return replace(
            model,
            parameters=count_parameters(model).total,
            stored_parameters=count_parameters(model).total,
            is_exact=architectures[0] in exact_architectures(),
        )


def rope_settings(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the options of rotary positions with one spelling.

    ``rope_parameters`` is transformers 5's name, ``rope_scaling`` 4's; ``type`` is older than ``rope_type``, and ``su``
    is what Phi-3's first configurations call ``longrope``. Models with several kinds of layers have an object for each;
    the one of full attention counts. ``rope_type`` is "" where nothing is said.

    Raises:
        SpecError: They are no object.
    """
    given = Fields(where, config)
    settings = dict(given.object("rope_parameters") or given.object("rope_scaling"))
    if isinstance(settings.get("full_attention"), dict):
        settings = dict(settings["full_attention"])
    kind = settings.get("rope_type") or settings.get("type") or ""
    if not isinstance(kind, str) or not re.fullmatch(r"[\w-]{0,40}", kind, re.ASCII):
        raise SpecError(
            f"{where}: rope_type: expected a name such as llama3, got {shown(kind)}",
            hint="the file is damaged or not a model's; download the model again",
        )
    settings["rope_type"] = {"su": "longrope"}.get(kind, kind)
    for name in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if settings.get(name) is None:
            settings[name] = config.get(name)
    return settings


def _read_shape(model_id: str, architecture: str, values: Mapping[str, Any]) -> ModelInfo:
    where = f"{model_id}: config.json"
    config = Fields(where, values)
    hidden = config.size("hidden_size", "n_embd", "d_model")
    heads = config.size("num_attention_heads", "n_head", "n_heads", limit=_HEADS_LIMIT)
    if heads > hidden:
        raise SpecError(
            f"{where}: {heads} attention heads share {hidden} channels, expected at least one for each",
            hint="the file is damaged or not a model's; download the model again",
        )
    new_falcon = config.flag("new_decoder_architecture")
    if architecture == "FalconForCausalLM" and not new_falcon:
        kv_heads = 1 if config.flag("multi_query", True) else heads
    else:
        kv_heads = config.size("num_key_value_heads", "num_kv_heads", default=heads, limit=_HEADS_LIMIT)
    experts = config.size("num_local_experts", "num_experts", default=0, limit=_HEADS_LIMIT)
    inner_names: tuple[str, ...] = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
    if experts:
        inner_names = ("moe_intermediate_size", *inner_names)
    quantization = config.object("quantization_config")
    dtype = (config.text("dtype") or config.text("torch_dtype")).removeprefix("torch.") or "float32"
    rope = rope_settings(values, where)
    return ModelInfo(
        name=model_id,
        model_id=model_id,
        architecture=architecture,
        parameters=0,
        layers=config.size("num_hidden_layers", "n_layer", "num_layers", limit=_LAYERS_LIMIT),
        heads=heads,
        kv_heads=kv_heads,
        hidden_size=hidden,
        intermediate_size=config.size(*inner_names, default=4 * hidden),
        head_dim=config.size("head_dim", default=hidden // heads),
        vocab_size=config.size("vocab_size"),
        context_tokens=config.size("max_position_embeddings", "n_positions", "seq_length", default=2048),
        tied_embeddings=config.flag("tie_word_embeddings", architecture in _TIED_BY_DEFAULT),
        dtype=dtype if dtype in _DTYPE_BYTES else "bfloat16",
        experts=experts,
        experts_per_token=config.size("num_experts_per_tok", default=1) if experts else 0,
        sliding_window_tokens=_sliding_window(config, architecture),
        attention_bias=config.flag("attention_bias"),
        embedding_size=config.size("word_embed_proj_dim", default=hidden),
        final_norm=config.flag("do_layer_norm_before", True),
        new_decoder_architecture=new_falcon,
        pre_quantized=_quantization(quantization) if quantization else "",
        rope_type=rope["rope_type"],
        original_context_tokens=Fields(where, rope).size("original_max_position_embeddings", default=0),
        has_remote_code=bool({"AutoConfig", "AutoModelForCausalLM"} & set(config.object("auto_map"))),
        config=values,
    )


def _sliding_window(config: Fields, architecture: str) -> int:
    """Return the attention window, 0 for none.

    Qwen writes one into every config and switches it off with ``use_sliding_window``, whose default is false.
    Source: transformers, models/qwen2/configuration_qwen2.py.
    """
    is_on = config.flag("use_sliding_window", not architecture.startswith("Qwen"))
    return config.size("sliding_window", default=0) if is_on else 0


def _quantization(settings: Mapping[str, Any]) -> str:
    method = settings.get("quant_method", "unknown")
    return method if isinstance(method, str) and re.fullmatch(r"[\w.-]{1,40}", method, re.ASCII) else "unknown"


@cache
def models() -> tuple[ModelInfo, ...]:
    """Return the catalog in its written order."""
    known = {each.name for each in fields(ModelInfo)} - {"config"}
    found = []
    for name, entry in load("models")["models"].items():
        if unknown := set(entry) - known:
            raise TypeError(f"models.yaml: {name}: unknown keys {sorted(unknown)}")
        found.append(ModelInfo(name=name, **{**entry, "aliases": tuple(entry.get("aliases", ()))}))
    return tuple(found)


def _fold(name: str) -> str:
    """Return ``name`` without case, dashes, underscores and spaces: opt125m, OPT-125m and opt_125m are one name."""
    return re.sub(r"[-_ ]", "", name.lower())


@cache
def _by_name() -> dict[str, ModelInfo]:
    index: dict[str, ModelInfo] = {}
    for model in models():
        for name in (model.name, model.model_id, *model.aliases):
            if index.setdefault(_fold(name), model) is not model:
                raise ValueError(f"models.yaml: {name!r} names two models")
    return index


def find_model(name: str) -> ModelInfo | None:
    """Return the catalog's entry for an alias or a Hugging Face id, in any case and dashing; None when unknown."""
    return _by_name().get(_fold(name))


def closest_models(name: str, *, count: int = 3) -> tuple[str, ...]:
    """Return up to ``count`` catalog aliases that look like ``name``, nearest first."""
    near = difflib.get_close_matches(_fold(name), list(_by_name()), n=3 * count, cutoff=0.5)
    return tuple(dict.fromkeys(_by_name()[key].name for key in near))[:count]
