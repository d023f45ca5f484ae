"""Chat templates in the shape that families of models have, written anew, and tokenizers of bytes with their tokens."""
# ruff: noqa: E501 - no template has a line end of its own

from dataclasses import dataclass

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.gisa.chat_models import tokenizer


@dataclass(frozen=True)
class Family:
    """A template, its control tokens, the tokenizer's end of a text, and the ends of its generation config."""

    template: str
    special: tuple[str, ...]
    eos: str
    ends: tuple[str, ...] = ()

    def tokenizer(self):
        of_bytes = tokenizer(self.template).backend_tokenizer
        made = PreTrainedTokenizerFast(tokenizer_object=of_bytes, eos_token=self.eos, bos_token=self.special[0])
        made.add_tokens([AddedToken(token, special=True, normalized=False) for token in self.special])
        made.chat_template = self.template
        return made

    def end_ids(self, made):
        return [made.convert_tokens_to_ids(end) for end in self.ends]


def lines(*parts):
    """Join what is written without the line ends between."""
    return "".join(parts)


ALTERNATE = (
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor %}"
)
CHATML_REPLY = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
HERMES_TOOLS = (
    "{{ '<|im_start|>system\\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}"
    "{{ '# Tools\\n\\n<tools>' }}{% for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}"
    '{{ \'\\n</tools>\\nA call: <tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call><|im_end|>\\n\' }}'
)
HERMES_CALL = "{{ '<tool_call>\\n{\"name\": \"' + call.name + '\", \"arguments\": ' + (call.arguments | tojson) + '}\\n</tool_call>' }}"
XML_CALL = lines(
    "{{ '<tool_call>\\n<function=' + call.name + '>\\n' }}{% for key, value in call.arguments | items %}",
    "{{ '<parameter=' + key + '>\\n' + (value if value is string else value | tojson) + '\\n</parameter>\\n' }}",
    "{% endfor %}{{ '</function>\\n</tool_call>' }}",
)
RESULT_IN_USER = lines(
    "{% if loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}",
    "{{ '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}",
    "{% if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}",
)
LAST_QUERY = lines(
    "{% set ns = namespace(last=messages | length - 1, searching=true) %}{% for m in messages[::-1] %}",
    "{% if ns.searching and m.role == 'user' %}{% set ns.searching = false %}",
    "{% set ns.last = messages | length - 1 - loop.index0 %}{% endif %}{% endfor %}",
)


def chatml(call, first="", thought="", reply=CHATML_REPLY, tools=HERMES_TOOLS):
    """ChatML with tools, in the manner of Qwen."""
    return lines(
        LAST_QUERY,
        "{% if tools %}", tools, "{% elif messages[0].role == 'system' %}",
        "{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{% endif %}",
        "{% for m in messages %}",
        "{% if m.role == 'user' %}{{ '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}",
        "{% elif m.role == 'system' %}{% if not loop.first %}{{ raise_exception('System first.') }}{% endif %}",
        "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}", thought, "{{ m.content }}",
        "{% for c in m.tool_calls or [] %}{% set call = c.function %}",
        "{% if not loop.first or m.content %}{{ '\\n' }}{% endif %}", first, call, "{% endfor %}",
        "{{ '<|im_end|>\\n' }}",
        "{% elif m.role == 'tool' %}", RESULT_IN_USER, "{% endif %}{% endfor %}", reply,
    )  # fmt: skip


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN3_THOUGHT = lines(
    "{% if loop.index0 > ns.last and (loop.last or m.reasoning_content) %}",
    "{{ '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}{% endif %}",
)
QWEN35_THOUGHT = lines(
    "{% if loop.index0 > ns.last %}",
    "{{ '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}{% endif %}",
)
QWEN35_REPLY = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"

