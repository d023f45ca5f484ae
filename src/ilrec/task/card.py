"""What an exported model brings with it: how to write a history, what an item is made of, and a card that uses both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from src.ilrec.task.assemble import Parts

_UNLIMITED = 10**9
_LOAD = {
    False: "model = AutoModelForCausalLM.from_pretrained(folder).eval()",
    True: """\
model = AutoModelForCausalLM.from_pretrained(form["base"], dtype=getattr(torch, form["dtype"]))
model.resize_token_embeddings(form["vocabulary"], mean_resizing=False)
model = PeftModel.from_pretrained(model, folder).eval()
model.generation_config = GenerationConfig(**form["search"])""",
}
_EXAMPLE = """\
import json, torch
from transformers import AutoModelForCausalLM$imports
folder = "."  # this one; of the hub: huggingface_hub.snapshot_download("<owner>/<name>")
form = json.load(open(f"{folder}/recommender.json", encoding="utf-8"))
$load
items, search = form["items"], form["search"]

def recommend(history, count=10, exclude=True):
    allowed = {item: one["written"] for item, one in items.items() if not (exclude and item in history)}
    tree, shown, k = {}, [], max(count, search["num_beams"])
    for tokens, n in [(tokens, n) for tokens in allowed.values() for n in range(len(tokens))]:
        tree.setdefault(tuple(tokens[:n]), set()).add(tokens[n])
    for item in reversed(history[-form["max_history"] :]):  # the latest that there is room for
        longer = items[item]["shown"] + (form["separator"] + shown if shown else [])
        if len(longer) > form["max_tokens"]: break
        shown = longer
    ids = torch.tensor([form["before"] + shown + form["after"]])
    may = lambda _, row: [*tree.get(tuple(row[ids.shape[1] :].tolist()), [search["eos_token_id"]])]
    rows = model.generate(ids, attention_mask=ids**0, prefix_allowed_tokens_fn=may, num_beams=k, num_return_sequences=k)
    best = [i for row in rows[:, ids.shape[1] :].tolist() for i, t in allowed.items() if row[: len(t)] == t]
    return list(dict.fromkeys(best))[:count]"""
_SERVE = {
    False: """\
