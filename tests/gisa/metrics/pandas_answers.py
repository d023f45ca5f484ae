"""The official scoring rules as one would write them with pandas: the slow reference of src/gisa/metrics/answers.py.

pandas is imported where it is used, so that collecting the tests need not wait for it.
"""

import difflib
import io
import re
from collections import Counter

import numpy as np


def cell_form(value):
    text = str(value).strip()
    if text.lower() in ("", "nan", "none", "null"):
        return ""
    digits = text.replace(",", "").replace("$", "")
    is_share = digits.endswith("%")
    try:
        number = float(digits.removesuffix("%")) / (100 if is_share else 1)
    except ValueError:
        return re.sub(r"[ *\n]", "", text.lower())
    return str(int(number)) if number.is_integer() else f"{number:.6f}".rstrip("0").rstrip(".")


def read(source, **options):
    import pandas as pd

    table = pd.read_csv(source, **options)
    table.columns = [str(name).strip().lower().replace(" ", "") for name in table.columns]
    return table.map(cell_form)


def read_prediction(prediction):
    import pandas as pd

    fence = re.search(r"```(?:tsv)?\s*(.*?)```", prediction, re.DOTALL)
    lines = (fence[1] if fence else prediction).split("\n")
    try:
        return read(io.StringIO("\n".join(line for line in lines if line.strip())), sep="\t")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeEncodeError):
        return None


def precision_recall_f1(given, right):
    hits = (Counter(given) & Counter(right)).total()
    precision, recall = hits / len(given), hits / len(right) if right else 0.0
    return precision, recall, 2 * (precision * recall) / (precision + recall) if hits else 0.0


def metrics_of(given, right, kind):
    last, right_last = given.iloc[:, -1].tolist(), right.iloc[:, -1].tolist()
    if kind == "set":
        names = ("set_precision", "set_recall", "set_f1")
        return dict(zip(names, precision_recall_f1(set(last), set(right_last)), strict=True))
    if kind == "list":
        order = difflib.SequenceMatcher(None, right_last, last).ratio()
        content = precision_recall_f1(last, right_last)[2]
        return {"list_content_f1": round(content, 4), "list_order_score": round(order, 4)}
    if kind == "item":
        return {"item_em": int("".join(given.iloc[0]) == "".join(right.iloc[0]))}
    common = [name for name in right.columns if name in given.columns]
    scores = {}
    rows = [set(table[common].itertuples(index=False, name=None)) for table in (given, right)] if common else None
    items = [[(name, cell) for name in table.columns for cell in table[name]] for table in (given, right)]
    for part, pair in (("row", rows), ("item", items)):
        values = precision_recall_f1(*pair) if pair else (0.0, 0.0, 0.0)
        scores |= {
            f"table_{part}_{name}": value for name, value in zip(("precision", "recall", "f1"), values, strict=True)
        }
    return scores


def reference_score(prediction, gold, kind):
    right = read(io.BytesIO(gold), header="infer" if kind == "table" else None)
    given = read_prediction(prediction)
    zeros = {
        "item": ["item_em"],
        "set": ["set_precision", "set_recall", "set_f1"],
        "list": ["list_content_f1", "list_order_score"],
        "table": [f"table_{part}_{name}" for part in ("row", "item") for name in ("precision", "recall", "f1")],
    }[kind]
    score = dict.fromkeys([*zeros, "global_em"], 0.0) | {"question_type": kind}
    if given is None:
        return score
    if kind == "set":
        score["global_em"] = int(set(given.iloc[:, 0]) == set(right.iloc[:, 0]))
    else:
        score["global_em"] = int(np.array_equal(given.to_numpy(), right.to_numpy()))
    return score if given.empty else score | metrics_of(given, right, kind)


def reference_summary(scores):
    import pandas as pd

    table = pd.DataFrame(scores)
    # pandas 3.1 adds rows that come sorted by group without compensation, so that ties may round otherwise than by any
    # version before it. A last group at both ends keeps the rows unsorted.
    last = pd.DataFrame([{"question_type": "~"}])
    means = pd.concat([last, table, last]).groupby("question_type").mean().round(4).to_dict(orient="index")
    summary = {"overall_global_em": table["global_em"].mean()}
    for kind, count in table["question_type"].value_counts().items():
        known = {f"overall_{name}": value for name, value in means[kind].items() if not pd.isna(value)}
        summary[kind] = {"num_samples": count, **known}
    return summary
