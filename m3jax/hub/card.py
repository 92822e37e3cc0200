"""The model card: README.md of an exported folder."""

import json

from m3jax import __version__
from m3jax.data.prompts import Prompts
from m3jax.nn.embedding import EmbeddingConfig

# How the dense vector comes from `states` and `mask`, in the words of torch.
_TORCH = {
    "cls": "vectors = states[:, 0]",
    "mean": "vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)",
    "last": "vectors = states[range(len(texts)), mask.sum(1) - 1]",
}
_POOLING = {
    "cls": "the first token",
    "mean": "mean over the tokens",
    "last": "the last token",
}
_CARD = """\
---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- m3jax
- sentence-transformers
- sentence-similarity
- feature-extraction
---

# Text-embedding model

A BERT encoder that turns a text into one vector of {hidden} numbers and length 1. The
cosine of two vectors says how near the texts are in meaning.
Exported by m3jax {version}.

| | |
| --- | --- |
| Size | {parameters:,} parameters |
| Shape | {layers} layers, width {hidden}, a vocabulary of {vocab} |
| Pooling | {pooling} |
| Longest text | {max_length} tokens; what is longer is cut |
| Prompt before a query | {query} |
| Prompt before a passage | {passage} |

## Use

`FOLDER` is this folder. A prompt belongs before the text, also where the code below
does not add it.

With m3jax:

```python
import m3jax

model = m3jax.Embedder.load("FOLDER")
queries = model.encode_query(["what is a cell?"])
passages = model.encode_passage(["A cell is the smallest unit of life."])
print(m3jax.scores.dense(queries, passages))
```

With sentence-transformers, 5 or later:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("FOLDER")
queries = model.encode_query(["what is a cell?"])
passages = model.encode_document(["A cell is the smallest unit of life."])
print(model.similarity(queries, passages))
```

With transformers:

```python
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModel.from_pretrained("FOLDER").eval()
texts = [{example}]
inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    states = model(**inputs).last_hidden_state
mask = inputs["attention_mask"]
{torch}
vectors = torch.nn.functional.normalize(vectors, dim=-1)
```

Both of the latter report that a pooler is missing; no embedding depends on it.
"""


def render(
    config: EmbeddingConfig,
    *,
    parameters: int,
    prompts: Prompts,
    max_length: int,
    text: str = "",
) -> str:
    """Write the card of a model.

    Args:
        config: the model.
        parameters: how many numbers it has.
        prompts: what stands before queries and passages.
        max_length: longest text, in tokens.
        text: what the caller has to say about data, training and scores.

    Returns:
        Markdown with YAML front matter.

    Example:
        >>> card = render(
        ...     EmbeddingConfig(), parameters=9, prompts=Prompts(), max_length=512
        ... )
        >>> card.splitlines()[1]
        'library_name: sentence-transformers'
    """
    card = _CARD.format(
        version=__version__,
        hidden=config.encoder.hidden,
        layers=config.encoder.layers,
        vocab=f"{config.encoder.vocab_size:,}",
        parameters=parameters,
        pooling=_POOLING[config.pooling],
        max_length=f"{max_length:,}",
        query=_quoted(prompts.query),
        passage=_quoted(prompts.passage),
        example=json.dumps(f"{prompts.query}what is a cell?", ensure_ascii=False),
        torch=_TORCH[config.pooling],
    )
    return f"{card}\n{text.strip()}\n" if text.strip() else card


def _quoted(prompt: str) -> str:
    """A prompt in a table: its spaces count, and a line break would end the row."""
    if not prompt:
        return "none"
    quoted = json.dumps(prompt, ensure_ascii=False)
    return f"`` {quoted} ``".replace("|", "\\|")
