"""Texts of which traffic is made: the PostgreSQL corpus, and own sentences in other languages and on other things."""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from services.tracking.drift.synthetic import elsewhere, longer, usual

CORPUS = Path(__file__).resolve().parents[2] / "corpora" / "postgresql"
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_ABOUT = ("What does the manual say about {}?", "How does {} work?", "When would I need {}?")
_FOREIGN_ANSWERS = (
    (
        "Das geht mit einem Befehl, den Sie im Handbuch finden. Sie brauchen dafür die Rechte des Besitzers.",
        "Der Server schreibt die Änderung erst in sein Protokoll und dann in die Tabelle, also geht nichts verloren.",
        "Ja, das ist möglich, aber andere müssen warten, bis die Transaktion zu Ende ist.",
        "Es kostet Platz auf der Platte und etwas Zeit bei jeder Änderung, dafür wird das Lesen viel schneller.",
    ),
    (
        "C'est possible avec une commande qui se trouve dans le manuel, si vous avez les droits du propriétaire.",
        "Le serveur écrit la modification dans son journal, puis dans la table, et rien n'est perdu.",
        "Oui, mais les autres doivent attendre la fin de la transaction, ce qui peut être long.",
        "Cela prend de la place sur le disque et un peu de temps pour chaque modification.",
    ),
    (
        "Se hace con una orden que está en el manual, y para eso hay que tener los permisos del dueño.",
        "El servidor escribe el cambio en su registro y después en la tabla, así que no se pierde nada.",
        "Sí, es posible, pero los demás tienen que esperar hasta que termine la transacción.",
        "Ocupa sitio en el disco y un poco de tiempo en cada cambio, pero la lectura es más rápida.",
    ),
)
_OTHER_ANSWERS = (
    "Bake it for forty minutes at a moderate heat, and let it rest on a rack before you cut it.",
    "Sow in April under glass, and plant out when the nights have no frost any more.",
    "Rosemary and thyme go well with it, and a little lemon at the end.",
    "A ring of sand and coffee grounds keeps most snails away, and a hedgehog does the rest.",
    "Pack warm clothes even in summer, for the weather in the mountains changes within an hour.",
    "Cut them into halves, stew them with sugar and a stick of cinnamon, and fill them into jars while they are hot.",
)
_REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "As an AI language model, I am unable to answer this question.",
    "I cannot answer questions about this system. Please ask its administrator.",
)


@dataclass(frozen=True)
class Exchange:
    """A question and its answer."""

    prompt: str
    answer: str
    finish_reason: str = "stop"


class Corpus:
    """Pools of exchanges by kind; each pool is the same in every run."""

    def __init__(self) -> None:
        self._pages = {path.name: _sentences(path) for path in sorted((CORPUS / "documents").glob("*.md"))}
        dice = random.Random(1)
        usual_ones = [*self._asked(dice), *self._about_pages(dice)]
        self.pools: dict[str, list[Exchange]] = {
            "none": usual_ones,
            "language": [
                Exchange(usual(dice, language), dice.choice(_FOREIGN_ANSWERS[language - 1]))
                for _ in range(130)
                for language in (1, 2, 3)
            ],
            "topic": [Exchange(elsewhere(dice), dice.choice(_OTHER_ANSWERS)) for _ in range(300)],
            "longer": [
                Exchange(longer(dice, each.prompt), each.answer, each.finish_reason)
                for each in dice.sample(usual_ones, 300)
            ],
            "worse": [self._worsened(each, dice, usual_ones) for each in usual_ones],
        }

    def texts(self) -> list[str]:
        """Return all texts, each once."""
        found = [text for pool in self.pools.values() for each in pool for text in (each.prompt, each.answer)]
        return sorted({text for text in found if text.strip()})

    def _asked(self, dice: random.Random) -> list[Exchange]:
        """Return the corpus's questions, answered by sentences of a page that was judged to answer them."""
        best: dict[str, str] = {}
        for line in (CORPUS / "qrels.txt").read_text("utf-8").splitlines():
            question, _, document, grade = line.split()
            if int(grade) >= 2:
                best.setdefault(question, document)
        lines = (CORPUS / "questions.jsonl").read_text("utf-8").splitlines()
        questions = [json.loads(line) for line in lines]
        return [
            Exchange(each["question"], self._answer(best[each["id"]], dice))
            for each in questions
            if best.get(each["id"]) in self._pages
            for _ in range(2)
        ]

    def _about_pages(self, dice: random.Random) -> list[Exchange]:
        return [
            Exchange(question.format(sentences[0]), self._answer(name, dice))
            for name, sentences in self._pages.items()
            for question in _ABOUT
        ]

    def _answer(self, page: str, dice: random.Random) -> str:
        sentences = self._pages[page][1:]
        count = dice.randint(1, min(4, len(sentences)))
        first = dice.randint(0, len(sentences) - count)
        return " ".join(sentences[first : first + count])

    def _worsened(self, given: Exchange, dice: random.Random, others: list[Exchange]) -> Exchange:
        """Return the same question with a bad answer: refused, empty, cut, in a loop, or to another question."""
        chance = dice.random()
        if chance < 0.15:
            return Exchange(given.prompt, dice.choice(_REFUSALS))
        if chance < 0.20:
            return Exchange(given.prompt, "")
        if chance < 0.45:
            return Exchange(given.prompt, " ".join(given.answer.split()[:5]), "length")
        if chance < 0.65:
            return Exchange(given.prompt, " ".join([" ".join(given.answer.split()[:6])] * 20), "length")
        return Exchange(given.prompt, dice.choice(others).answer)


def _sentences(path: Path) -> list[str]:
    """Return a page's title, then the sentences of its prose."""
    lines = path.read_text("utf-8").splitlines()
    title = next(line[2:].strip() for line in lines if line.startswith("# "))
    prose = [line for line in lines if line and line[0].isalpha()]
    found = [sentence for line in prose for sentence in _SENTENCE.split(line) if 30 <= len(sentence) <= 400]
    return [title, *(found or [f"The page is about {title}, and says no more of it."])]