LLAMA = lines(
    "{{ bos_token }}{% set system = '' %}{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}",
    "{% set messages = messages[1:] %}{% endif %}{{ '<|start_header_id|>system<|end_header_id|>\\n\\n' }}",
    "{% if tools %}{{ 'Environment: ipython\\n' }}{% endif %}{{ 'Today Date: 26 Jul 2024\\n\\n' + system + '<|eot_id|>' }}",
    "{% if tools %}{{ '<|start_header_id|>user<|end_header_id|>\\n\\nFunctions, as JSON with parameters:\\n\\n' }}",
    "{% for tool in tools %}{{ (tool | tojson(indent=4)) + '\\n\\n' }}{% endfor %}{{ messages[0].content | trim + '<|eot_id|>' }}",
    "{% set messages = messages[1:] %}{% endif %}",
    "{% for m in messages %}{% if m.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}",
    "{{ (m.content | tojson) + '<|eot_id|>' }}{% elif 'tool_calls' in m %}{% if m.tool_calls | length != 1 %}",
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}",
    "{% set call = m.tool_calls[0].function %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}",
    "{{ '{\"name\": \"' + call.name + '\", \"parameters\": ' + (call.arguments | tojson) + '}<|eot_id|>' }}",
    "{% else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + (m.content | trim) + '<|eot_id|>' }}{% endif %}",
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
)
LLAMA_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
    "<|python_tag|>",
)  # fmt: skip
MISTRAL_TOKENS = (
    "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
)  # fmt: skip
SPLIT_SYSTEM = lines(
    "{% set turns = messages %}{% set system = '' %}{% if messages[0].role == 'system' %}",
    "{% set system = messages[0].content %}{% set turns = messages[1:] %}{% endif %}",
)
MISTRAL_CHECK = lines(
    "{% set ns = namespace(index=0) %}{% for m in turns %}{% if m.role != 'tool' and not m.tool_calls %}",
    "{% if (m.role == 'user') != (ns.index % 2 == 0) %}",
    "{{ raise_exception('After the optional system message, conversation roles must alternate') }}{% endif %}",
    "{% set ns.index = ns.index + 1 %}{% endif %}{% endfor %}{{ bos_token }}",
)
MISTRAL_TOOLS = lines(
    "{% if tools and loop.index0 == ns.user %}{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}"
)
MISTRAL_USERS = "{% set ns.user = 0 %}{% for m in turns %}{% if m.role == 'user' %}{% set ns.user = loop.index0 %}{% endif %}{% endfor %}"
MISTRAL_CALLS = lines(
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}{% if c.id | length != 9 %}",
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}",
    "{{ (c.function | tojson)[:-1] + ', \"id\": \"' + c.id + '\"}' }}{{ ', ' if not loop.last else ']' + eos_token }}{% endfor %}",
)
MISTRAL_RESULT = (
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS] {\"content\": ' + m.content + ', \"call_id\": \"' + m.tool_call_id }}"
    "{{ '\"}[/TOOL_RESULTS]' }}"
)
MISTRAL_V03 = lines(
    SPLIT_SYSTEM, MISTRAL_CHECK, MISTRAL_USERS, "{% for m in turns %}{% if m.role == 'user' %}", MISTRAL_TOOLS,
    "{{ '[INST] ' + (system + '\\n\\n' if loop.last and system else '') + m.content + '[/INST]' }}", MISTRAL_CALLS,
    MISTRAL_RESULT, "{% elif m.role == 'assistant' %}{{ ' ' + (m.content | trim) + eos_token }}{% endif %}{% endfor %}",
)  # fmt: skip
MISTRAL_SMALL = lines(
    SPLIT_SYSTEM, MISTRAL_CHECK, "{{ '[SYSTEM_PROMPT]' + system + '[/SYSTEM_PROMPT]' }}", MISTRAL_USERS,
    "{% for m in turns %}{% if m.role == 'user' %}", MISTRAL_TOOLS, "{{ '[INST]' + m.content + '[/INST]' }}", MISTRAL_CALLS,
    MISTRAL_RESULT, "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
)  # fmt: skip
MINISTRAL = lines(
    SPLIT_SYSTEM, "{{ bos_token }}{% if system %}{{ '[SYSTEM_PROMPT]' + system + '[/SYSTEM_PROMPT]' }}{% endif %}",
    "{% if tools %}{{ '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}",
    "{% for m in turns %}{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}{% elif m.role == 'assistant' %}",
    "{{ m.content }}{% for c in m.tool_calls or [] %}",
    "{{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' + (c.function.arguments | tojson) }}{% endfor %}{{ eos_token }}",
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}{% endif %}{% endfor %}",
)  # fmt: skip
MISTRAL_V01 = lines(
    "{% set turns = messages %}{{ bos_token }}", ALTERNATE,
    "{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else m.content + eos_token }}{% endfor %}",
)  # fmt: skip

