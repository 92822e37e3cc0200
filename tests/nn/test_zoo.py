import functools
import math

import jax
import pytest

from m3jax.core.errors import InputError
from m3jax.nn import embedding, reranker
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule
from m3jax.nn.reranker import RerankerConfig, RerankerModule
from m3jax.nn.zoo import ZOO, find

WEB = "Given a web search query, retrieve relevant passages that answer the query"
KALM = "HIT-TMG/KaLM-embedding-multilingual-mini-"

# Published numbers of parameters, and the width of the pooler that BERT checkpoints
# count and that no embedding comes from.
SIZES = {
    "BAAI/bge-m3-unsupervised": (567_754_752, 1_024),
    "BAAI/bge-m3-retromae": (567_754_752, 1_024),
    # Linear(1024, 1) and Linear(1024, 1024), with biases, in files of their own.
    "BAAI/bge-m3": (567_754_752 + 1_025 + 1_049_600, 1_024),
    "BAAI/bge-reranker-v2-m3": (567_755_777, 0),
    "intfloat/e5-small": (33_360_000, 384),
    "intfloat/e5-base-v2": (109_482_240, 768),
    "intfloat/e5-large": (335_141_888, 1_024),
    "intfloat/multilingual-e5-small": (117_653_760, 384),
    "intfloat/multilingual-e5-base": (278_043_648, 768),
    "intfloat/multilingual-e5-large": (559_890_432, 1_024),
    "intfloat/multilingual-e5-large-instruct": (559_890_432, 1_024),
    "Qwen/Qwen3-Embedding-0.6B": (595_776_512, 0),
    "Qwen/Qwen3-Embedding-4B": (4_021_774_336, 0),
    "Qwen/Qwen3-Embedding-8B": (7_567_295_488, 0),
    "Qwen/Qwen3-Reranker-0.6B": (595_776_512, 0),
    "Qwen/Qwen3-Reranker-4B": (4_021_784_576, 0),
    "Qwen/Qwen3-Reranker-8B": (8_188_548_096, 0),
    KALM + "v1": (494_032_768, 0),
    KALM + "instruct-v2": (494_032_768, 0),
    # SimCSE's head stands in the place of the pooler.
    "princeton-nlp/unsup-simcse-bert-base-uncased": (109_482_240, 0),
    "princeton-nlp/sup-simcse-roberta-base": (124_645_632, 0),
    "princeton-nlp/sup-simcse-roberta-large": (355_359_744, 0),
    "sentence-transformers/all-MiniLM-L6-v2": (22_713_216, 384),
}


@functools.cache
def parameters(config: EmbeddingConfig | RerankerConfig) -> int:
    """Number of parameters, in shape only."""
    key = jax.random.key(0)
    if isinstance(config, EmbeddingConfig):
        module = EmbeddingModule(config)
        shapes = jax.eval_shape(lambda: embedding.init(module, key))
    else:
        other = RerankerModule(config)
        shapes = jax.eval_shape(lambda: reranker.init(other, key))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("name", ZOO)
def test_every_model_has_its_published_size(name: str) -> None:
    published = ZOO[name]
    found = parameters(published.config)
    if name in SIZES:
        expected, pooler = SIZES[name]
        assert found == expected - (pooler * (pooler + 1))
    assert published.padding in ("left", "right")
    assert 0 < published.max_length <= published.config.encoder.max_length


def test_families_are_complete() -> None:
    sizes, large = ("0.6B", "4B", "8B"), ("small", "base", "large")
    bert = ("bert-base", "bert-large")
    assert set(ZOO) == {
        *(f"BAAI/bge-m3{kind}" for kind in ("", "-unsupervised", "-retromae")),
        "BAAI/bge-reranker-v2-m3",
        *(f"intfloat/e5-{size}{v}" for size in large for v in ("", "-v2")),
        *(f"intfloat/multilingual-e5-{size}" for size in large),
        "intfloat/multilingual-e5-large-instruct",
        *(
            f"Qwen/Qwen3-{kind}-{x}"
            for kind in ("Embedding", "Reranker")
            for x in sizes
        ),
        *(
            KALM + kind
            for kind in ("v1", "instruct-v1", "instruct-v1.5", "instruct-v2")
        ),
        *(
            f"princeton-nlp/{kind}-simcse-{name}"
            for kind in ("unsup", "sup")
            for name in (
                *(f"{x}-uncased" for x in bert),
                "roberta-base",
                "roberta-large",
            )
        ),
        "sentence-transformers/all-MiniLM-L6-v2",
    }


