"""Reasoning that a model writes into its text, as no server took it out."""

from __future__ import annotations

import re

# Reasoning within the text: Qwen, DeepSeek, GLM, MiniMax, Seed, LongCat and others; Mistral; Kimi-VL; Gemma 4; Command;
# gpt-oss, whose calls are none, and whose marks are lost where a server leaves out special tokens.
_THINKING = (
    (r"<(?:\w+[:_])?think(?:ing)?>", r"</(?:\w+[:_])?think(?:ing)?>"),
    (r"<(?:thought|reasoning)>", r"</(?:thought|reasoning)>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"◁think▷", r"◁/think▷"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|channel>thought", r"<channel\|>"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (
        r"<\|channel\|>(?:analysis|commentary)<\|message\|>",
        r"(?:<\|channel\|>final(?: [^<]*)?<\|message\|>|assistantfinal"
        r"|(?=(?:<\|channel\|>\w+|<\|start\|>assistant) to=functions\.))",
    ),
)
_LEFT_OVER = re.compile(r"<\|(?:start\|>assistant|end\|>|return\|>|channel\|>final<\|message\|>)")


def without_thinking(text: str) -> str:
    """Return what a text says beside its reasoning.

    Closed blocks are taken out; what stands before an end without beginning, and after a beginning without end, is
    reasoning too.
    """
    if not re.search(r"[<\[◁]|assistantfinal", text):
        return text
    for begin, end in _THINKING:
        text = re.sub(f"{begin}.*?{end}", "", text, flags=re.DOTALL | re.IGNORECASE)
        text = re.split(end, text, flags=re.IGNORECASE)[-1]
        text = re.split(begin, text, maxsplit=1, flags=re.IGNORECASE)[0]
    return _LEFT_OVER.sub("", text)
