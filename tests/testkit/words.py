"""The fake model's vocabulary. With a space before it, each word is one token."""

_WORDS = (
    "amber basin cedar delta ember fjord grove harbor inlet jetty kelp lagoon meadow north ocean pebble quartz "
    "river stone tidal upland valley willow yonder zephyr anchor beacon canyon dune estuary forest glacier"
)
WORDS = _WORDS.split()
_UNICODE_WORDS = "naïve 🚀 你好 κόσμος 👩\u200d🚀 東京 žluťák 🇨🇭 مرحبا नमस्ते 🌊🔥 안녕 Ωmega"
UNICODE_WORDS = _UNICODE_WORDS.split()
