"""Make tests/golden/roberta: a tiny random RoBERTa and what transformers says about it.

Run from the root of the repository, in an environment with torch and transformers; the
library itself needs neither:

    HF_HUB_OFFLINE=1 PEERS/bin/python tests/golden/make_roberta.py

The same versions give the same files. Made with torch 2.13.0 and transformers 5.23.0.
The folder has the layout of FacebookAI/roberta-base (model type roberta, byte-level
BPE, tokenizer_config.json without a padding token), with safetensors of the bare model.

expected.npz (n texts, l = 24 tokens, d = 16 hidden):

- texts [n]
- ids, mask [n l]: padded at the right
- hidden [n l d]: last hidden states, 0 where the mask is False
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
import shutil
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "roberta"
MAX_LENGTH = 24


def main() -> None:
    """Write the folder."""
    import tiny
    import torch
    from transformers import AutoConfig, AutoModel

    shutil.rmtree(FOLDER, ignore_errors=True)
    config = {
        "architectures": ["RobertaModel"],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 16,
        "initializer_range": 0.02,
        "intermediate_size": 32,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": MAX_LENGTH + 2,
        "model_type": "roberta",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "pad_token_id": 1,
        "type_vocab_size": 1,
    }
    # The class of model_type is what opens the tokenizer.
    tiny.write_json(FOLDER / "config.json", config)
    tokenizer = tiny.write_roberta_tokenizer(FOLDER, max_length=MAX_LENGTH)
    config |= {"vocab_size": len(tokenizer)}
    tiny.write_json(FOLDER / "config.json", config)
    opened = AutoConfig.from_pretrained(FOLDER)
    model = tiny.randomise(AutoModel.from_config(opened), seed=9, std=0.2)
    model.save_pretrained(FOLDER)
    (FOLDER / "model.safetensors").chmod(0o644)
    # Over the newer form, which save_pretrained wrote.
    tiny.write_json(FOLDER / "config.json", config)

    batch = tiny.padded(tokenizer, tiny.TEXTS, MAX_LENGTH)
    with torch.no_grad():
        states = AutoModel.from_pretrained(FOLDER).eval()(**batch).last_hidden_state
    np.savez_compressed(
        FOLDER / "expected.npz",
        texts=np.array(tiny.TEXTS),
        **tiny.arrays(batch, states),
    )


if __name__ == "__main__":
    main()
