"""Make tests/golden/simcse: a tiny random SimCSE and what transformers says about it.

Run from the root of the repository, in an environment with torch and transformers; the
library itself needs neither:

    HF_HUB_OFFLINE=1 PEERS/bin/python tests/golden/make_simcse.py

The same versions give the same content; the old format names its storages by addresses
in memory, so some bytes differ. Made with torch 2.13.0 and transformers 5.23.0.
The folder has the layout of princeton-nlp/sup-simcse-bert-base-uncased: the weights in
torch's format of before 1.6, with embeddings.position_ids among them and the MLP in the
place of BERT's pooler; vocab.txt and no tokenizer.json; the padding token named in
special_tokens_map.json only.

expected.npz (n texts, l = 24 tokens, d = 24 hidden):

- texts [n]
- ids, mask [n l]: padded at the right
- hidden [n l d]: last hidden states, 0 where the mask is False
- pooler [n d]: pooler_output, that is tanh(dense(CLS)), not normalised
- pooler_normalized, cls_normalized [n d]: with the MLP (supervised SimCSE) and CLS
  before it (unsupervised SimCSE), both of length 1
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
import shutil
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "simcse"
WIDTH = 24
MAX_LENGTH = 24


def write_tokenizer() -> int:
    """vocab.txt with [PAD] at 0, as BERT's; returns the number of its entries."""
    import tiny

    special = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghilmnoprstuwxyz0137"
    words = ["the", "cell", "is", "of", "unit", "life", "what", "細", "胞", "?", ","]
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    tokens = [*special, *words, *pieces]
    (FOLDER / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    tiny.write_json(
        FOLDER / "tokenizer_config.json",
        {
            "do_lower_case": True,
            "tokenize_chinese_chars": True,
            "strip_accents": None,
            "model_max_length": MAX_LENGTH,
            "special_tokens_map_file": None,
            "name_or_path": "bert-base-uncased",
        },
    )
    names = ("unk", "sep", "pad", "cls", "mask")
    value = {f"{name}_token": f"[{name.upper()}]" for name in names}
    tiny.write_json(FOLDER / "special_tokens_map.json", value)
    return len(tokens)


def main() -> None:
    """Write the folder."""
    import tiny
    import torch
    from torch.nn.functional import normalize
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    config = {
        "_name_or_path": "bert-base-uncased",
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": 48,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 40,
        "model_type": "bert",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "transformers_version": "4.2.1",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": write_tokenizer(),
    }
    tiny.write_json(FOLDER / "config.json", config)
    opened = AutoConfig.from_pretrained(FOLDER)
    model = tiny.randomise(AutoModel.from_config(opened), seed=2, std=0.2)
    state = {"embeddings.position_ids": torch.arange(40)[None], **model.state_dict()}
    path = FOLDER / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=False)

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    batch = tiny.padded(tokenizer, tiny.TEXTS, MAX_LENGTH)
    with torch.no_grad():
        said = AutoModel.from_pretrained(FOLDER).eval()(**batch)
    cls = said.last_hidden_state[:, 0]
    np.savez_compressed(
        FOLDER / "expected.npz",
        texts=np.array(tiny.TEXTS),
        **tiny.arrays(batch, said.last_hidden_state),
        pooler=said.pooler_output.numpy(),
        pooler_normalized=normalize(said.pooler_output, dim=-1).numpy(),
        cls_normalized=normalize(cls, dim=-1).numpy(),
    )


if __name__ == "__main__":
    main()
