"""Checkpoints as the authors of CoLaR publish them, of a tiny model, and what their code computes with them.

    git clone https://github.com/xiaomi-research/colar target/colar && git -C target/colar checkout 4b6ae9a
    python3 -m venv target/lightning-venv && target/lightning-venv/bin/pip install -r tests/lightning/requirements.txt
    target/lightning-venv/bin/python tests/lightning/make_replica.py target/colar

The authors' unmodified modules train an adapter over tests/golden/llama-tiny for one step, and Lightning writes what it
writes for them: `checkpoints/last.ckpt` (a zip archive with a pickle, in which there are optimiser states and OmegaConf
objects) and `hparams.yaml`. Written to tests/golden/lightning, for the methods `colar`, `cot` and `distill`, with

* METHOD/golden.safetensors: `prompt` [T] the tokens of a question, `logits` [V] and `hidden` [H] of their last position, and,
  for `colar`, `mean` and `log_std` [H] of the latent head there; for `distill`, the first `thought` [H].

Everything is float32.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.saving import save_hparams_to_yaml
from omegaconf import OmegaConf
from safetensors.torch import save_file

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MODEL = "Llama-3.2-1B-Instruct"
QUESTION = "Tom has 3 pens and buys 4. How many has he?"
BATCH = {
    "idx": torch.tensor([0, 1]),
    "question": [QUESTION, "What is 2 times 9?"],
    "steps": ["3+4=7", "2*9=18"],
    "answer": ["7", "18"],
}


def config(method, authors):
    made = OmegaConf.load(authors / f"src/configs/models/{method}.yaml")
    kwargs = made.model.model_kwargs
    # Scaled down with the model; and so that a wrong scale, alpha / r, shows.
    kwargs.lora_config = {"r": 4, "lora_alpha": 6}
    kwargs.do_lora = True
    if method == "colar":
        kwargs.latent_policy_config.lp_intermediate_size = 24
    made.model.training_kwargs.optimizer.lr = 0.01
    return OmegaConf.merge(made, {"args": {"workspace_path": "workspace", "no_log": True}})


def make(method, authors):
    from src.models import colar, cot, distill

    # The authors' module of distill defines its class under this name.
    kinds = {"colar": colar.LitCoLaR, "cot": cot.LitCot, "distill": distill.LitCoLaR}
    settings = config(method, authors)
    torch.manual_seed(5)
    module = kinds[method](
        model_kwargs=settings.model.model_kwargs,
        training_kwargs=settings.model.training_kwargs,
        all_config=settings,
    )
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "lora_" in name:
                weight.normal_(0.0, 0.2)
    out = GOLDEN / "lightning" / method
    shutil.rmtree(out, ignore_errors=True)
    # Logs of the authors' own go to the working directory; validation would only measure.
    module.on_fit_start = lambda: None
    module.log_dict = lambda *args, **kwargs: None
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = torch.utils.data.DataLoader([0], collate_fn=lambda _: BATCH)
    trainer.fit(module, loader)
    trainer.save_checkpoint("last.ckpt")
    (out / "checkpoints").mkdir(parents=True)
    shutil.copy("last.ckpt", out / "checkpoints")
    # The function that Lightning's loggers write their hparams.yaml with.
    save_hparams_to_yaml(str(out / "hparams.yaml"), module.hparams)
    save_file(values(method, module.eval()), out / "golden.safetensors")


@torch.no_grad()
def values(method, module):
    speed = {"colar": 2, "cot": 1, "distill": "auto"}[method]
    suffix = module.speed_template.format(speed) + module.thinking_separator
    ids, mask = module.prepare_inputs(QUESTION, padding_side="left", part="question", suffix=suffix)
    out = module.llm.forward(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    hidden = out.hidden_states[-1][:, -1]
    # The last row of the authors' vocabulary is their padding token, which the model directory has not.
    found = {"prompt": ids[0], "logits": out.logits[0, -1, :-1], "hidden": hidden[0]}
    if method == "colar":
        policy = module.latent_policy
        inner = policy.fc(hidden)
        found |= {"mean": policy.mean(inner)[0], "log_std": policy.log_std(inner)[0]}
    if method == "distill":
        found["thought"] = module.latent_proj(hidden)[0]
    return {name: t.contiguous() for name, t in found.items()}


def main():
    authors = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(authors))
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        llms = Path("workspace/models/llms")
        llms.mkdir(parents=True)
        shutil.copytree(GOLDEN / "llama-tiny", llms / MODEL)
        for method in ["colar", "cot", "distill"]:
            make(method, authors)


main()