GEMMA_TURNS = lines(
    ALTERNATE, "{% for m in turns %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}",
    "{{ (system if loop.first else '') + (m.content | trim) + '<end_of_turn>\\n' }}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
)  # fmt: skip
GEMMA = lines(
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
    "{% set turns = messages %}{% set system = '' %}", GEMMA_TURNS,
)  # fmt: skip
GEMMA3 = lines("{{ bos_token }}", SPLIT_SYSTEM, "{% set system = system + '\\n\\n' if system else '' %}", GEMMA_TURNS)
GEMMA_VALUE = lines(
    "{% macro value(v) %}{% if v is string %}{{ QUOTE + v + QUOTE }}{% elif v is sequence and v is not mapping %}{{ '[' }}",
    "{% for one in v %}{{ value(one) + (',' if not loop.last else '') }}{% endfor %}{{ ']' }}{% else %}{{ v | tojson }}{% endif %}",
    "{% endmacro %}",
)
GEMMA_CALL = lines(
    "{{ OPEN + 'call:' + c.function.name + '{' }}{% for k, v in c.function.arguments | dictsort %}",
    "{{ k + ':' + value(v) + (',' if not loop.last else '') }}{% endfor %}{{ '}' + CLOSE }}",
)
GEMMA4 = lines(
    "{% set QUOTE = '<|\"|>' %}{% set OPEN = '<|tool_call>' %}{% set CLOSE = '<tool_call|>' %}", GEMMA_VALUE, SPLIT_SYSTEM,
    "{{ bos_token + '<|turn>system\\n' + system }}{% for tool in tools or [] %}{{ '<|tool>' + (tool | tojson) + '<tool|>' }}",
    "{% endfor %}{{ '<turn|>\\n' }}{% for m in turns %}{{ '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}",
    "{{ m.content | trim }}{% for c in m.tool_calls or [] %}", GEMMA_CALL, "{% endfor %}{{ '<turn|>\\n' }}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|turn>model\\n<|channel>thought\\n<channel|>' }}{% endif %}",
)  # fmt: skip
FUNCTION_GEMMA = lines(
    "{% set QUOTE = '<escape>' %}{% set OPEN = '<start_function_call>' %}{% set CLOSE = '<end_function_call>' %}", GEMMA_VALUE,
    SPLIT_SYSTEM, "{{ bos_token + '<start_of_turn>developer\\n' + system }}{% for tool in tools or [] %}",
    "{{ '<start_function_declaration>' + (tool | tojson) + '<end_function_declaration>' }}{% endfor %}{{ '<end_of_turn>\\n' }}",
    "{% for m in turns %}{% if m.role == 'tool' %}{% if 'name' not in m %}{{ raise_exception('name must be provided') }}{% endif %}",
    "{% else %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content }}",
    "{% for c in m.tool_calls or [] %}", GEMMA_CALL, "{% endfor %}{{ '<end_of_turn>\\n' }}{% endif %}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
)  # fmt: skip

