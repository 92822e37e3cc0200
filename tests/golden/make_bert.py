"""Make tests/golden/bert: a tiny random BERT and what the real clients say about it.

Run once, from the root of the repository, in an environment with torch, transformers
and sentence-transformers; the library itself needs none of them:

    PEERS/bin/python tests/golden/make_bert.py

The same versions give the same files. Made with torch 2.13.0, transformers 5.23.0 and
sentence-transformers 6.2.0.
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

FOLDER = Path(__file__).parent / "bert"
MAX_LENGTH = 20
TEXTS = [
    "the cell is the smallest unit of life",
    "",
    "a",
    "Ärzte messen 37 °C, naïve café",
    "細胞は生命の単位です",
    "what is a cell? " * 20,  # far more than MAX_LENGTH
    "zebra quiz \U0001f9ec unknown",
]
PROMPTS = {"query": "query: ", "document": "text: "}


def make_tokenizer() -> Any:
    """WordPiece over letters and a few words; padding is not id 0, unlike BERT's."""
    from transformers import PreTrainedTokenizerFast

    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    letters = "abcdefghilmnoprstuwxyz"
    words = ["the", "cell", "is", "of", "unit", "life", "what", "細", "胞", "?", ":"]
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {token: id for id, token in enumerate([*special, *words, *pieces])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
    )


def make_model(vocab_size: int) -> Any:
    """All parameters random: with biases of 0 and norms of 1, swaps would not show."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        layer_norm_eps=1e-3,  # far from the default, so that it shows
        initializer_range=0.2,
        pad_token_id=3,
    )
    model = BertModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.1 if name.endswith("bias") else 0.3)
            if name.endswith("LayerNorm.weight"):
                parameter.add_(1)
            if "word_embeddings" in name:
                parameter.mul_(4)  # or all texts come out alike
    return model


def main() -> None:
    """Write the folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules.normalize import Normalize
    from sentence_transformers.base.modules.transformer import Transformer
    from sentence_transformers.sentence_transformer.modules.pooling import Pooling
    from transformers import AutoModel, AutoTokenizer

    shutil.rmtree(FOLDER, ignore_errors=True)
    tokenizer = make_tokenizer()
    plain = FOLDER / "plain"
    make_model(len(tokenizer)).save_pretrained(plain)
    tokenizer.save_pretrained(plain)

    expected = {}
    for pooling in ("mean", "cls", "lasttoken"):
        encoder = Transformer(str(plain), max_seq_length=MAX_LENGTH)
        modules = [encoder, Pooling(24, pooling), Normalize()]
        model = SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu")
        expected[pooling] = model.encode(TEXTS, batch_size=len(TEXTS))
        if pooling == "mean":
            model.save(str(FOLDER), create_model_card=False)
    shutil.rmtree(plain)

    inputs = AutoTokenizer.from_pretrained(FOLDER)(
        TEXTS, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
    )
    with torch.no_grad():
        states = AutoModel.from_pretrained(FOLDER).eval()(**inputs).last_hidden_state
    (FOLDER / "model.safetensors").chmod(0o644)
    np.savez_compressed(
        FOLDER / "expected.npz",
        texts=np.array(TEXTS),
        ids=inputs["input_ids"].numpy().astype(np.int32),
        mask=inputs["attention_mask"].numpy().astype(bool),
        hidden=states.numpy(),
        **expected,
    )


if __name__ == "__main__":
    main()
