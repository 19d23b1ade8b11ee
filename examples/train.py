"""Train the example checkpoint `pydoc-llama` from scratch, on one CPU core, from text that every Python ships.

The result is an ordinary Hugging Face checkpoint of a Llama with about two million parameters: small enough to live in
the repository, real enough (grouped-query attention, tied embeddings, chat template, bf16) to go through every stage of
trtbuild. It writes legible English; it does not know anything.

    python examples/train.py --work-dir /tmp/pydoc-llama --out examples/pydoc-llama

Needs torch, tokenizers, safetensors and (for the final check only) transformers. A killed run resumes from
`--work-dir`; the same seed, Python, torch and steps give the same checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

# One thread each: OpenMP barriers and the tokenizer pool only cost time on a core or two, and the merge order of the
# tokenizer stays reproducible. Must be set before the libraries load.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from corpus import QUESTIONS, Document, Message, fingerprint, make_chats, read_corpus
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL_TOKENS = (PAD, BOS, EOS, *ROLE_TOKENS)  # ids 0 to 5, in this order

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role'] + ': expected system, user or assistant') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

CHAT_ROUNDS = 8
CHAT_FRACTION = 0.4
MAX_SAMPLE_TOKENS = 96
MAX_LOGIT_DIFFERENCE = 1e-3  # float32 rounding of two orders of summation stays far below
HELD_OUT_EVERY = 50  # every n-th document is kept out of the training text


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of the network, in the words of the Hugging Face `LlamaConfig`."""

    vocab_size: int = 2048
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 32
    max_position_embeddings: int = 1024
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5

    def to_hf(self) -> dict[str, object]:
        """Return the content of `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **asdict(self),
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "initializer_range": 0.02,
            "rope_scaling": None,
            "tie_word_embeddings": True,
            "use_cache": True,
            "pretraining_tp": 1,
            **special_token_ids(),
            "torch_dtype": "bfloat16",
        }


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the training runs; every field changes the weights."""

    steps: int
    seed: int
    batch_tokens: int = 2048
    seq_len: int = 256
    long_seq_len: int = 1024
    long_every: int = 8
    warmup_steps: int = 100
    peak_lr: float = 3e-3
    final_lr_fraction: float = 0.02
    decay_fraction: float = 0.6
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0

    @property
    def decay_start(self) -> int:
        """The step the learning rate starts to fall at."""
        return max(self.warmup_steps, round(self.steps * (1 - self.decay_fraction)))


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions; parameter names as in Hugging Face."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=False)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map `x: f32[batch, seq, hidden]` to the same shape."""
        batch, seq, _ = x.shape

        def heads(projected: Tensor) -> Tensor:
            return projected.view(batch, seq, -1, self.head_dim).transpose(1, 2)

        query, key = rotate(heads(self.q_proj(x)), cos, sin), rotate(heads(self.k_proj(x)), cos, sin)
        value = heads(self.v_proj(x))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        projected: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, seq, -1))
        return projected


class Mlp(nn.Module):
    """The gated SiLU feed-forward block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x: f32[batch, seq, hidden]` to the same shape."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map `x: f32[batch, seq, hidden]` to the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Llama(nn.Module):
    """A Llama whose `state_dict` is, name by name, what `LlamaForCausalLM` expects without its `model.` prefix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # Residual branches start small, so that depth does not scale the variance of the stream.
                is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.num_hidden_layers) if is_residual else 0.02)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map `input_ids: int64[batch, seq]` to `logits: f32[batch, seq, vocab]`."""
        cos, sin = rotary_tables(self.config, input_ids.shape[1])
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return functional.linear(self.norm(x), self.embed_tokens.weight)


def rotary_tables(config: ModelConfig, seq_len: int) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines, each `f32[seq, head_dim]`, the two halves alike as in Hugging Face."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(seq_len, dtype=torch.float32), 1.0 / config.rope_theta**exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to `x: f32[batch, heads, seq, head_dim]`."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def train_tokenizer(documents: list[Document], chats: list[list[Message]], vocab_size: int) -> Tokenizer:
    """Train the byte-level BPE on the same text the model will read."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [d.text for d in documents] + [message["content"] for chat in chats for message in chat]
    tokenizer.train_from_iterator(texts, trainer)
    bos_id = tokenizer.token_to_id(BOS)
    # As Llama does: plain text gets a <|bos|>; a rendered chat already has one and is encoded without special tokens.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos_id)]
    )
    return tokenizer


def special_token_ids() -> dict[str, int]:
    """Return the ids that `config.json` and `generation_config.json` repeat."""
    ids = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    return {"bos_token_id": ids[BOS], "eos_token_id": ids[EOS], "pad_token_id": ids[PAD]}


