"""Texts to token ids, with a tokenizer from a folder or one trained for the run."""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from m3jax.core import files
from m3jax.core.errors import InputError

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer a run uses."""

    pretrained: str | None = None
    """Folder with tokenizer.json; by default one is trained on the training text."""
    vocab_size: int = 8_000
    """Entries of a tokenizer that is trained; fewer when the text has no more."""
    lowercase: bool = True
    """Whether a tokenizer that is trained ignores case."""


@dataclass(frozen=True)
class Tokenizer:
    """A fast tokenizer that adds its special tokens and knows its padding.

    Attributes:
        backend: the tokenizer, without padding or truncation.
        pad_id: id that fills rows up.
        settings: content of tokenizer_config.json.
    """

    backend: Backend
    pad_id: int
    settings: dict[str, Any]

    @property
    def vocab_size(self) -> int:
        """Rows that a table of all ids needs; some vocabularies have gaps."""
        return max(self.backend.get_vocab().values()) + 1


def train(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Train a Unigram tokenizer: the same texts give the same tokenizer.

    sentencepiece finds the pieces: the trainer of `tokenizers` orders its words by a
    hash with a random seed, so two of its runs differ. The pieces then go into a
    `tokenizers` Unigram model, which gives the same segmentation.

    Args:
        texts: training text.
        config: size and case.

    Returns:
        A tokenizer that writes `[CLS] text [SEP]`.

    Raises:
        InputError: there is too little text for a vocabulary.

    Source: Kudo 2018 (arXiv:1804.10959).

    Example:
        >>> config = TokenizerConfig(vocab_size=30)
        >>> tokenizer = train(["to be or not to be"] * 9, config)
        >>> encode(tokenizer, ["to be"], max_length=8)[0][[0, -1]].tolist()
        [2, 3]
    """
    import sentencepiece  # only needed here

    normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            *([normalizers.Lowercase()] if config.lowercase else []),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(normalizer.normalize_str(text) for text in texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.vocab_size - len(SPECIAL) + 1,  # it counts its own unk
            hard_vocab_limit=False,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            split_digits=True,
            max_sentence_length=1_000_000,
            num_threads=4,  # fixed: sums are made in the order of the threads
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=3,
        )
    except RuntimeError as error:
        raise InputError(
            f"enough text to train {config.vocab_size} vocabulary entries",
            str(error).splitlines()[-1],
            where="tokenizer",
            do="Lower --tokenizer.vocab-size or name --tokenizer.pretrained.",
        ) from None
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    special = list(SPECIAL.values())
    vocabulary = [(piece, 0.0) for piece in special] + [
        (pieces.id_to_piece(i), pieces.get_score(i))
        for i in range(1, pieces.get_piece_size())
    ]
    backend = Backend(models.Unigram(vocabulary, unk_id=special.index("[UNK]")))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, special.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
        **SPECIAL,
    }
    return Tokenizer(backend, special.index("[PAD]"), settings)


def load(folder: str | Path) -> Tokenizer:
    """Open the tokenizer of a Hugging Face folder.

    Args:
        folder: has tokenizer.json and tokenizer_config.json.

    Returns:
        The tokenizer.

    Raises:
        InputError: a file is missing or damaged, or no padding token is named.

    Example:
        >>> load("no")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no/tokenizer.json: expected a file, found none
    """
    content = {}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = Path(folder) / name
        try:
            content[name] = path.read_text(encoding="utf-8")
        except OSError:
            raise InputError("a file", "none", where=str(path)) from None
    try:
        backend = Backend.from_str(content["tokenizer.json"])
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(
            "a tokenizer", str(error), where=f"{folder}/tokenizer.json"
        ) from None
    where = f"{folder}/tokenizer_config.json"
    try:
        settings = dict(json.loads(content["tokenizer_config.json"]).items())
    except (ValueError, AttributeError) as error:
        raise InputError("JSON, an object", str(error), where=where) from None
    pad = settings.get("pad_token")
    pad = pad["content"] if isinstance(pad, dict) else pad
    pad_id = None if pad is None else backend.token_to_id(pad)
    if pad_id is None:
        raise InputError("a pad_token of the vocabulary", repr(pad), where=where)
    backend.no_padding()
    backend.no_truncation()
    return Tokenizer(backend, pad_id, settings)


def save(tokenizer: Tokenizer, folder: Path, *, max_length: int) -> None:
    """Write the two files that `load` and Hugging Face's AutoTokenizer read.

    Args:
        tokenizer: what is written.
        folder: an existing folder.
        max_length: longest text that the model takes, in tokens.

    Raises:
        OSError: the folder cannot be written to.
    """
    tokenizer.backend.no_truncation()
    settings = {**tokenizer.settings, "model_max_length": max_length}
    files.write_text(folder / "tokenizer.json", tokenizer.backend.to_str(pretty=True))
    files.write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2))


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], *, max_length: int
) -> list[np.ndarray]:
    """Texts to ids, special tokens included.

    Args:
        tokenizer: which tokenizer.
        texts: any texts; an empty one gives its special tokens alone.
        max_length: tokens kept of each, special ones counted.

    Returns:
        One int32 array a text.
    """
    tokenizer.backend.enable_truncation(max_length)
    return [
        np.asarray(row.ids, np.int32)
        for row in tokenizer.backend.encode_batch_fast(list(texts))
    ]


def pad(
    rows: Sequence[np.ndarray], length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fill rows up on the right.

    Args:
        rows: ids of each text, none longer than `length`.
        length: width of the result.
        pad_id: what fills.

    Returns:
        ids int32 `[n l]` and mask bool `[n l]`.

    Example:
        >>> pad([np.array([5, 6], np.int32)], 3, 0)[0].tolist()
        [[5, 6, 0]]
    """
    ids = np.full((len(rows), length), pad_id, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return ids, mask