[vLLM](https://docs.vllm.ai) reads this folder as it is: `vllm serve . --served-model-name recommender`. It writes the
likeliest item token by token; the ten best need the search above.

```python
import json, openai, transformers
form, tokenizer = json.load(open("recommender.json", encoding="utf-8")), transformers.AutoTokenizer.from_pretrained(".")
texts = {tokenizer.decode(one["written"], skip_special_tokens=True): item for item, one in form["items"].items()}
prompt = form["before"] + form["items"][$first]["shown"] + form["after"]  # a history of one item
answer = openai.OpenAI(base_url="http://localhost:8000/v1", api_key="-").completions.create(
    model="recommender", prompt=prompt, temperature=0, max_tokens=form["search"]["max_new_tokens"],
    extra_body={"structured_outputs": {"choice": list(texts)}})
print(texts[answer.choices[0].text])
```""",
    True: """\
Adapters alone are not for vLLM, whose adapters know no trained rows of tokens. Export the run without
`task.adapters_only=true` and serve that folder.""",
}
_WEIGHTS = {
    False: "`config.json`, `generation_config.json`, `model.safetensors` | the language model",
    True: "`adapter_config.json`, `adapter_model.safetensors` | adapters and the trained rows of item tokens, for `{}`",
}


def recommender(parts: Parts, *, base: str | None) -> dict[str, Any]:
    """Return what ``recommender.json`` holds: plain values that the example of the card reads.

    Args:
        parts: Of the run.
        base: The model that adapters alone belong to; None where the weights are whole.

    Returns:
        The prompt's form with ``max_tokens`` as a number in any case; ``search``, settings of ``generate``; ``items``
        by id, with ``title``, ``shown`` and ``written``, token ids; with a base also its name, type and vocabulary.
    """
    model: Any = parts.model
    form, data, tokenizer = parts.prompt.form(), parts.interactions, model.tokenizer  # type: ignore[union-attr]
    ids = model.item_token_ids.tolist()
    written = [[ids[token] for token in row if token >= 0] for row in parts.items.tokens.tolist()]
    of_items = zip(data.item_ids, data.titles, form.shown, written, strict=True)
    search = {
        "do_sample": False,
        "num_beams": getattr(parts.evaluator, "num_beams", 20) if _searches(parts) else 20,
        "max_new_tokens": int(parts.items.tokens.shape[1]),
        "length_penalty": 0.0,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    search["num_return_sequences"] = search["num_beams"]
    if getattr(parts.evaluator, "over", "vocabulary") == "items":
        search["renormalize_logits"] = True
    content = {
        "before": form.before,
        "separator": form.separator,
        "after": form.after,
        "max_history": form.max_history,
        "max_tokens": _UNLIMITED if form.max_tokens is None else form.max_tokens,
        "search": search,
    }
    if base is not None:
        network = model.causal_network
        dtype = str(network.dtype).removeprefix("torch.")
        content |= {"base": base, "dtype": dtype, "vocabulary": int(network.config.vocab_size)}
    items = {item: {"title": title, "shown": s, "written": w} for item, title, s, w in of_items}
    return {**content, "items": items}


def model_card(parts: Parts, config: Mapping[str, Any], checkpoint: Path, *, base: str | None, alone: bool) -> str:
    """Write the model card: front matter, results of the run, an example that recommends, how to serve, the files.

    Args:
        parts: Of the run.
        config: Of the run.
        checkpoint: Whose weights are exported; the run's results are those of ``best.ckpt``.
        base: Name on the hub of the model that was fine-tuned; None where there is none.
        alone: Whether the adapters are exported without it.
    """
    from huggingface_hub import EvalResult, ModelCardData

    record = checkpoint.parent.parent / "result.json"
    result = json.loads(record.read_bytes()) if checkpoint.name == "best.ckpt" and record.is_file() else {}
    metrics = {n.removeprefix("test/"): v for n, v in result.get("metrics", {}).items() if n.startswith("test/")}
    data, name = parts.interactions, f"{config['name']} on {parts.interactions.name}"
    tests = [
        EvalResult(
            task_type="text-generation",
            dataset_type=data.name,
            dataset_name=f"{data.name}, leave-one-out",
            metric_type=metric,
            metric_value=round(value, 4),
        )
        for metric, value in metrics.items()
    ]
    source = config["dataset"].get("source") or {}
    of_hub = str(source.get("_target_")).endswith(".HubTable") and not Path(source["path"]).expanduser().exists()
    front = ModelCardData(
        library_name="peft" if alone else "transformers",
        pipeline_tag="text-generation",
        tags=["recommendation", "sequential-recommendation", "generative-retrieval"],
        base_model=base,
        datasets=[source["path"]] if of_hub else None,
        model_name=name if tests else None,
        eval_results=tests or None,
    )
    first, second = data.item_ids[:2] if data.num_items > 1 else data.item_ids * 2
    example = Template(_EXAMPLE).substitute(
        load=_LOAD[alone], imports=", GenerationConfig\nfrom peft import PeftModel" if alone else ""
    )
    body = Template((files("src.ilrec.task") / "model_card.md").read_text(encoding="utf-8")).substitute(
        name=name,
        kind="titles" if parts.items.as_text else "semantic IDs",
        recipe=config["name"],
        seed=config["seed"],
        commit=str(result.get("commit") or "unknown")[:12],
        dataset=f"{data.name} ({data.fingerprint[:12]})",
        users=f"{data.num_users:,}",
        items=f"{data.num_items:,}",
        origin=f" Fine-tuned from `{base}`." if base else "",
        results=_results(metrics, result),
        needs="`transformers` and `peft`" if alone else "`transformers`",
        agreement=_agreement(parts),
        example=example,
        history=json.dumps([first, second], ensure_ascii=False),
        serve=Template(_SERVE[alone]).safe_substitute(first=json.dumps(first, ensure_ascii=False)),
        weights=_WEIGHTS[alone].format(base),
    )
    return f"---\n{front.to_yaml()}\n---\n\n{body}"


def _searches(parts: Parts) -> bool:
    """Whether the run's own evaluator searches over the items, as the example does."""
    from src.ilrec.evaluator.ranking import RankingEvaluator

    return isinstance(parts.evaluator, RankingEvaluator)


def _agreement(parts: Parts) -> str:
    if not _searches(parts):
        return "The run itself was tested by another rule, which ranks titles by their distance from a free one."
    beams = f"Its beams are the {parts.evaluator.num_beams} of the run"
    if parts.evaluator.over == "items":
        return f"{beams}; an excluded item's probability goes to the others, which the run's own search leaves out."
    if parts.items.as_text:
        return f"{beams}; a title that is complete leaves room for another beam, which the run's own search keeps."
    return f"{beams}, and so are its results."


def _results(metrics: Mapping[str, float], result: Mapping[str, Any]) -> str:
    if not metrics:
        return "These weights were not tested."
    rows = "\n".join(f"| {metric} | {value:.4f} |" for metric, value in metrics.items())
    settings = ", ".join(f"{key} {value}" for key, value in result.get("protocol", {}).items())
    users = f"{result['evaluated_users']:,} test users, all items ranked, one seed; {settings}."
    return f"| metric | value |\n|---|--:|\n{rows}\n\n{users}"
