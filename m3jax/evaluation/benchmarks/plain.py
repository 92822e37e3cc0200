"""One sign for signs that look alike."""

_GONE = [*range(0x01, 0x09), 0x0E, 0x0F, *range(0x11, 0x1C), 0xAD]
_SIGNS = {
    " ": "\x0b\x0c\x85",
    "-": "\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u207b\uff0d",
    '"': "\u201c\u201d\u201e\u201f",
    "'": "`\xb4\u2018\u2019\u201a\u201b\u2032\u2035\u055a\ua78b\ua78c\uff07",
    "''": "\u2033\u2036",
    "'''": "\u2034\u2037",
    "''''": "\u2057",
    "...": "\u2026",
    "/": "\u2044\u2215",
}
_TABLE = dict.fromkeys(_GONE, "") | {
    ord(sign): written for written, signs in _SIGNS.items() for sign in signs
}


def plain(text: str) -> str:
    r"""Write one sign for all hyphens, one for all quotes and one for all slashes.

    Control characters and soft hyphens go.

    Args:
        text: any text.

    Returns:
        The text.

    Source: `chemdataextractor.text.normalize`, as FlagOpen/FlagEmbedding takes it over
    for the corpus of MKQA (C_MTEB/MKQA/utils/normalize_text.py).

    Example:
        >>> plain("\u201cA\u2014B\u201d\u2026")
        '"A-B"...'
    """
    return text.translate(_TABLE).replace(" . . . ", " ... ")
