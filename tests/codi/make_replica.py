"""A checkpoint as SIM-CoT and CODI publish them, of a tiny model, and what their code computes with it.

    git clone https://github.com/InternLM/SIM-CoT target/sim-cot && git -C target/sim-cot checkout f3ae967
    python3 -m venv target/codi-venv && target/codi-venv/bin/pip install -r tests/lightning/requirements.txt
    target/codi-venv/bin/python tests/codi/make_replica.py target/sim-cot

Their unmodified class CODI, with the auxiliary decoder that SIM-CoT trains with, over a Llama of random weights. Written to
tests/golden/codi:

* base/: config.json and tokenizer of the model that it is over (the tokenizer of tests/golden/llama-tiny, which here puts a
  token before each text, as that of Llama 3 does);
* model.safetensors: the checkpoint, all weights in bfloat16, under the names that their training writes;
* golden.json: questions, their prompts, and the tokens that follow six thoughts, greedily, by the loop of their test program;
* golden.safetensors: `N.hidden` [6, H] the last hidden state of question N's prompt and of its first five thoughts, which the
  projector makes the thoughts of, and `N.logits` [V] those that choose the first token of its answer.

The arithmetic is float32.
"""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from peft import LoraConfig, TaskType
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
OUT = GOLDEN / "codi"
BASE = OUT / "base"
THOUGHTS = 6
NEW_TOKENS = 8
# Continuations whose best two logits are nearer than this somewhere would not tell a wrong engine from rounding.
LEAST_GAP = 0.01
QUESTIONS = [
    "Tom has 3 pens and buys 4. How many has he?",
    "A tray holds 6 rolls. A baker fills 3 trays. How many rolls are there?",
    "What is 2 times 9?",
    "Mia had 12 pens and sold 5 of them. How many are left?",
    "A rope of 20 m is cut into 4 equal pieces. How long is each?",
    "How many wheels have 5 cars?",
    "Half of 30 is?",
    "Add 7 and 5.",
    "Ben reads 4 pages a day. How many in 6 days?",
]


def make_base():
    shutil.rmtree(OUT, ignore_errors=True)
    BASE.mkdir(parents=True)
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        rope_theta=10000.0,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(BASE)
    made = json.loads((GOLDEN / "llama-tiny/tokenizer.json").read_text())
    first = next(token["content"] for token in made["added_tokens"] if token["id"] == 0)
    made["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {first: {"id": first, "ids": [0], "tokens": [first]}},
    }
    (BASE / "tokenizer.json").write_text(json.dumps(made))
    eos = next(token["content"] for token in made["added_tokens"] if token["id"] == 1)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "bos_token": first}
    (BASE / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")


def make_model(authors):
    sys.path.insert(0, str(authors / "CODI"))
    from src import model as theirs

    class Older:
        """As in the transformers that their code is for, which took two options more."""

        @staticmethod
        def from_pretrained(path, use_flash_attention_2=False, resume_download=True, **options):
            return AutoModelForCausalLM.from_pretrained(path, **options)

    theirs.AutoModelForCausalLM = Older
    # "Slow" tokenizers are of that time too; what their class reads of it is the padding token.
    theirs.AutoTokenizer = SimpleNamespace(
        from_pretrained=lambda path, use_fast: PreTrainedTokenizerFast.from_pretrained(path)
    )
    model_args = SimpleNamespace(
        model_name_or_path=str(BASE), full_precision=True, use_decoder=True, decoder_path=None, soft_weight=None, train=False
    )
    training_args = SimpleNamespace(
        bf16=True, num_latent=THOUGHTS, use_lora=True, use_prj=True, prj_dim=40, prj_dropout=0.0, prj_no_ln=False,
        print_loss=False, ref_loss_factor=1.0, distill_loss_div_std=False, distill_loss_type="smooth_l1",
        distill_loss_factor=1.0, explain_loss_factor=1.0, fix_attn_mask=False,
    )
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM, inference_mode=False, r=4, lora_alpha=8, lora_dropout=0.1,
        target_modules=targets, init_lora_weights=True,
    )
    torch.manual_seed(3)
    model = theirs.CODI(model_args, training_args, lora)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name or name.startswith("prj."):
                weight.add_(torch.randn_like(weight) * 0.2)
        # Rounded one by one: casting the module would round the frequencies of its rotary embedding too.
        for weight in model.parameters():
            weight.data = weight.to(torch.bfloat16).float()
    return model.float().eval()


@torch.no_grad()
def answer(model, tokenizer, question):
    """The loop of their test program, for one question."""
    ids = tokenizer(question, return_tensors="pt")["input_ids"]
    ids = torch.cat([ids, torch.tensor([[model.bot_id]])], dim=1)
    out = model.codi(input_ids=ids, use_cache=True, output_hidden_states=True)
    states = [out.hidden_states[-1][:, -1, :]]
    latent = model.prj(out.hidden_states[-1][:, -1, :].unsqueeze(1))
    for _ in range(THOUGHTS):
        out = model.codi(
            inputs_embeds=latent, use_cache=True, output_hidden_states=True, past_key_values=out.past_key_values
        )
        states.append(out.hidden_states[-1][:, -1, :])
        latent = model.prj(out.hidden_states[-1][:, -1, :].unsqueeze(1))
    embed = model.get_embd(model.codi, model.model_name)
    given, tokens, gap, first = embed(torch.tensor([[model.eot_id]])), [], float("inf"), None
    for _ in range(NEW_TOKENS):
        out = model.codi(inputs_embeds=given, use_cache=True, past_key_values=out.past_key_values)
        first = out.logits[0, -1] if first is None else first
        best = out.logits[0, -1].topk(2)
        gap = min(gap, (best.values[0] - best.values[1]).item())
        tokens.append(best.indices[0].item())
        if tokens[-1] == tokenizer.eos_token_id:
            break
        given = embed(torch.tensor([tokens[-1:]]))
    return ids[0].tolist(), tokens, gap, torch.cat(states[:THOUGHTS]), first


def main():
    authors = Path(sys.argv[1]).resolve()
    make_base()
    model = make_model(authors)
    (BASE / "model.safetensors").unlink()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BASE)
    rows, vectors = [], {}
    for question in QUESTIONS:
        prompt, tokens, gap, states, logits = answer(model, tokenizer, question)
        if gap < LEAST_GAP or len(rows) == 3:
            continue
        assert max(tokens) < model.pad_token_id, tokens
        vectors |= {f"{len(rows)}.hidden": states, f"{len(rows)}.logits": logits}
        rows.append({"question": question, "prompt": prompt, "tokens": tokens})
    assert len(rows) == 3, rows
    save_file({name: t.clone().contiguous() for name, t in vectors.items()}, OUT / "golden.safetensors")
    (OUT / "golden.json").write_text(json.dumps(rows, indent=1) + "\n")
    # The output head is the embedding; safetensors keeps one name of what is shared.
    state = {name: t.to(torch.bfloat16).contiguous() for name, t in model.state_dict().items() if "lm_head" not in name}
    save_file(state, OUT / "model.safetensors", metadata={"format": "pt"})


main()