@pytest.mark.parametrize(
    ("pattern", "query", "passage", "task"),
    [
        ("BAAI/bge-m3", "", "", ""),
        ("intfloat/e5-", "query: ", "passage: ", ""),
        ("intfloat/multilingual-e5-base", "query: ", "passage: ", ""),
        (
            "intfloat/multilingual-e5-large-instruct",
            f"Instruct: {WEB}\nQuery: ",
            "",
            "Instruct: {task}\nQuery: ",
        ),
        # No space after the colon.
        (
            "Qwen/Qwen3-Embedding-",
            f"Instruct: {WEB}\nQuery:",
            "",
            "Instruct: {task}\nQuery:",
        ),
        ("Qwen/Qwen3-Reranker-", WEB, "", "{task}"),
        # A space on each side of the newline.
        (KALM + "instruct-", "", "", "Instruct: {task} \n Query: "),
        (KALM + "v1", "", "", ""),
        ("princeton-nlp/", "", "", ""),
        ("sentence-transformers/", "", "", ""),
    ],
)
def test_prompts_are_the_authors(
    pattern: str, query: str, passage: str, task: str
) -> None:
    names = [name for name in ZOO if name.startswith(pattern)]
    assert names
    for name in names:
        found = ZOO[name]
        assert (found.query, found.passage, found.task) == (query, passage, task)


def test_how_their_authors_use_them() -> None:
    for name, found in ZOO.items():
        qwen3 = "Qwen3" in name
        assert found.padding == ("left" if qwen3 else "right")
        ends = "<|endoftext|>" if "Qwen3-Embedding" in name else ""
        assert found.final_token == ends
        long = qwen3 or "bge" in name
        assert (found.max_length == 8_192) == long
        assert bool(found.weights) == (name == "BAAI/bge-m3")
        if isinstance(found.config, EmbeddingConfig):
            simple = "last" if qwen3 else "mean"
            cls = "bge" in name or "simcse" in name
            assert found.config.pooling == ("cls" if cls else simple)
            assert found.config.outputs == (
                ("dense", "sparse", "multivec") if name == "BAAI/bge-m3" else ("dense",)
            )
    for kind, head in (("unsup", "training"), ("sup", "always")):
        config = find(f"princeton-nlp/{kind}-simcse-roberta-base").config
        assert isinstance(config, EmbeddingConfig) and config.mlp_head == head
    m3 = find("BAAI/bge-m3").config
    assert isinstance(m3, EmbeddingConfig) and m3.special_ids == (0, 1, 2, 3)


def test_encoders_of_the_families() -> None:
    def encoder(name: str) -> dict:
        return vars(find(name).config.encoder)

    m3 = encoder("BAAI/bge-m3")
    assert m3["max_positions"] == 8_194 and m3["first_position"] == 2
    assert find("BAAI/bge-m3").config.encoder.max_length == 8_192
    assert encoder("intfloat/multilingual-e5-small")["first_position"] == 0
    assert encoder("intfloat/multilingual-e5-large")["max_positions"] == 514
    v1, v2 = (encoder(KALM + kind) for kind in ("instruct-v1.5", "instruct-v2"))
    assert v1 | {"attention": "bidirectional"} == v2
    assert v1["attention"] == "causal" and v1["qkv_bias"] and not v1["qk_norm"]
    qwen = encoder("Qwen/Qwen3-Embedding-8B")
    assert qwen["attention"] == "causal" and qwen["qk_norm"] and not qwen["qkv_bias"]
    for size, tied in (("0.6B", True), ("4B", True), ("8B", False)):
        config = find(f"Qwen/Qwen3-Reranker-{size}").config
        assert isinstance(config, RerankerConfig)
        assert (config.head, config.tied) == ("yes_no", tied)
        assert config.yes_no_ids == (9_693, 2_152)
    classifier = find("BAAI/bge-reranker-v2-m3").config
    assert isinstance(classifier, RerankerConfig) and classifier.head == "classifier"


def test_a_name_is_found_whatever_its_case_and_a_wrong_one_corrected() -> None:
    assert find("baai/BGE-m3") is ZOO["BAAI/bge-m3"]
    with pytest.raises(InputError) as error:
        find("qwen/qwen3-embedding-0.7B")
    assert "expected a model of m3jax.nn.zoo, found qwen/" in str(error.value)
    assert all(name in str(error.value) for name in ZOO)
