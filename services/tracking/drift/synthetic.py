"""Traffic that drifts on purpose: prompts for the lab and for the measurement in docs/drift.md.

Its usual traffic asks about databases, in English, in a sentence or two. Each kind of drift changes one thing of that.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["none", "language", "topic", "longer", "worse"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SAYS: dict[Kind, str] = {
    "none": "the usual questions about databases",
    "language": "the usual questions in German, French and Spanish",
    "topic": "questions about cooking, gardens and journeys",
    "longer": "the usual questions with a long report of what happened before them",
    "worse": "the usual questions, answered at temperature 2 and cut after a few tokens",
}

_THINGS = (
    ("an index", "einen Index", "un index", "un índice"),
    ("a view", "eine Sicht", "une vue", "una vista"),
    ("a backup", "eine Sicherung", "une sauvegarde", "una copia de seguridad"),
    ("a partitioned table", "eine partitionierte Tabelle", "une table partitionnée", "una tabla particionada"),
    ("a user with few rights", "einen Benutzer mit wenig Rechten", "un utilisateur limité", "un usuario limitado"),
    ("a foreign key", "einen Fremdschlüssel", "une clé étrangère", "una clave externa"),
    ("a sequence", "eine Sequenz", "une séquence", "una secuencia"),
    ("a replica of the server", "eine Kopie des Servers", "une réplique du serveur", "una réplica del servidor"),
    ("a trigger", "einen Trigger", "un déclencheur", "un disparador"),
    ("a transaction", "eine Transaktion", "une transaction", "una transacción"),
    ("a column with dates", "eine Spalte mit Daten", "une colonne de dates", "una columna de fechas"),
    ("a slow query", "eine langsame Abfrage", "une requête lente", "una consulta lenta"),
)
_QUESTIONS = (
    (
        "How do I make {} in the database that we have?",
        "Wie kann ich {} in der Datenbank anlegen, die wir haben?",
        "Comment est-ce que je peux créer {} dans la base que nous avons ?",
        "¿Cómo puedo crear {} en la base de datos que tenemos?",
    ),
    (
        "What happens to {} when the server is restarted?",
        "Was passiert mit dem Server, wenn ich {} habe und er neu startet?",
        "Que se passe-t-il pour le serveur si nous avons {} et qu'il redémarre ?",
        "¿Qué pasa en el servidor si hay {} y se reinicia?",
    ),
    (
        "Is it possible to change {} while others are at work?",
        "Kann man {} ändern, während andere mit der Datenbank arbeiten?",
        "Est-il possible de modifier {} pendant que les autres sont dans la base ?",
        "¿Es posible cambiar {} mientras los demás están en la base de datos?",
    ),
    (
        "Why would you use {} and what does it cost?",
        "Warum sollte man {} benutzen, und was kostet das?",
        "Pourquoi est-ce que l'on utilise {} et quel est le prix de cela ?",
        "¿Por qué se usa {} y cuál es el coste de eso?",
    ),
    (
        "Show me the command for {} with an example, please.",
        "Zeige mir bitte den Befehl für {} mit einem Beispiel.",
        "Montre-moi la commande pour {} avec un exemple, je te prie.",
        "Muéstrame la orden para {} con un ejemplo, por favor.",
    ),
)
_ELSEWHERE = (
    "How long do I bake {} and at what heat?",
    "Which herbs go well with {} on a summer evening?",
    "My neighbour has given me {}: what can I make of it?",
    "When is the best month to plant {} in a small garden?",
    "How do I keep snails away from {} without poison?",
    "We travel with {} through the mountains: what should we pack?",
    "What would you cook for six guests who bring {}?",
    "Can {} grow on a balcony that has no sun in the morning?",
)
_GROWN = (
    "a loaf of rye bread",
    "ripe tomatoes",
    "a pumpkin",
    "young carrots",
    "a bag of cherries",
    "wild garlic",
    "a lemon tree",
    "two small children",
    "a leg of lamb",
    "strawberries",
    "an old apple tree",
    "sweet potatoes",
)
_BEFORE = (
    "Last week we moved the whole system to a new machine, and since then nothing has been as fast as it was.",
    "The first thing that we noticed was that the nightly job did not end before the people came to work.",
    "A colleague has looked at the settings and changed the memory of the server twice, without any effect.",
    "There are about four million rows in the largest table, and some thirty users who read it all day.",
    "We have read the manual and the answers of others, but each of them says something different about it.",
    "The log shows nothing that we understand, only that there are many lines more than there were before.",
    "It would be good to have an answer that we can also give to the people who run the other two servers.",
    "Please keep in mind that we may not stop the server during the day, and that nights are short here.",
)


@dataclass(frozen=True)
class Ask:
    """One request. `temperature` is None where the model's own is to stand."""

    prompt: str
    max_tokens: int
    temperature: float | None = None


def usual(dice: random.Random, language: int = 0) -> str:
    """Return a question about databases: 0 English, 1 German, 2 French, 3 Spanish."""
    return dice.choice(_QUESTIONS)[language].format(dice.choice(_THINGS)[language])


def elsewhere(dice: random.Random) -> str:
    """Return a question about something else."""
    return dice.choice(_ELSEWHERE).format(dice.choice(_GROWN))


def longer(dice: random.Random, question: str) -> str:
    """Return the question with a report of what happened before it."""
    return " ".join([*dice.sample(_BEFORE, dice.randint(3, 6)), question])


def asks(kind: Kind, count: int, seed: int, share: float = 1.0, max_tokens: int = 48) -> Iterator[Ask]:
    """Yield requests of which a share drifts; the same seed yields the same ones."""
    dice = random.Random(seed)  # noqa: S311 - nothing secret
    for _ in range(count):
        drifts = kind != "none" and dice.random() < share
        if drifts and kind == "language":
            yield Ask(usual(dice, dice.randint(1, 3)), max_tokens)
        elif drifts and kind == "topic":
            yield Ask(elsewhere(dice), max_tokens)
        elif drifts and kind == "longer":
            yield Ask(longer(dice, usual(dice)), max_tokens)
        elif drifts:
            yield Ask(usual(dice), max(4, max_tokens // 8), temperature=2.0)
        else:
            yield Ask(usual(dice), max_tokens)
