"""A tokenizer trained for a run, on its own text."""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from m3jax.core.errors import InputError
from m3jax.data.tokenize import SPECIAL, Tokenizer


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer a run uses."""

    pretrained: str | None = None
    """Folder with tokenizer.json; by default one is trained on the training text."""
    vocab_size: int = 8_000
    """Entries of a tokenizer that is trained; fewer when the text has no more."""
    lowercase: bool = True
    """Whether a tokenizer that is trained ignores case."""
    mask: bool = False
    """Whether a tokenizer that is trained has a mask token, for RetroMAE and other
    objectives that hide words."""


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
        >>> from m3jax.data import tokenize
        >>> tokenizer = train(["to be or not to be"] * 9, config)
        >>> tokenize.encode(tokenizer, ["to be"], max_length=8)[0][[0, -1]].tolist()
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
            vocab_size=config.vocab_size - len(SPECIAL) - config.mask + 1,  # its unk
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
        told = re.search(r"smaller than required_chars\D*(\d+) vs (\d+)", str(error))
        if told is not None:
            least = int(told[2]) + len(SPECIAL)
            raise InputError(
                f"at least {least:,} vocabulary entries for the characters of the text",
                f"{config.vocab_size:,}",
                where="tokenizer.vocab_size",
                do="Raise --tokenizer.vocab-size or name --tokenizer.pretrained.",
            ) from None
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
    if config.mask:  # at the end, so that the other ids are the same without it
        vocabulary.append(("[MASK]", 0.0))
    backend = Backend(models.Unigram(vocabulary, unk_id=special.index("[UNK]")))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens([*special, "[MASK]"] if config.mask else special)
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
        **({"mask_token": "[MASK]"} if config.mask else {}),
    }
    return Tokenizer(backend, special.index("[PAD]"), settings)