PHI3 = lines(
    "{% for m in messages %}{% if m.role in ['system', 'user', 'assistant'] %}",
    "{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endif %}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
)
PHI3_FIRST = PHI3.replace("'system', ", "")  # of April 2024: drops system messages
PHI4_MINI = lines(
    "{% for m in messages %}{% if m.role == 'system' and m.tools %}",
    "{{ '<|system|>' + m.content + '<|tool|>' + m.tools + '<|/tool|><|end|>' }}",
    "{% else %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
)
PHI4 = lines(
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
)
PHI4_TOOLS = lines(  # as llama.cpp has it, which is not told of a tool by None
    "{{ '<|system|>' + messages[0].content }}{% for tool in tools %}{{ '<|tool|>' + (tool.function | tojson) + '<|/tool|>' }}",
    "{% endfor %}{{ '<|end|>' }}{% for m in messages %}{% if m.role == 'tool' %}",
    "{{ '<|tool_response|>' + (m.content | tojson) + '<|end|>' }}{% elif m.role != 'system' %}{{ '<|' + m.role + '|>' }}",
    "{{ m.content or '' }}{% for c in m.tool_calls %}{{ '<|tool_call|>' + (c.function | tojson) + '<|/tool_call|>' }}{% endfor %}",
    "{{ '<|end|>' }}{% endif %}{% endfor %}{{ '<|assistant|>' if add_generation_prompt else eos_token }}",
)
GLM4 = lines(
    "{{ '[gMASK]<sop>' }}{% if tools %}{{ '<|system|>\\n# Tools' }}{% for tool in tools %}",
    "{{ '\\n\\n## ' + tool.function.name + '\\n\\n' + (tool.function | tojson(indent=4)) }}{% endfor %}{% endif %}",
    "{% for m in messages %}{% if m.role == 'system' %}{{ '<|system|>\\n' + m.content }}{% elif m.role == 'user' %}",
    "{{ '<|user|>\\n' + m.content }}{% elif m.role == 'assistant' %}{{ '<|assistant|>\\n' + m.content }}",
    "{% elif m.role == 'observation' %}{{ '<|observation|>\\n' + m.content }}{% endif %}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
)
GLM45 = lines(
    "{{ '[gMASK]<sop>' }}{% if tools %}{{ '<|system|>\\n# Tools\\n<tools>' }}{% for tool in tools %}{{ '\\n' + (tool | tojson) }}",
    "{% endfor %}{{ '\\n</tools>' }}{% endif %}{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\\n' + m.content }}",
    "{% elif m.role == 'assistant' %}{{ '<|assistant|>\\n<think>' + (m.reasoning_content or '') + '</think>' }}",
    "{% if m.content | trim %}{{ '\\n' + (m.content | trim) }}{% endif %}{% for c in m.tool_calls or [] %}",
    "{{ '\\n<tool_call>' + c.function.name + '\\n' }}{% for k, v in c.function.arguments | items %}",
    "{{ '<arg_key>' + k + '</arg_key>\\n<arg_value>' + (v if v is string else v | tojson) + '</arg_value>\\n' }}{% endfor %}",
    "{{ '</tool_call>' }}{% endfor %}{% elif m.role == 'tool' %}",
    "{% if loop.first or loop.previtem.role != 'tool' %}{{ '<|observation|>' }}{% endif %}",
    "{{ '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}{% else %}{{ '<|system|>\\n' + m.content }}{% endif %}",
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
)
GLM46 = GLM45.replace(  # without the thoughts of before the last question
    "<think>' + (m.reasoning_content or '') + '</think>'",
    "<think>' + (m.reasoning_content or '' if loop.index0 > ns.last else '') + '</think>'",
).replace("{{ '[gMASK]<sop>' }}", LAST_QUERY + "{{ '[gMASK]<sop>' }}")
GLM_TOKENS = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
GLM_ENDS = ("<|endoftext|>", "<|user|>", "<|observation|>")
LFM_SYSTEM = lines(
    SPLIT_SYSTEM, "{{ bos_token }}{% if tools %}{% set system = system + '\\nList of tools: <|tool_list_start|>' + (tools | tojson) ",
    "+ '<|tool_list_end|>' %}{% endif %}{% if system %}{{ '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}{% endif %}",
    "{% for m in turns %}{% set content = m.content %}{% if m.role == 'tool' %}",
    "{% set content = '<|tool_response_start|>' + content + '<|tool_response_end|>' %}{% endif %}",
    "{{ '<|im_start|>' + m.role + '\\n' + content }}",
)  # fmt: skip
LFM_CALLS = lines(
    "{% if m.tool_calls %}{{ '<|tool_call_start|>[' }}{% for c in m.tool_calls %}{{ c.function.name + '(' }}",
    "{% for k, v in c.function.arguments | items %}{{ k + '=' }}{% if v is string %}",
    "{{ \"'\" + (v | replace('\\\\', '\\\\\\\\') | replace(\"'\", \"\\\\'\") | replace('\\n', '\\\\n')) + \"'\" }}",
    "{% else %}{{ v | tojson }}{% endif %}{{ ', ' if not loop.last }}{% endfor %}{{ ')' + (', ' if not loop.last else '') }}",
    "{% endfor %}{{ ']<|tool_call_end|>' }}{% endif %}",
)
LFM_TOKENS = (
    "<|startoftext|>", *CHATML, "<|tool_list_start|>", "<|tool_list_end|>", "<|tool_call_start|>", "<|tool_call_end|>",
    "<|tool_response_start|>", "<|tool_response_end|>",
)  # fmt: skip
LFM_END = "{{ '<|im_end|>\\n' }}{% endfor %}" + CHATML_REPLY
DEEPSEEK = lines(
    "{% set ns = namespace(system='', tool=false) %}{% for m in messages %}{% if m.role == 'system' %}",
    "{% set ns.system = m.content %}{% endif %}{% endfor %}{{ bos_token + ns.system }}{% for m in messages %}",
    "{% if m.role == 'user' %}{% set ns.tool = false %}{{ '<｜User｜>' + m.content }}{% elif m.role == 'assistant' %}",
    "{% for c in m.tool_calls or [] %}{{ '<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>' }}",
    "{{ c.function.name + '\\n```json\\n' + c.function.arguments + '\\n```<｜tool▁call▁end｜>' }}{% else %}",
    "{{ ('<｜tool▁outputs▁end｜>' if ns.tool else '<｜Assistant｜>') + m.content.split('</think>')[-1] + eos_token }}{% endfor %}",
    "{% set ns.tool = false %}{% elif m.role == 'tool' %}{% set ns.tool = true %}",
    "{{ '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}{% endif %}{% endfor %}",
    "{% if add_generation_prompt and not ns.tool %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}",
)
DEEPSEEK_TOKENS = (
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
)  # fmt: skip
SMOLLM2 = lines(
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}",
    "{% endif %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}", CHATML_REPLY,
)  # fmt: skip
SMOLLM3 = lines(
    SPLIT_SYSTEM, "{{ '<|im_start|>system\\n## Metadata\\n\\nReasoning Mode: /think\\n\\n## Custom Instructions\\n\\n' + system }}",
    "{% if tools or xml_tools %}{{ '\\n\\n### Tools\\n\\n<tools>\\n' }}{% for tool in xml_tools or tools %}{{ (tool | string) + '\\n' }}",
    "{% endfor %}{{ '</tools>' }}{% endif %}{{ '<|im_end|>\\n' }}{% for m in turns %}",
    "{{ '<|im_start|>' + ('user' if m.role == 'tool' else m.role) + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}", CHATML_REPLY,
)  # fmt: skip
NEMOTRON = lines(  # the thought that the last turn begins is never ended
    SPLIT_SYSTEM, "{{ '<SPECIAL_10>System\n' + system + '\n\n' }}{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}",
    "{% for m in turns %}{% if m.role == 'assistant' %}{{ '<SPECIAL_11>Assistant\n' + ('<think>\n\n' if loop.last else '') + m.content }}",
    "{% if m.tool_calls %}{{ '<TOOLCALL>[' }}{% for c in m.tool_calls %}{{ c.function | tojson }}{{ ', ' if not loop.last }}{% endfor %}",
    "{{ ']</TOOLCALL>' }}{% endif %}{{ '\n<SPECIAL_12>\n\n' }}{% elif m.role == 'tool' %}",
    "{{ '<SPECIAL_11>User\n<TOOL_RESPONSE>[' + m.content + ']</TOOL_RESPONSE>\n\n' }}{% else %}",
    "{{ '<SPECIAL_11>User\n' + m.content + '\n' }}{% endif %}{% endfor %}",
    "{% if add_generation_prompt %}{{ '<SPECIAL_11>Assistant\n<think>\n\n' }}{% endif %}",
)  # fmt: skip
COMMAND = lines(  # what is no call stands between marks of its own; text before a call is dropped
    "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|><|' + ('SYSTEM' if m.role in ['system', 'tool'] else",
    " 'USER' if m.role == 'user' else 'CHATBOT') + '_TOKEN|>' }}{% if loop.first %}{{ tools | tojson }}{% endif %}",
    "{% if m.tool_calls %}{{ '<|START_THINKING|>' + (m.tool_plan or '') + '<|END_THINKING|><|START_ACTION|>[' }}",
    "{% for c in m.tool_calls %}{{ {'tool_name': c.function.name, 'parameters': c.function.arguments} | tojson }}{{ ', ' if not loop.last }}",
    "{% endfor %}{{ ']<|END_ACTION|>' }}{% elif m.role == 'assistant' %}{{ '<|START_RESPONSE|>' + m.content + '<|END_RESPONSE|>' }}",
    "{% else %}{{ m.content }}{% endif %}{{ '<|END_OF_TURN_TOKEN|>' }}{% endfor %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}",
)  # fmt: skip
COMMAND_TOKENS = tuple(
    f"<|{name}|>"
    for name in (
        "BOS_TOKEN", "START_OF_TURN_TOKEN", "END_OF_TURN_TOKEN", "SYSTEM_TOKEN", "USER_TOKEN", "CHATBOT_TOKEN",
        "START_THINKING", "END_THINKING", "START_ACTION", "END_ACTION", "START_RESPONSE", "END_RESPONSE",
    )
)  # fmt: skip
PHI_TOKENS = (
    "<|endoftext|>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|tool|>",
    "<|/tool|>",
    "<|tool_call|>",
)
GEMMA_TOKENS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
GEMMA_ENDS = ("<eos>", "<end_of_turn>")
QWEN_ENDS = ("<|im_end|>", "<|endoftext|>")

