"""Personal data out of texts, before anything of them is stored.

Rules, not a model: they are exact for what has a form (cards, IBANs, addresses of mail and machines, keys) and know
names only where a text says that one follows ("My name is …", "Dear …"). A name, an address or an illness in the
middle of a sentence stays. So what is masked is still treated as personal: it is kept only where it is asked for,
not for long, and goes with its user. A recogniser with a language model (Presidio on spaCy) finds more names; it
brings hundreds of megabytes for each language into a service that must not get in anybody's way. Here a thousand
characters take half a millisecond.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator

_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<![\w-])(?:sk|pk|rk)[-_][\w-]{16,}"
    r"|(?<!\w)(?:gh[pousr]_|github_pat_|glpat-|hf_|xox[abeoprs]-|npm_|pypi-|AIza|ya29\.)[\w-]{16,}"
    r"|(?<!\w)(?:AKIA|ASIA)[0-9A-Z]{16}(?!\w)"
    r"|(?<!\w)eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",
    re.DOTALL,
)
_BEARER = re.compile(r"(?i)(\b(?:bearer|basic)\s+)[\w.~+/=-]{12,}")
_NAMED_SECRET = re.compile(
    r"(?i)((?:api[ _-]?key|access[ _-]?key|secret|password|passwort|passwd|pwd|token)[\"']?\s*(?:[:=]|\bis\b)\s*[\"']?)"
    r"[^\s\"',;\[\]]{4,}"
)
_URL_LOGIN = re.compile(r"(://)[^\s/:@]++:[^\s/@]++@")
# The look-behind keeps it linear: only the first character of a run is tried.
_EMAIL = re.compile(r"(?<![\w.+%'-])[\w.+%'-]++@[\w-]++(?:\.[\w-]++)+")
_IBAN = re.compile(r"(?<![^\W_])[A-Za-z]{2}[ -]?\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_DIGITS = re.compile(r"\d+(?:[^\w\d]{1,3}\d+)*")
_GROUP = re.compile(r"\d+")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}(?:(?:\.\d{1,3}){3})?(?![\w:])")
_PHONE = re.compile(r"(?<![\w.,])(?:\+|\(|0)[\d ()./\-\u00a0\u2010-\u2013]{6,24}\d(?!\w)")
_AMERICAN_PHONE = re.compile(r"(?<![\w.-])\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?![\w-])")
_AMERICAN_ID = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
_DECIMAL = re.compile(r"\d+[.,]\d+\Z")
_NAME = r"[^\W\d_a-zß-öø-ÿ][\w'’-]+"  # noqa: RUF001 - a typographic apostrophe in names
_NAMES = re.compile(
    # One look-behind before all of them: most places in a text are within a word.
    r"(?<!\w)((?i:my name is|name's|i am called|mein name ist|ich hei(?:ß|ss)e|je m'appelle|me llamo|mi chiamo|"
    r"dear|sehr geehrte[rs]?|liebe[rs]?|cher|chère|estimad[oa]|gentile|hi|hello|hallo|"
    r"(?:mr|mrs|ms|miss|dr|prof|herr|frau|monsieur|madame|señora?|signora?)\.?|"
    r"(?:regards|sincerely|grüße|grüßen|cordialement|saludos),?)[ \t]*\n?[ \t]*"
    r"(?:(?i:(?:mr|mrs|ms|miss|dr|prof|herr|frau)\.?)[ \t]+)*)"
    rf"(?<!\w){_NAME}(?:[ \t]+{_NAME}){{0,2}}"
)


def mask(text: str) -> str:
    """Return the text with what looks like personal data replaced by its kind in brackets, such as `[EMAIL]`."""
    if not text:
        return text
    text = _SECRETS.sub("[SECRET]", text)
    text = _BEARER.sub(r"\1[SECRET]", text)
    text = _NAMED_SECRET.sub(r"\1[SECRET]", text)
    text = _URL_LOGIN.sub(r"\1[SECRET]@", text)
    text = _EMAIL.sub("[EMAIL]", text)
    text = _without_ibans(text)
    text = _AMERICAN_ID.sub("[ID]", text)
    text = _DIGITS.sub(_without_cards, text)
    text = _IPV4.sub(_checked(_is_address, "[IP]"), text)
    text = _IPV6.sub(_checked(_is_long_address, "[IP]"), text)
    text = _AMERICAN_PHONE.sub("[PHONE]", text)
    text = _PHONE.sub(_checked(_is_phone, "[PHONE]"), text)
    return _NAMES.sub(r"\1[NAME]", text)


def is_card(digits: str) -> bool:
    """Say whether these could be a payment card: 13 to 19 digits whose last one checks the others (Luhn).

    Source: ISO/IEC 7812-1
    """
    if not 13 <= len(digits) <= 19:
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        if place % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def is_iban(text: str) -> bool:
    """Say whether these could be an IBAN: the rest by 97 is 1.

    Source: ISO 13616
    """
    compact = re.sub(r"[ -]", "", text).upper()
    if not 15 <= len(compact) <= 34 or not compact.isascii():
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def _checked(check: Callable[[str], bool], kind: str) -> Callable[[re.Match[str]], str]:
    return lambda match: kind if check(match[0]) else match[0]


def _without_ibans(text: str) -> str:
    parts, end, place = [], 0, 0
    while match := _IBAN.search(text, place):
        place = match.start() + 2
        # What follows an IBAN may be words: it ends with one of the groups.
        stops = [stop for stop in range(match.end(), match.start() + 14, -1) if not text[stop : stop + 1].isalnum()]
        found = next((stop for stop in stops if is_iban(text[match.start() : stop])), 0)
        if found:
            parts += [text[end : match.start()], "[IBAN]"]
            end = place = found
    return "".join([*parts, text[end:]])


def _without_cards(match: re.Match[str]) -> str:
    run = match[0]
    found = list(_cards(run))
    if not found:
        return run
    parts, end = [], 0
    for start, stop in _joined(found):
        parts += [run[end:start], "[CARD]"]
        end = stop
    return "".join([*parts, run[end:]])


def _cards(run: str) -> Iterator[tuple[int, int]]:
    """Yield where in a run of digit groups cards may be: they begin and end with a group."""
    groups = [(group.start(), group.end(), group[0]) for group in _GROUP.finditer(run)]
    for first, (start, _, _) in enumerate(groups):
        digits = ""
        for _, stop, group in groups[first : first + 19]:
            digits += group
            if len(digits) > 19:
                break
            if is_card(digits):
                yield start, stop


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_long_address(text: str) -> bool:
    # Of two groups it is as likely a scope in a program's text: `fade::bad`.
    return len([group for group in text.split(":") if group]) >= 3 and _is_address(text)


def _is_phone(text: str) -> bool:
    digits = [character for character in text if character.isdigit()]
    return 8 <= len(digits) <= 15 and not _DECIMAL.match(text)
