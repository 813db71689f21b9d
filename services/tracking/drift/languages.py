"""Which language a text is in, by its letters and its smallest words.

For drift the same text must get the same name each time; that a short text stays unnamed (`und`) does no harm, for
it does so in the reference too. So this is a table and no model: no package, no file to load, some microseconds a text.
Libraries that know a hundred languages (lingua, fastText) weigh from ten to hundreds of megabytes.
"""

# ruff: noqa: RUF001

import re
from collections import Counter

UNKNOWN = "und"
_CHARACTERS = 2000
_LEAST_WORDS = 2
_LEAST_SHARE = 0.08
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_SCRIPTS = (
    # Kana before Han: Japanese has both.
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("ko", re.compile(r"[\uac00-\ud7af\u1100-\u11ff]")),
    ("zh", re.compile(r"[\u4e00-\u9fff]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
)
_STOP_WORDS = {
    "en": "the of and to in is that it for was on are as with be this have from or by not but what all were when "
    "your can there an how which their if do will each about up out them then these so some would into has "
    "more my you i does should why where could who than only its any did",
    "de": "der die das und ist in den von zu mit sich des auf für nicht ein eine als auch es an werden aus er hat "
    "dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur "
    "bis mehr durch man kann ich mir wir ihr was warum wo wenn dem im",
    "fr": "le la les de des et est un une du en que qui dans pour au aux sur pas par plus ne se ce il elle nous "
    "vous je avec sont mais ou où comme leur ses cette ces son sa être fait tout quel quelle comment pourquoi "
    "mon ma",
    "es": "el la los las de y es en que un una por con para del se no su al lo como más pero sus le ya o este sí "
    "porque esta entre cuando muy sin sobre también me hasta hay donde quien desde todo nos qué cómo cuál mi "
    "está son",
    "it": "il lo la i gli le di e è un una che in per con non si del della dei delle nel nella al alla come più ma "
    "da sono anche questo questa se ci perché quando dove chi cosa mi ho ha hanno dal sul",
    "pt": "o a os as de e é um uma que em do da dos das no na não para com por se mais como mas foi ao ele ela seu "
    "sua ou ser quando muito há nos já está eu também só pelo pela até isso entre meu minha são você",
    "nl": "de het een en van is in dat op te zijn met voor niet aan er om ook als dan maar bij uit nog naar wat "
    "wordt deze door over hoe waar ik je we mijn kan worden hebben heeft dit die of",
    "sv": "och att det som en på är av för med den till inte har de ett om men var jag så från kan vi när hur ska "
    "eller man vad min vid",
    "pl": "i w nie na się z do to jest że o jak za co po tak ale od czy dla przez jego tylko już może być są ten "
    "która który aby przy mam gdzie",
    "tr": "ve bir bu da de için ile mi ne çok daha gibi olarak var ama en o kadar sonra ben değil nasıl neden olan "
    "her bana benim",
}
_LANGUAGES_OF: dict[str, tuple[str, ...]] = {}
for _language, _words in _STOP_WORDS.items():
    for _word in set(_words.split()):
        _LANGUAGES_OF[_word] = (*_LANGUAGES_OF.get(_word, ()), _language)
LANGUAGES = (*_STOP_WORDS, *(name for name, _ in _SCRIPTS), UNKNOWN)


def language_of(text: str) -> str:
    """Return a two-letter name, or `und` where the text says too little. A script stands for its greatest language."""
    text = text[:_CHARACTERS]
    letters = sum(character.isalpha() for character in text)
    if not letters:
        return UNKNOWN
    for name, pattern in _SCRIPTS:
        if len(pattern.findall(text)) > 0.2 * letters:
            return name
    words = _WORD.findall(text.lower())
    votes: dict[str, float] = {}
    hits: Counter[str] = Counter()
    for word in words:
        known = _LANGUAGES_OF.get(word, ())
        for name in known:
            # A word of many languages says little of any.
            votes[name] = votes.get(name, 0.0) + 1 / len(known)
            hits[name] += 1
    ranked = sorted(votes.items(), key=lambda each: -each[1])[:2]
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return UNKNOWN
    best = ranked[0][0]
    enough = hits[best] >= _LEAST_WORDS and hits[best] >= _LEAST_SHARE * len(words)
    return best if enough else UNKNOWN