def render_chat(chat: list[Message]) -> str:
    """Render a conversation as `CHAT_TEMPLATE` does; `verify` checks that the two agree."""
    return BOS + "".join(f"<|{message['role']}|>{message['content'].strip()}{EOS}" for message in chat)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Documents end to end: `tokens: int64[n]`, and where in it each one starts."""

    tokens: Tensor
    starts: Tensor

    @classmethod
    def pack(cls, texts: list[str], tokenizer: Tokenizer, *, seed: int) -> Stream:
        """Shuffle the texts (each with its special tokens spelled out), encode and concatenate them."""
        shuffled = random.Random(seed).sample(texts, len(texts))
        ids: list[int] = []
        starts = []
        for encoding in tokenizer.encode_batch(shuffled, add_special_tokens=False):
            starts.append(len(ids))
            ids.extend(encoding.ids)
        return cls(tokens=torch.tensor(ids), starts=torch.tensor(starts))

    def sample(self, seq_len: int, at_start: bool, generator: torch.Generator) -> Tensor:
        """Return a window `int64[seq_len + 1]`, from the start of a document or from anywhere."""
        last = len(self.tokens) - seq_len - 1
        if at_start:
            start = int(self.starts[int(torch.randint(len(self.starts), (), generator=generator))])
        else:
            start = int(torch.randint(last, (), generator=generator))
        start = min(start, last)
        return self.tokens[start : start + seq_len + 1]


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the model reads."""

    text: Stream
    chat: Stream
    held_out: Stream


def make_data(tokenizer: Tokenizer, documents: list[Document], chats: list[list[Message]], seed: int) -> Data:
    """Encode the corpus, and set every n-th document aside to measure on, if no chat gives it away."""
    rendered = [f"{BOS}{d.text}{EOS}" for d in documents]
    kept = [text for index, text in enumerate(rendered) if index % HELD_OUT_EVERY]
    unseen = [text for text, d in list(zip(rendered, documents, strict=True))[::HELD_OUT_EVERY] if not d.is_asked]
    return Data(
        text=Stream.pack(kept, tokenizer, seed=seed),
        chat=Stream.pack([render_chat(chat) for chat in chats], tokenizer, seed=seed),
        held_out=Stream.pack(unseen, tokenizer, seed=seed),
    )


