"""What the scripts that make golden folders share: texts, tokenizers, random weights.

Needs an environment with torch, transformers and sentencepiece; the library does not.
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
import importlib
import io
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

TEXTS = [
    "the cell is the smallest unit of life",
    "",
    "a",
    "Ärzte messen 37 °C, naïve café",
    "細胞は生命の単位です",
    "what is a cell? the cell, the cell and the unit of the cell",
    "zebra quiz \U0001f9ec unknown",
    "the unit of life is a cell, and what is life? " * 60,  # more than any maximum
]
CHAT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on "
    'the Query and the Instruct provided. Note that the answer can only be "yes" or '
    '"no".<|im_end|>\n<|im_start|>user\n',
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
)
TASK = "Given a web search query, retrieve relevant passages that answer the query"
SPLIT = (  # of Qwen's tokenizers
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def randomise(model: Any, seed: int, std: float = 0.3) -> Any:
    """All parameters random: with biases of 0 and norms of 1, swaps would not show.

    std is that of the matrices; where it is large, attention makes all tokens alike.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            bias = name.endswith("bias")
            parameter.normal_(std=0.1 if bias else std, generator=generator)
            if name.endswith("weight") and parameter.ndim == 1:  # scale of a norm
                parameter.add_(1)
            if "word_embeddings" in name or "embed_tokens" in name:
                parameter.div_(std)  # or all texts come out alike
    return model.eval()


def write_json(path: Path, value: Any) -> None:
    """Write JSON as the published files have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_sentence_transformers(
    folder: Path, *, pooling: str, width: int, max_length: int | None, prompts: dict
) -> None:
    """The files of sentence-transformers in the form of the published folders.

    max_length None leaves sentence_bert_config.json out, as Qwen3-Embedding does.
    """
    kind = "sentence_transformers.models."
    names = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": kind + name}
        for i, (name, path) in enumerate(names.items())
    ]
    write_json(folder / "modules.json", modules)
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    modes = (*modes, "weightedmean_tokens", "lasttoken")
    config = {f"pooling_mode_{mode}": mode.startswith(pooling) for mode in modes}
    if pooling == "mean":
        config["pooling_mode_mean_sqrt_len_tokens"] = False
    path = folder / "1_Pooling" / "config.json"
    write_json(path, {"word_embedding_dimension": width, **config})
    if max_length is not None:
        value = {"max_seq_length": max_length, "do_lower_case": False}
        write_json(folder / "sentence_bert_config.json", value)
    settings: dict[str, Any] = {
        "__version__": {
            "sentence_transformers": "2.7.0",
            "transformers": "4.51.3",
            "pytorch": "2.1.2",
        }
    }
    if prompts:
        settings |= {"prompts": prompts, "default_prompt_name": None}
        settings["similarity_fn_name"] = "cosine"
    write_json(folder / "config_sentence_transformers.json", settings)


def write_xlmr_tokenizer(folder: Path, *, max_length: int) -> Any:
    """A tokenizer of XLM-R's kind: fairseq's ids before those of sentencepiece.

    Returns the tokenizer as transformers opens it.
    """
    import sentencepiece
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    rules = folder / "rules.tsv"  # few, since the real ones take 300 kB
    rules.write_text("FF21\t41\nFF41\t61\n3000\t20\nFB01\t66 69\n", encoding="utf-8")
    file = io.BytesIO()
    # One text stays out, so that it holds unknown letters.
    sentences = [*TEXTS[:6], *TEXTS[7].split("? ")[:20], CHAT[0], TASK]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=file,
        vocab_size=120,
        hard_vocab_limit=False,
        model_type="unigram",
        character_coverage=1.0,
        normalization_rule_tsv=str(rules),
        num_threads=1,
        minloglevel=2,
    )
    rules.unlink()
    (folder / "sentencepiece.bpe.model").write_bytes(file.getvalue())
    trained = sentencepiece.SentencePieceProcessor()
    trained.LoadFromSerializedProto(file.getvalue())
    pieces = [
        (trained.id_to_piece(id), trained.get_score(id))
        for id in range(3, trained.get_piece_size())
    ]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*((token, 0.0) for token in special), *pieces, ("<mask>", 0.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    proto: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    proto = proto.ModelProto.FromString(file.getvalue())
    charsmap = proto.normalizer_spec.precompiled_charsmap
    backend.normalizer = normalizers.Precompiled(charsmap)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    backend.add_special_tokens(
        [AddedToken(token, normalized=False) for token in special]
    )
    backend.add_special_tokens([_token("<mask>", lstrip=True)])
    backend.save(str(folder / "tokenizer.json"))
    names = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    }
    write_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": _added(backend),
            "clean_up_tokenization_spaces": True,
            "model_max_length": max_length,
            "tokenizer_class": "XLMRobertaTokenizer",
            **names,
        },
    )
    write_json(
        folder / "special_tokens_map.json",
        {
            name: {
                "content": token,
                "lstrip": name == "mask_token",
                "normalized": False,
                "rstrip": False,
                "single_word": False,
            }
            for name, token in names.items()
        },
    )
    return _opened(AutoTokenizer.from_pretrained(folder), backend)


def write_qwen_tokenizer(
    folder: Path, *, eos: str, append: bool, max_length: int, padding_side: str
) -> Any:
    """A byte-level BPE tokenizer of Qwen's kind; append: texts end in <|endoftext|>.

    Returns the tokenizer as transformers opens it.
    """
    from transformers import AutoTokenizer

    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend = Tokenizer(models.BPE(*_merges(split, count=70)))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = split
    backend.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    special = [end, "<|im_start|>", "<|im_end|>"]
    backend.add_special_tokens(
        [AddedToken(token, normalized=False) for token in special]
    )
    think = ("<think>", "</think>")
    backend.add_tokens([_token(token) for token in think])
    level = processors.ByteLevel(trim_offsets=False, use_regex=False)
    backend.post_processor = level
    if append:
        template = processors.TemplateProcessing(
            single=f"$A {end}",
            pair=f"$A {end} $B {end}",
            special_tokens=[(end, backend.token_to_id(end))],
        )
        backend.post_processor = processors.Sequence([level, template])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    backend.model.save(str(folder))  # vocab.json and merges.txt
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": _added(backend),
            "additional_special_tokens": special[1:],
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": eos,
            "errors": "replace",
            "model_max_length": max_length,
            "pad_token": end,
            "padding_side": padding_side,
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
    return _opened(AutoTokenizer.from_pretrained(folder), backend)


def write_roberta_tokenizer(folder: Path, *, max_length: int) -> Any:
    """A byte-level BPE tokenizer of RoBERTa's kind, with its ids of special tokens."""
    from transformers import AutoTokenizer

    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary, merges = _merges(split, count=40)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokens = [*special, *vocabulary, "<mask>"]
    backend = Tokenizer(
        models.BPE({token: i for i, token in enumerate(tokens)}, merges)
    )
    backend.pre_tokenizer = split
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    backend.add_special_tokens(
        [AddedToken(token, normalized=False) for token in special]
    )
    backend.add_special_tokens([_token("<mask>", lstrip=True)])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    backend.model.save(str(folder))
    # roberta-base names neither its class nor its padding here.
    settings = {"add_prefix_space": False, "model_max_length": max_length}
    write_json(folder / "tokenizer_config.json", settings)
    return _opened(AutoTokenizer.from_pretrained(folder), backend)


