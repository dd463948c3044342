"""Exports tiny random decoders of the families people use, with sequences to convert and evaluate them.

    python scripts/export_decoders.py OUT [--families opt,phi] [--forms dynamo,torchscript,past]
    shiftformer convert OUT/opt.dynamo.onnx --calib OUT/opt.seq.npz --context 24 -o opt.sfm
    shiftformer eval opt.sfm --data OUT/opt.seq.npz

`dynamo` and `torchscript`: PyTorch's two exporters, `input_ids -> logits`. `past`: optimum, with `past_key_values` and
`present`. The sequences hold ids `[48, 24]` and the logits of the PyTorch model.

Needs torch, transformers, onnxscript; for `past` optimum-onnx.
"""
import argparse
import os
import sys
import tempfile

import numpy as np
import torch
import transformers as t

VOCABULARY = 96
LENGTH = 24
SEQUENCES = 48
BASE = dict(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, max_position_embeddings=64)
LLAMA = dict(BASE, intermediate_size=128, num_key_value_heads=2)

FAMILIES = {
    "gpt2": lambda: t.GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=64, bos_token_id=1,
                                 eos_token_id=2),
    "opt": lambda: t.OPTConfig(**BASE, ffn_dim=128, word_embed_proj_dim=64),
    "gpt_neox": lambda: t.GPTNeoXConfig(**BASE, intermediate_size=128, rotary_pct=0.25),
    "pythia_serial": lambda: t.GPTNeoXConfig(**BASE, intermediate_size=128, use_parallel_residual=False),
    "smollm": lambda: t.LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "mistral": lambda: t.MistralConfig(**LLAMA, sliding_window=None),
    "qwen2": lambda: t.Qwen2Config(**LLAMA),
    "qwen3": lambda: t.Qwen3Config(**LLAMA, head_dim=16),
    "gemma": lambda: t.GemmaConfig(**LLAMA, head_dim=16),
    "gemma2": lambda: t.Gemma2Config(**LLAMA, head_dim=16, query_pre_attn_scalar=16, sliding_window=64),
    "gemma3": lambda: t.Gemma3TextConfig(**LLAMA, head_dim=16, query_pre_attn_scalar=16, sliding_window=64),
    "phi": lambda: t.PhiConfig(**BASE, intermediate_size=128, partial_rotary_factor=0.5),
    "phi3": lambda: t.Phi3Config(**LLAMA, sliding_window=None),
    "stablelm": lambda: t.StableLmConfig(**LLAMA, partial_rotary_factor=0.25, use_qkv_bias=True),
    "stablelm_parallel": lambda: t.StableLmConfig(**LLAMA, use_parallel_residual=True),
    "windowed": lambda: t.MistralConfig(**LLAMA, sliding_window=8),
}


def model_of(family):
    """The family's model with random weights whose logits depend on all of the sequence."""
    torch.manual_seed(17)
    config = FAMILIES[family]()
    config._attn_implementation = "eager"
    model = t.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    for name, value in model.named_parameters():
        if value.ndim == 2 and "embed" not in name and "wte" not in name and "wpe" not in name and "lm_head" not in name:
            value.data.normal_(0, 1.2 / max(value.shape[1], 1) ** 0.5)
        elif value.ndim == 2:
            value.data.normal_(0, 0.4 if "wpe" in name or "embed_positions" in name else 1.0)
            if "gemma" in family:
                value.data /= 8.0
        elif "bias" in name:
            value.data.normal_(0, 0.1)
        else:
            value.data += torch.empty_like(value).uniform_(-0.3, 0.3)
    return model


class Plain(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, use_cache=False).logits


def export(model, form, path, ids):
    if form == "dynamo":
        length = torch.export.Dim("length", min=2, max=64)
        torch.onnx.export(Plain(model), (ids,), path, input_names=["input_ids"], output_names=["logits"], dynamo=True,
                          dynamic_shapes={"input_ids": {1: length}}, external_data=False, verbose=False)
    elif form == "torchscript":
        torch.onnx.export(Plain(model), (ids,), path, input_names=["input_ids"], output_names=["logits"], dynamo=False,
                          dynamic_axes={"input_ids": {0: "batch", 1: "length"}, "logits": {0: "batch", 1: "length"}},
                          opset_version=17)
    else:
        from optimum.exporters.onnx import main_export

        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder + "/in")
            main_export(folder + "/in", folder + "/out", task="text-generation-with-past", do_validation=False)
            import onnx

            onnx.save(onnx.load(folder + "/out/model.onnx"), path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--forms", default="dynamo,torchscript,past")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    failed = False
    for family in args.families.split(","):
        model = model_of(family)
        ids = torch.from_numpy(np.random.default_rng(5).integers(3, VOCABULARY, (SEQUENCES, LENGTH)))
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits.numpy()
        np.savez(f"{args.out}/{family}.seq.npz", ids=ids.numpy(), logits=logits)
        for form in args.forms.split(","):
            try:
                export(model, form, f"{args.out}/{family}.{form}.onnx", ids[:1])
                print(f"{family}.{form}.onnx", flush=True)
            except Exception as error:  # Not every exporter takes every family.
                failed = True
                print(f"{family}.{form}: the exporter fails: {str(error).strip().splitlines()[0][:200]}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