def sample_batch(data: Data, recipe: Recipe, step: int) -> Tensor:
    """Return the batch of a step, `int64[rows, seq + 1]`; seed and step decide it, so a resumed run repeats it."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    is_long = step % recipe.long_every == recipe.long_every - 1
    seq_len = recipe.long_seq_len if is_long else recipe.seq_len
    rows = []
    for _ in range(recipe.batch_tokens // seq_len):
        is_chat = float(torch.rand((), generator=generator)) < CHAT_FRACTION
        # A prompt always begins a document, so most windows do.
        at_start = is_chat or float(torch.rand((), generator=generator)) < 0.5
        rows.append((data.chat if is_chat else data.text).sample(seq_len, at_start, generator))
    return torch.stack(rows)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the linear warm-up, then the peak, then a cosine down to a fraction of it."""
    if step < recipe.warmup_steps:
        return recipe.peak_lr * (step + 1) / recipe.warmup_steps
    progress = max(0.0, (step - recipe.decay_start) / max(1, recipe.steps - recipe.decay_start))
    floor = recipe.final_lr_fraction
    return recipe.peak_lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def batch_loss(model: Llama, batch: Tensor) -> Tensor:
    """Return the mean cross-entropy per token, in nats."""
    logits = model(batch[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def train(model: Llama, data: Data, recipe: Recipe, state_path: Path, save_every: int) -> float:
    """Train to the last step, resuming from `state_path` when it exists; return the mean loss of the last 100 steps."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=(0.9, 0.95), fused=True)
    first_step, losses = load_state(state_path, recipe, model, optimizer)
    started = time.monotonic()
    for step in range(first_step, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # up to twice as fast as float32
            loss = batch_loss(model, sample_batch(data, recipe, step))
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses = [*losses[-99:], loss.item()]
        done = step + 1
        if done % 20 == 0 or done == recipe.steps:
            step_s = (time.monotonic() - started) / (done - first_step)
            left_s = step_s * (recipe.steps - done)
            loss_now = sum(losses[-20:]) / 20
            print(f"step {done}/{recipe.steps} loss {loss_now:.3f} {step_s:.3f} s/step {left_s:.0f} s left", flush=True)
        if done % save_every == 0 or done == recipe.steps:
            save_state(state_path, recipe, done, losses, model, optimizer)
    return sum(losses) / max(1, len(losses))


def save_state(
    path: Path, recipe: Recipe, step: int, losses: list[float], model: Llama, optimizer: torch.optim.Optimizer
) -> None:
    """Write what a resumed run needs, so that a kill at any moment leaves the old state or the new one."""
    state = {"recipe": asdict(recipe), "step": step, "losses": losses, "model": model.state_dict()}
    partial = path.with_suffix(".partial")
    torch.save({**state, "optimizer": optimizer.state_dict()}, partial)
    partial.replace(path)


def load_state(
    path: Path, recipe: Recipe, model: Llama, optimizer: torch.optim.Optimizer | None
) -> tuple[int, list[float]]:
    """Restore a saved state, if there is one; return the next step and the last losses."""
    if not path.exists():
        return 0, []
    state = torch.load(path, weights_only=True)
    saved = Recipe(**state["recipe"])
    # The number of steps may change: how a run that takes too long is brought to its end.
    if replace(saved, steps=recipe.steps) != recipe or state["step"] > recipe.steps:
        raise SystemExit(f"error: {path} is at step {state['step']} of {saved}, expected {recipe}\nhint: rm {path}")
    model.load_state_dict(state["model"])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), list(state["losses"])


@torch.no_grad()
def evaluate(model: Llama, stream: Stream, seq_len: int) -> float:
    """Return the mean loss per token over the whole stream, cut into windows."""
    windows = (len(stream.tokens) - 1) // seq_len
    rows = torch.stack([stream.tokens[i * seq_len : (i + 1) * seq_len + 1] for i in range(windows)])
    return sum(batch_loss(model, rows[i : i + 8]).item() * len(rows[i : i + 8]) for i in range(0, windows, 8)) / windows


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """A greedy continuation without its end token; `smallest_gap`: how close the second choice ever came, in logits."""

    output_ids: list[int]
    is_finished: bool
    smallest_gap: float


@torch.no_grad()
def generate(model: Llama, prompt_ids: list[int], max_new_tokens: int) -> Greedy:
    """Continue until the end token or the limit, without a cache: this is the reference, not an engine."""
    output_ids: list[int] = []
    smallest_gap = math.inf
    is_finished = False
    while not is_finished and len(output_ids) < max_new_tokens:
        best = model(torch.tensor([prompt_ids + output_ids]))[0, -1].topk(2)
        smallest_gap = min(smallest_gap, float(best.values[0] - best.values[1]))
        output_ids.append(int(best.indices[0]))
        is_finished = output_ids[-1] == special_token_ids()["eos_token_id"]
    return Greedy(
        output_ids=output_ids[:-1] if is_finished else output_ids,
        is_finished=is_finished,
        smallest_gap=round(smallest_gap, 4),
    )


def recall(model: Llama, tokenizer: Tokenizer, documents: list[Document]) -> tuple[int, int]:
    """Ask about every well-known name; return how many answers are the documentation word for word, and of how many."""
    known = [d for d in documents if d.is_asked and d.is_well_known]
    right = 0
    for document in known:
        chat = [{"role": "user", "content": QUESTIONS[document.kind][0].format(name=document.name)}]
        ids = tokenizer.encode(render_chat(chat) + "<|assistant|>", add_special_tokens=False).ids
        expected = tokenizer.encode(document.answer, add_special_tokens=False).ids
        right += generate(model, ids, len(expected) + 1).output_ids == expected
    return right, len(known)


def save_checkpoint(out: Path, model: Llama, tokenizer: Tokenizer) -> None:
    """Write the checkpoint directory: weights in bf16, and the configuration files transformers would write."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors writes for the owner only
    tokenizer.save(str(out / "tokenizer.json"))
    named = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    added = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    write_json(out / "config.json", model.config.to_hf())
    write_json(out / "generation_config.json", {**special_token_ids(), "do_sample": False, "max_new_tokens": 128})
    roles = {"additional_special_tokens": list(ROLE_TOKENS)}
    token_map: dict[str, object] = {key: {"content": token, **added} for key, token in named.items()}
    write_json(out / "special_tokens_map.json", token_map | roles)
    decoder = {str(i): {"content": token, **added, "special": True} for i, token in enumerate(SPECIAL_TOKENS)}
    write_json(
        out / "tokenizer_config.json",
        {
            "added_tokens_decoder": decoder,
            **roles,
            **named,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": model.config.max_position_embeddings,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def write_json(path: Path, value: dict[str, object]) -> None:
    """Write readable JSON that ends in a newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_checkpoint(out: Path, config: ModelConfig) -> Llama:
    """Read the saved weights back, rounded to bf16 as a user will get them, as float32."""
    model = Llama(config)
    weights = load_file(out / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): value.float() for name, value in weights.items()})
    return model.eval()


def read_prompts(path: Path) -> Iterator[tuple[bool, str]]:
    """Yield `(is_chat, prompt)` for each line of `prompts.txt`: `chat:` or `text:`, then the prompt."""
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, separator, prompt = line.partition(": ")
        if line and not line.startswith("#"):
            if kind not in ("chat", "text") or not separator:
                raise SystemExit(f"error: {path}: got {line!r}, expected 'chat: PROMPT' or 'text: PROMPT'")
            yield kind == "chat", prompt


def verify(out: Path, config: ModelConfig) -> None:
    """Check that transformers computes the same from the checkpoint; write what it answers to `prompts.txt`.

    Raises:
        SystemExit: The logits, the greedy tokens or the rendered chat differ from ours.
    """
    from transformers import AutoTokenizer, LlamaForCausalLM

    ours = load_checkpoint(out, config)
    theirs: Any = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(out)
    worst = 0.0
    lines = []
    for is_chat, prompt in read_prompts(out / "prompts.txt"):
        text = prompt_text(is_chat, prompt, tokenizer)
        ids = tokenizer(text, add_special_tokens=not is_chat)["input_ids"]
        greedy = generate(ours, ids, MAX_SAMPLE_TOKENS)
        with torch.no_grad():
            worst = max(worst, float((ours(torch.tensor([ids])) - theirs(torch.tensor([ids])).logits).abs().max()))
            output = theirs.generate(torch.tensor([ids]), max_new_tokens=MAX_SAMPLE_TOKENS, do_sample=False)
        actual = [i for i in output[0, len(ids) :].tolist() if i != tokenizer.eos_token_id]
        if actual != greedy.output_ids:
            raise SystemExit(f"error: greedy tokens of {prompt!r}: transformers {actual}, this script {greedy}")
        kind = "chat" if is_chat else "text"
        sample = {
            "kind": kind,
            "prompt": prompt,
            "output": tokenizer.decode(actual),
            "prompt_ids": ids,
            **asdict(greedy),
        }
        lines.append(json.dumps(sample, ensure_ascii=False) + "\n")
    if worst > MAX_LOGIT_DIFFERENCE:
        raise SystemExit(f"error: logits differ by {worst}, expected at most {MAX_LOGIT_DIFFERENCE}")
    (out / "greedy.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"transformers agrees on {len(lines)} prompts: same greedy tokens, logits at most {worst:.1e} apart")


def prompt_text(is_chat: bool, prompt: str, tokenizer: Any) -> str:
    """Return what to encode for a prompt: itself, or the conversation that asks it, as the chat template renders it."""
    if not is_chat:
        return prompt
    chat = [{"role": "user", "content": prompt}]
    rendered: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    expected = render_chat(chat) + "<|assistant|>"
    if rendered != expected:
        raise SystemExit(f"error: the chat template renders {rendered!r}, the model was trained on {expected!r}")
    return rendered


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=here / "pydoc-llama", help="checkpoint directory with prompts.txt")
    parser.add_argument("--work-dir", type=Path, required=True, help="where the resumable training state is kept")
    parser.add_argument("--steps", type=int, default=3300, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the batches and the chats (default: 0)")
    parser.add_argument("--save-every", type=int, default=100, help="steps between states (default: %(default)s)")
    parser.add_argument("--export-only", action="store_true", help="write the checkpoint from the saved state")
    return parser.parse_args()


def main() -> None:
    """Train (or resume), save, measure and verify."""
    args = parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    config, recipe = ModelConfig(), Recipe(steps=args.steps, seed=args.seed)
    documents = read_corpus()
    chats = make_chats(documents, CHAT_ROUNDS, args.seed)
    tokenizer = train_tokenizer(documents, chats, config.vocab_size)
    data = make_data(tokenizer, documents, chats, args.seed)
    model = Llama(config)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"corpus: {len(documents)} documents, sha256 {fingerprint(documents)}")
    print(f"tokens: {len(data.text.tokens)} of text, {len(data.chat.tokens)} of {len(chats)} chats", flush=True)
    print(f"model: {parameters} parameters")
    state_path = args.work_dir / "state.pt"
    if args.export_only:
        step, losses = load_state(state_path, recipe, model, None)
        loss = sum(losses) / max(1, len(losses))
        print(f"exporting step {step}")
    else:
        loss = train(model, data, recipe, state_path, args.save_every)
    save_checkpoint(args.out, model, tokenizer)
    saved = load_checkpoint(args.out, config)
    held_out = evaluate(saved, data.held_out, recipe.seq_len)
    print(f"training loss {loss:.3f}, held-out loss {held_out:.3f} nats per token")
    right, known = recall(saved, tokenizer, documents)
    print(f"well-known names answered word for word: {right} of {known}")
    verify(args.out, config)


if __name__ == "__main__":
    main()