def padded(tokenizer: Any, texts: list[str], max_length: int, **more: Any) -> Any:
    """Texts as one padded batch of torch tensors."""
    return tokenizer(
        texts,
        padding=True,
        truncation=True,
        max_length=max_length,
        return_tensors="pt",
        **more,
    )


def arrays(batch: Any, states: Any = None) -> dict[str, Any]:
    """ids int32, mask bool, and hidden states, which are 0 where the mask is False."""
    ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy().astype(bool)
    found = {"ids": ids.astype(np.int32), "mask": mask}
    if states is not None:
        found["hidden"] = np.where(mask[..., None], states.detach().numpy(), 0)
    return found


def _token(content: str, *, lstrip: bool = False) -> AddedToken:
    """A token that the normaliser leaves alone."""
    return AddedToken(content, lstrip=lstrip, normalized=False)


def _merges(split: Any, count: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair merges, found in the plain way, since it is the same at every run."""
    words = Counter(
        tuple(piece)
        for text in (*TEXTS[:7], *CHAT, TASK, "<Instruct>: <Query>: <Document>:")
        for piece, _ in split.pre_tokenize_str(text)
    )
    merges = []
    # "yes" and "no" have to be one token each.
    wanted = [("y", "e"), ("ye", "s"), ("n", "o")]
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        best = wanted[len(merges)] if len(merges) < len(wanted) else best
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, times in words.items():
            merged[_join(word, best)] += times
        words = merged
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *("".join(pair) for pair in merges)]
    return {token: id for id, token in enumerate(dict.fromkeys(tokens))}, merges


def _join(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The word with every such pair made one."""
    done: list[str] = []
    rest = list(word)
    while rest:
        if tuple(rest[:2]) == pair:
            done.append("".join(pair))
            rest = rest[2:]
        else:
            done.append(rest.pop(0))
    return tuple(done)


def _added(backend: Any) -> dict[str, dict]:
    """added_tokens_decoder of tokenizer_config.json."""
    return {
        str(id): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for id, token in sorted(backend.get_added_tokens_decoder().items())
    }


def _opened(tokenizer: Any, backend: Any) -> Any:
    """Check that transformers, which rebuilds tokenizers, gives the ids of the file."""
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == backend.encode(text).ids, text
    return tokenizer
