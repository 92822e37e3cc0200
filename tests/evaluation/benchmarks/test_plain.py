import pytest

from m3jax.evaluation.benchmarks.plain import plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u207b\uff0db",
            "a----------b",
        ),
        ("\u201ca\u201d \u201eb\u201f", '"a" "b"'),
        ("`\xb4\u2018\u2019\u201a\u201b\u055a\ua78b\ua78c\uff07", "''''''''''"),
        ("5\u2032 5\u2033 5\u2034 5\u2057", "5' 5'' 5''' 5''''"),
        ("\u2035 \u2036 \u2037", "' '' '''"),
        ("so\u2026 and . . . on", "so... and ... on"),
        ("1\u20442 3\u22154", "1/2 3/4"),
        ("so\xadft \x01\x1bco\x0bn\x0ct\x85r", "soft co n t r"),
        ("~ \u223c \u301c é 東京 \n\t\x10", "~ \u223c \u301c é 東京 \n\t\x10"),
    ],
)
def test_plain(text: str, expected: str):
    assert plain(text) == expected