FAMILIES = {
    "qwen2.5": Family(chatml(HERMES_CALL), CHATML, "<|im_end|>", QWEN_ENDS),
    "qwen3": Family(chatml(HERMES_CALL, thought=QWEN3_THOUGHT), CHATML, "<|im_end|>", QWEN_ENDS),
    "qwen3.5": Family(chatml(XML_CALL, thought=QWEN35_THOUGHT, reply=QWEN35_REPLY), CHATML, "<|im_end|>", QWEN_ENDS),
    "qwen3-coder": Family(chatml(XML_CALL), CHATML, "<|im_end|>", QWEN_ENDS),
    "llama3.1": Family(LLAMA, LLAMA_TOKENS, "<|eot_id|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")),
    "llama3.2-bare": Family(LLAMA, LLAMA_TOKENS, "<|end_of_text|>"),  # without a generation config
    "mistral-v0.1": Family(MISTRAL_V01, MISTRAL_TOKENS, "</s>"),
    "mistral-v0.3": Family(MISTRAL_V03, MISTRAL_TOKENS, "</s>"),
    "mistral-small": Family(MISTRAL_SMALL, MISTRAL_TOKENS, "</s>"),
    "ministral": Family(MINISTRAL, MISTRAL_TOKENS, "</s>"),
    "gemma": Family(GEMMA, GEMMA_TOKENS, "<eos>", GEMMA_ENDS),
    "gemma2-bare": Family(GEMMA, GEMMA_TOKENS, "<eos>"),
    "gemma3": Family(GEMMA3, GEMMA_TOKENS, "<eos>", GEMMA_ENDS),
    "functiongemma": Family(
        FUNCTION_GEMMA, (*GEMMA_TOKENS, "<escape>", "<start_function_call>", "<end_function_call>"), "<eos>"
    ),
    "gemma4": Family(
        GEMMA4,
        ("<bos>", "<eos>", "<|turn>", "<turn|>", '<|"|>', "<|tool_call>", "<tool_call|>", "<|channel>", "<channel|>"),
        "<eos>",
    ),
    "phi3-first": Family(PHI3_FIRST, PHI_TOKENS, "<|endoftext|>"),
    "phi3.5": Family(PHI3, PHI_TOKENS, "<|endoftext|>", ("<|endoftext|>", "<|end|>")),
    "phi4": Family(PHI4, (*CHATML, "<|im_sep|>"), "<|im_end|>"),
    "phi4-mini": Family(PHI4_MINI, PHI_TOKENS, "<|endoftext|>"),
    "phi4-tools": Family(PHI4_TOOLS, PHI_TOKENS, "<|endoftext|>"),
    "glm4": Family(GLM4, GLM_TOKENS, "<|endoftext|>", GLM_ENDS),
    "glm4.5": Family(GLM45, GLM_TOKENS, "<|endoftext|>", GLM_ENDS),
    "glm4.6": Family(GLM46, GLM_TOKENS, "<|endoftext|>", GLM_ENDS),
    "lfm2": Family(LFM_SYSTEM + LFM_END, LFM_TOKENS, "<|im_end|>"),
    "lfm2.5": Family(LFM_SYSTEM + LFM_CALLS + LFM_END, LFM_TOKENS, "<|im_end|>"),
    "deepseek-distill": Family(DEEPSEEK, DEEPSEEK_TOKENS, "<｜end▁of▁sentence｜>"),
    "deepseek-spaced": Family(
        DEEPSEEK.replace("<think>\\n'", "\\n'"), DEEPSEEK_TOKENS, "<｜end▁of▁sentence｜>"
    ),  # as llama.cpp has it
    "nemotron-nano": Family(NEMOTRON, ("<s>", "<SPECIAL_10>", "<SPECIAL_11>", "<SPECIAL_12>"), "<SPECIAL_12>"),
    "command-r7b": Family(COMMAND, COMMAND_TOKENS, "<|END_OF_TURN_TOKEN|>"),
    "smollm2": Family(SMOLLM2, CHATML, "<|im_end|>"),
    "smollm3": Family(SMOLLM3, CHATML, "<|im_end|>", QWEN_ENDS),
}
