"""GISA's files of our own making. ``python -m tests.gisa.gisa_files FOLDER`` writes a suite and answers."""

import base64
import csv
import hashlib
import io
import json
import random
import sys
from pathlib import Path

TYPES = {"item": 22, "set": 50, "list": 48, "table": 253}  # as many as the published suite has
TOPICS = ["rivers", "bridges", "orchestras", "comets", "dialects"]
WORDS = ["amber", "birch", "copper", "delta", "ember", "fjord", "grove", "harbour", "islet", "jasper", "kelp", "mesa"]


def encrypt(text, password):
    """BrowseComp's scheme, the other way round, byte by byte."""
    key = hashlib.sha256(password.encode()).digest()
    return base64.b64encode(bytes(byte ^ key[at % 32] for at, byte in enumerate(text.encode()))).decode()


def question(number, answer_type="item", *, stable=True, topic="rivers", text=None, answer=(("amber",),), trace=True):
    """One question with its gold rows (the first one is the header of a table)."""
    return {
        "id": number, "question": text or f"Which one is number {number}?", "answer_type": answer_type,
        "question_type": "stable" if stable else "live", "topic": topic, "answer": answer, "trace": trace,
    }  # fmt: skip


def gold_of(one):
    """The content of a question's gold file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(one["answer"])
    return text.getvalue().encode()


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gold_of({"answer": rows}))


def write_suite(root, questions, *, encrypted=True):
    """Write the published layout."""
    lines = []
    for one in questions:
        line = {key: one[key] for key in ("id", "question", "answer_type", "question_type", "topic")}
        if encrypted:
            canary = f"canary of {one['id']}"
            line |= {"question": encrypt(line["question"], canary), "canary": canary}
        lines.append(json.dumps(line) + "\n")
        write_csv(root / "answer" / f"{one['id']}.csv", one["answer"])
        if one["trace"]:
            (root / "trace").mkdir(parents=True, exist_ok=True)
            (root / "trace" / f"{one['id']}.json").write_text(json.dumps(trace(one)))
    (root / ("encrypted_question.jsonl" if encrypted else "question.jsonl")).write_text("".join(lines))
    return root


def trace(one):
    query, page = f"number {one['id']}", f"https://example.org/{one['id']}"
    hit = {"snippet": "It is amber.", "title": "Numbers", "url": page}
    return {
        "search": [query],
        "result": {query: [{"page": 1, "results": [hit]}]},
        "click": [{"from": f"https://www.google.com/search?q={query}", "to": page}],
    }


def made_up(seed=0, counts=TYPES):
    """A suite of the published size: answers of random words and numbers."""
    source, questions = random.Random(seed), []
    for answer_type, count in counts.items():
        for _ in range(count):
            height = 1 if answer_type == "item" else source.randrange(3, 30)
            width = source.randrange(2, 7) if answer_type == "table" else 1
            rows = [[cell(source) for _ in range(width)] for _ in range(height)]
            header = [[f"Column {place}" for place in range(width)]] if answer_type == "table" else []
            number, stable = 3 * len(questions) + 1, source.random() < 0.6
            questions.append(
                question(number, answer_type, stable=stable, topic=source.choice(TOPICS), answer=[*header, *rows])
            )
    return questions


def cell(source):
    word = f"{source.choice(WORDS)} {source.choice(WORDS)}"
    number = f"{source.randrange(1, 10**6):,}"
    return source.choice([word, word.title(), number, f"{source.random():.3%}", str(source.randrange(1900, 2030))])


def answer_of(one, source):
    """Answer a question rightly, or wrongly in one of the ways of real models; None leaves it out."""
    rows = [list(row) for row in one["answer"]]
    if one["answer_type"] != "table":
        rows.insert(0, ["Answer"])
    way = source.choice(
        ["right", "right", "right", "shuffled", "changed", "short", "markdown", "draft", "long row", None]
    )
    body = rows[1:]
    if way == "shuffled":
        source.shuffle(body)
    elif way == "changed":
        source.choice(body)[-1] = "unknown"
    elif way == "short":
        body = body[: len(body) // 2]
    elif way == "long row":
        body[-1].append("remark")
    elif way == "markdown":
        lines = [" | ".join(row) for row in [rows[0], ["---"] * len(rows[0]), *body]]
        return "\n".join(f"| {line} |" for line in lines)
    text = "```tsv\n" + "\n".join("\t".join(row) for row in [rows[0], *body]) + "\n```"
    return f"A draft: ```tsv\nDraft\nnothing\n```\nThe answer:\n{text}" if way == "draft" else text if way else None


def write_answers(folder, questions, seed=0):
    """Write a folder as the official harness does; return the answers by id."""
    source = random.Random(seed)
    answers = {str(one["id"]): answer_of(one, source) for one in questions}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in answers.items():
        if text is not None:
            (folder / f"{name}.json").write_text(json.dumps({"prediction": text}))
    return {name: text for name, text in answers.items() if text is not None}


if __name__ == "__main__":
    write_suite(Path(sys.argv[1]) / "suite", made_up())
    write_answers(Path(sys.argv[1]) / "answers", made_up())
