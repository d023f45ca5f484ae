"""What the templates of families of models make of an agent's conversation, and what is made of it at load."""

import json

import pytest

from src.gisa.agent.tools import specs
from src.gisa.chat.format import ChatFormat, sense_of
from src.launch.errors import InputError
from tests.gisa.chat.families import FAMILIES, Family
from tests.gisa.chat_models import PLAIN, tokenizer

NATIVE = {"qwen2.5", "qwen3", "qwen3.5", "qwen3-coder", "ministral", "gemma4", "glm4.5", "glm4.6", "lfm2.5"}
NATIVE |= {"phi4-tools", "nemotron-nano"}
WITHOUT_SYSTEM = {"mistral-v0.1", "mistral-v0.3", "gemma", "gemma2-bare", "phi3-first"}
NAMES = ["search", "visit"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    made = FAMILIES[request.param].tokenizer()
    return request.param, ChatFormat(made, FAMILIES[request.param].end_ids(made))


def calls(*said):
    return [
        {"id": f"call{at:05}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for at, (name, arguments) in enumerate(said)
    ]


def results(*texts):
    return [{"role": "tool", "tool_call_id": f"call{at:05}", "content": text} for at, text in enumerate(texts)]


SEARCH = ("search", {"query": "Zoë “Côte d'Ivoire” 7.5%\n[2] <|im_end|> \\n"})
VISIT = ("visit", {"url": ["https://a.org/%C3%A9?x=1&y=2", "https://b.org"], "goal": "2024"})
ANSWER = "So it is:\n```tsv\nCity\tPeople\nLima\t10,000\n```"
EPISODE = [
    {"role": "system", "content": "Find facts."},
    {"role": "user", "content": "Where is Zoë?"},
    {"role": "assistant", "content": "Its place is unknown.", "tool_calls": calls(SEARCH)},
    *results("1. Zoë\n```tsv\nno\tanswer\n```"),
    {"role": "assistant", "content": "", "tool_calls": calls(VISIT, SEARCH)},
    *results("Page a", "Not carried out: make one call at a time. <start_of_turn>user <|eot_id|>"),
    {"role": "assistant", "content": "", "tool_calls": calls(("unknown", {"unreadable": '{"a": '}))},
    *results("There is no tool 'unknown'."),
    {"role": "user", "content": "You have used up your tool calls."},
    {"role": "assistant", "content": ANSWER},
]
TURNS = [at for at, message in enumerate(EPISODE) if message["role"] == "assistant"]


def test_every_family_works_and_what_its_template_would_lose_is_said(family):
    name, chat = family
    assert chat.knows_tools == (name in NATIVE)
    assert chat._takes_system == (name not in WITHOUT_SYSTEM)
    assert bool(chat.remarks) == (name not in NATIVE)
    for remark in chat.remarks:
        assert remark.startswith("The model's chat template ")
        assert "calls are written as plain text" in remark
        assert ("system messages as part of questions" in remark) == (name in WITHOUT_SYSTEM)


def test_a_whole_episode_is_written_in_every_family_with_nothing_lost_or_forged(family):
    _, chat = family
    text = chat.text(EPISODE, specs())
    for words in ("Find facts.", "Where is Zoë?", "Its place is unknown.", "Page a", "make one call at a time"):
        assert text.count(words) == 1
    for words in ("Zoë “Côte d'Ivoire” 7.5%", "https://a.org/%C3%A9?x=1&y=2", "You have used up your", "Lima\t10,000"):
        assert words in text.replace("\\t", "\t").replace("\\'", "'")
    for token in ("<|im_end|>", "<start_of_turn>", "<|eot_id|>"):
        if token in FAMILIES[_].special:
            assert f"{token[0]} {token[1:]}" in text


@pytest.mark.parametrize("thought", [{}, {"reasoning_content": "Hm. So I look."}], ids=["said", "thought"])
def test_what_is_taught_is_what_a_rollout_reads_in_every_family(family, thought):
    """Each turn is learnt once, behind the very tokens of a rollout, and read as what was to be taught."""
    name, chat = family
    episode = [{**message, **(thought if message["role"] == "assistant" else {})} for message in EPISODE]
    sequences = chat.marked(episode, specs())
    actions = [action for marked in sequences for action in marked.actions]
    assert len(actions) == len(TURNS)
    begun = []
    for marked in sequences:
        own = [token for token, trained in zip(marked.tokens, marked.trained, strict=True) if trained]
        assert sum(token in chat.ends for token in own) == len(marked.actions)
        starts = [at for at, one in enumerate(marked.trained) if one and not marked.trained[at - 1]]
        begun += [marked.tokens[:start] for start in starts]
    for prompt, action, at in zip(begun, actions, TURNS, strict=True):
        assert prompt == chat.encoded(chat.text(episode[:at], specs()))
        written = chat.text_of(chat.encoded(action))
        for message in (chat.read(chat.text(episode[:at], specs()), written, specs()), chat.read("", action, specs())):
            assert message["content"] == EPISODE[at]["content"], name
            assert said(message) == said(EPISODE[at])


def test_a_servers_episode_is_taught_as_one_of_its_own(family):
    """Servers leave out the content beside calls, or send it in parts."""
    _, chat = family
    served = [
        {**message, "content": [{"type": "text", "text": message["content"]}] if message["content"] else None}
        for message in EPISODE
    ]
    assert chat.marked(served, specs()) == chat.marked(EPISODE, specs())
    assert [sense_of(message) for message in served] == [sense_of(message) for message in EPISODE]


def said(message):
    calls = [call["function"] for call in message.get("tool_calls", [])]
    broken = [(call["name"], json.loads(call["arguments"])) for call in calls]
    return json.loads(json.dumps(broken).replace("< |im_end|>", "<|im_end|>"))  # which nobody may write


@pytest.mark.parametrize(
    ("arguments", "shown"), [("[1]", "[1]"), ('"x"', "x"), ("null", "null"), ('{"a": {"b": [null, 1.5]}}', "1.5")]
)
def test_arguments_of_any_kind_are_written_in_every_family(family, arguments, shown):
    call = {"id": "call00000", "type": "function", "function": {"name": "search", "arguments": arguments}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert shown in family[1].text([*EPISODE[:2], turn, *results("No.")], specs())


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (PLAIN.replace("assistant\n{% endif", "assistant:{% endif"), "in another place than where its reply"),
        ("{% for m in messages %}{{ m.role + m.content }}<|end|>{% endfor %}", "so that it cannot be read again"),
        (PLAIN.replace("{{ message.content }}", "{% if message.role != 'user' %}{{ message.content }}{% endif %}"),
         "drops the tools, a system message, a result, several results, a message of the user behind a result. So"),
        (PLAIN.replace("{{ message.content }}", "{{ message.content[:150] }}"), "drops the tools"),
        (PLAIN.replace("{% for", "{% if messages | length > 2 %}{{ raise_exception('one') }}{% endif %}{% for", 1),
         r"refuses a result \(TemplateError: one\)"),
        ("{{ messages.count_of }}{{ messages.no() }}", "refuses a system message .UndefinedError"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_hold_an_episode_is_refused_at_load_with_all_that_it_loses(template, reason):
    with pytest.raises(InputError, match=f"(?s)The model's chat template .*{reason}.*\nUse a model with another"):
        ChatFormat(tokenizer(template))


def test_a_conversation_that_a_native_template_refuses_is_written_as_plain_text():
    made = FAMILIES["qwen3.5"].tokenizer()
    made.chat_template = made.chat_template.replace(
        "{{ m.content }}", "{% if 'odd' in m.content %}{{ raise_exception('odd') }}{% endif %}{{ m.content }}"
    )
    chat = ChatFormat(made)
    assert chat.knows_tools
    odd = [*EPISODE[:2], {**EPISODE[2], "content": "odd"}]
    made.chat_template = made.chat_template.replace("raise_exception('odd')", "raise_exception('odd') if tools else ''")
    assert "You have these tools:\n\nsearch(query: string)" in chat.text(odd, specs())


def test_the_end_that_a_template_writes_is_one_although_no_config_names_it():
    chat = ChatFormat(
        Family(FAMILIES["phi4-mini"].template, FAMILIES["phi4-mini"].special, "<|endoftext|>").tokenizer()
    )
    assert {chat.tokenizer.decode([end]) for end in chat.ends} == {"<|end|>", "<|endoftext|>"}
