"""The model card: README.md of an exported folder."""

import json
from collections.abc import Sequence
from typing import Any

from m3jax import __version__
from m3jax.data.prompts import Prompts
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.nn.encoder import EncoderConfig
from m3jax.nn.reranker import RerankerConfig

# How the dense vector comes from `states` and `mask`, in the words of torch.
_TORCH = {
    "cls": "vectors = states[:, 0]",
    "mean": "vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)",
    "last": "vectors = states[range(len(texts)), mask.cumsum(1).argmax(1)]",
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

{kind} encoder that turns a text into one vector of {hidden} numbers and length 1. The
cosine of two vectors says how near the texts are in meaning.
{heads}Exported by m3jax {version}.

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
{outputs}
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
{flag}{pooler}"""
_OUTPUTS = """
All that the model gives, in one pass:

```python
heads = {outputs}
queries = model.encode_query(["what is a cell?"], outputs=heads)
passages = model.encode_passage(["A cell is the smallest unit of life."], outputs=heads)
{scores}
```
"""
_POOLER = """
transformers and sentence-transformers report that a pooler is missing; no embedding
depends on it.
"""
_FLAG = """
With FlagEmbedding, which reads all heads:

```python
from FlagEmbedding import BGEM3FlagModel

model = BGEM3FlagModel("FOLDER", pooling_method="{pooling}", use_fp16=False)
found = model.encode(["what is a cell?"], return_sparse=True, return_colbert_vecs=True)
```
"""
_HEADS = {
    "sparse": "a weight for each of its tokens (sparse)",
    "multivec": "a vector for each of its tokens (multi-vector)",
}
_RERANKER = """\
---
library_name: transformers
pipeline_tag: text-ranking
tags:
- m3jax
- reranker
---

# Reranker

{kind} encoder that reads a query and a passage together and says how probably the
passage answers the query. Exported by m3jax {version}.

| | |
| --- | --- |
| Size | {parameters:,} parameters |
| Shape | {layers} layers, width {hidden}, a vocabulary of {vocab} |
| Score | {score} |
| Longest pair | {max_length} tokens; what is longer is cut |

## Use

With m3jax:

```python
import m3jax

model = m3jax.Reranker.load("FOLDER")
print(model.score([("what is a cell?", "A cell is the smallest unit of life.")]))
```
{others}"""
_CROSS_ENCODER = """
With sentence-transformers:

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("FOLDER")
scores = model.predict([("what is a cell?", "A cell is the smallest unit of life.")])
```

With FlagEmbedding:

```python
from FlagEmbedding import FlagReranker

model = FlagReranker("FOLDER", use_fp16=False, normalize=True)
pairs = [("what is a cell?", "A cell is the smallest unit of life.")]
scores = model.compute_score(pairs, max_length={length})
```
"""
_CAUSAL = """
With transformers:

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER").eval()
task = "Given a web search query, retrieve relevant passages that answer the query"
query, passage = "what is a cell?", "A cell is the smallest unit of life."
chat = [
    "<|im_start|>system\\nJudge whether the Document meets the requirements based on "
    "the Query and the Instruct provided. Note that the answer can only be "
    '"yes" or "no".<|im_end|>\\n<|im_start|>user\\n',
    f"<Instruct>: {{task}}\\n<Query>: {{query}}\\n<Document>: {{passage}}",
    "<|im_end|>\\n<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n",
]
parts = tokenizer(chat, add_special_tokens=False)["input_ids"]
with torch.no_grad():
    logits = model(torch.tensor([sum(parts, [])])).logits[0, -1]
yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
scores = (logits[yes] - logits[no]).sigmoid()
```
"""


def render(
    config: EmbeddingConfig,
    *,
    parameters: int,
    prompts: Prompts,
    max_length: int,
    text: str = "",
) -> str:
    """Write the card of an embedding model.

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
    torch, pooling = _TORCH[config.pooling], _POOLING[config.pooling]
    if config.mlp_head == "always":
        torch += "\nwith torch.no_grad():\n    vectors = model.pooler(vectors[:, None])"
        pooling += ", then a linear layer and tanh"
    heads = [_HEADS[name] for name in config.outputs if name in _HEADS]
    # FlagEmbedding makes its token vectors as wide as the states, and has both heads.
    flag = config.sparse and config.multivec == config.encoder.hidden
    bert = isinstance(config.encoder, BertConfig)
    card = _CARD.format(
        **_shape(config.encoder, parameters, max_length),
        heads=f"It also gives {' and '.join(heads)}.\n" if heads else "",
        outputs=_outputs(config.outputs),
        pooling=pooling,
        query=_quoted(prompts.query),
        passage=_quoted(prompts.passage),
        example=json.dumps(f"{prompts.query}what is a cell?", ensure_ascii=False),
        torch=torch,
        flag=_FLAG.format(pooling=_FLAG_POOLING[config.pooling]) if flag else "",
        pooler=_POOLER if bert and config.mlp_head == "none" else "",
    )
    return f"{card}\n{text.strip()}\n" if text.strip() else card


def render_reranker(
    config: RerankerConfig, *, parameters: int, max_length: int, text: str = ""
) -> str:
    """Write the card of a reranker; else as `render`.

    Example:
        >>> card = render_reranker(RerankerConfig(), parameters=9, max_length=512)
        >>> card.splitlines()[1]
        'library_name: transformers'
    """
    classifier = config.head == "classifier"
    card = _RERANKER.format(
        **_shape(config.encoder, parameters, max_length),
        score="sigmoid of one logit" if classifier else 'probability of "yes"',
        others=(_CROSS_ENCODER if classifier else _CAUSAL).format(length=max_length),
    )
    return f"{card}\n{text.strip()}\n" if text.strip() else card


def _outputs(outputs: Sequence[str]) -> str:
    """How all heads are had, of a model that has more than one."""
    if len(outputs) == 1:
        return ""
    scores = [f"print(m3jax.scores.{name}(queries, passages))" for name in outputs]
    return _OUTPUTS.format(outputs=tuple(outputs), scores="\n".join(scores))


_FLAG_POOLING = {"cls": "cls", "mean": "mean", "last": "last_token"}


def _shape(encoder: EncoderConfig, parameters: int, max_length: int) -> dict[str, Any]:
    if isinstance(encoder, BertConfig):
        kind = "An XLM-R" if encoder.first_position else "A BERT"
    else:
        kind = "A Qwen3" if encoder.qk_norm else "A Qwen2"
    return {
        "version": __version__,
        "kind": kind,
        "parameters": parameters,
        "layers": encoder.layers,
        "hidden": encoder.hidden,
        "vocab": f"{encoder.vocab_size:,}",
        "max_length": f"{max_length:,}",
    }


def _quoted(prompt: str) -> str:
    """A prompt in a table: its spaces count, and a line break would end the row."""
    if not prompt:
        return "none"
    quoted = json.dumps(prompt, ensure_ascii=False)
    return f"`` {quoted} ``".replace("|", "\\|")
