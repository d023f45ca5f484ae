"""How servers refuse a request, fail with status 200 and end a reply: one table each, with where its wordings stand.

A source such as ``owner/repo#1`` is a thread on GitHub that quotes the server's own words.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Ending = Literal["end", "calls", "length", "refused", "overflow", "malformed", "failed"]
Kind = Literal["overflow", "filtered", "malformed"]


class Wording(NamedTuple):
    """One way to say no.

    Attributes:
        means: ``overflow``, ``filtered``, ``malformed``, or the change of the request that helps; see ``adaptation``.
        pattern: Found in a ``Complaint``'s text, in lower case.
        servers: Who says so.
        source: Where it is quoted.
    """

    means: str
    pattern: str
    servers: str
    source: str


_NO = r"(?:un|not |n't |no longer |never )(?:support|recogni|known|expect|permit|allow|valid)|invalid|extra|deprecated"

# Said of a field of a message: Groq, Mistral, pydantic's models (janhq/jan#8136, charmbracelet/crush#1590).
UNKNOWN_FIELD = (
    "unsupported|not supported|extra_forbidden|extra (?:inputs|fields)|not permitted|not allowed|unknown|unexp"
)
UNKNOWN_FIELD += "|unrecognized|cannot find field|additional propert"

# Of an id of a call, not of the conversation: agno-agi/agno#5382, microsoft/autogen#6377 (LiteLLM's name for it).
LONG_ID = r"(?:\.id|call_id)\W{0,3}: string too long"

KINDS = (
    Wording(
        "filtered",
        r"content_filter|responsible ?ai|content management policy|content[ _]?policy[ _]?violation",
        "Azure, OpenAI, LiteLLM, Copilot, Vertex",
        "stanford-crfm/helm#3327, compl-ai/compl-ai#20",
    ),
    Wording(
        "filtered",
        r"flagged as potentially violating|safety system|limited access to this content",
        "OpenAI",
        "BeehiveInnovations/pal-mcp-server#178, stanford-crfm/helm#3797",
    ),
    Wording("filtered", r"content filtering policy", "Anthropic, Bedrock", "anthropics/claude-code#58367"),
    Wording(
        "filtered",
        r"data_?inspection_?failed|inappropriate content",
        "Qwen/DashScope",
        "666ghj/BettaFish#449, QwenLM/qwen-code#3145",
    ),
    Wording("filtered", r"content exists risk", "DeepSeek", "deepseek-ai/DeepSeek-V2#30"),
    Wording("filtered", r"considered high risk", "Kimi/Moonshot", "MoonshotAI/kimi-cli#1002"),
    Wording(
        "filtered",
        r"new_sensitive|sensitive[ _]?(?:content|words)|敏感|违规内容|涉嫌违规|违法违规|审核不通过",
        "GLM, MiniMax, new-api, Spark, Hunyuan",
        "zai-org/feedback#516, esengine/DeepSeek-Reasonix#6818, openai/openai-cookbook#1224, xfyun.cn (error 10013)",
    ),
    Wording("filtered", r"violates? (?:our |the )?(?:usage|content|safety)", "xAI", "UKGovernmentBEIS/inspect_ai#2267"),
    Wording(
        "filtered",
        r"requires moderation|flagged (?:for|by|as)|moderation[_ ]block|input flagged",
        "OpenRouter, Together",
        "openrouter.ai/docs/errors",
    ),
    Wording("filtered", r"guardrail", "Bedrock, LiteLLM", "BerriAI/litellm#8239"),
    Wording(
        "filtered",
        r"block_?reason|prohibited_content|(?:prompt|response|content) (?:was |is |has been )?blocked",
        "Gemini, Vertex",
        "vercel/ai#4235, cloud.google.com/vertex-ai (process blocked responses)",
    ),
    Wording(
        "malformed",
        r"tool_use_failed|failed to call a function|tool call validation failed|output_parse_failed",
        "Groq",
        "huggingface/smolagents#1119, groq/groq-typescript#28",
    ),
    Wording("malformed", r"error parsing tool call|invalid tool call argument", "Ollama", "ollama/ollama#17638"),
    Wording("malformed", r"failed to parse (?:input|tool|response) ", "llama.cpp", "ggml-org/llama.cpp#23838"),
    Wording("malformed", r"malformed_?(?:function|tool)", "Gemini", "googleapis/python-genai#1836"),
    Wording(
        "overflow",
        r"context_length_exceeded|string_(?:above_max_length|too_long)|token_limit_exceeded|exceed_context_size|context_?window_?exceeded"
        r"|max_tokens must be at least 1, got -",
        "OpenAI, Azure, llama.cpp, LiteLLM, z.ai, vLLM",
        "DraconDev/pi-goal-list-loop-audit#48",
    ),
    Wording(
        "overflow",
        r"max(?:imum)?[ _](?:\w+[ _])?(?:context|model|sequence|prompt|input)[ _](?:length|len|size|tokens)"
        r"|max_seq_len|max_model_len|maximum allowed input length|max(?:imum)? length of the prompt",
        "vLLM, OpenRouter, DeepSeek, SGLang, xAI, Mistral, Poolside, NIM",
        "anomalyco/opencode#25230, earendil-works/pi#5677, earendil-works/pi#4943",
    ),
    Wording(
        "overflow",
        # but for "context deadline exceeded", Go's word for a timeout: nextlevelbuilder/goclaw#926
        r"exceed\w*[^.]{0,60}context(?! deadline)|context(?! deadline)[^.]{0,40}exceed"
        r"|(?:longer|greater) than the (?:\S+ )?(?:\S+ )?context"
        r"|context the overflows|n_ctx",
        "OpenAI, Anthropic, llama.cpp, Ollama, LM Studio, Together, MiniMax",
        "earendil-works/pi packages/ai/src/utils/overflow.ts",
    ),
    Wording(
        "overflow",
        r"(?:prompt|input|request|conversation|messages?|text) (?:\w+ )?(?:is |are |was )?too (?:long|large)"
        r"|prompt exceeds|prompt token count",
        "Anthropic, Bedrock, Ollama, GLM, Copilot",
        "earendil-works/pi#129",
    ),
    Wording(
        "overflow",
        r"(?:input|prompt)[^.]{0,40}tokens?[^.]{0,60}(?:exceed|must be|must have|larger|more than|greater)"
        r"|tokens? in request more than|token count|inputs?. (?:tokens|must have)"
        r"|(?:too many|reduce the) (?:\w+ )?tokens",
        "Gemini, Together, TGI, Cohere",
        "huggingface/chat-ui#340, huggingface/text-generation-inference#695",
    ),
    Wording(
        "overflow",
        r"reduce the length of|(?:model|token) (?:token )?limit|range of input length|too large for model with",
        "Groq, Cerebras, Kimi/Moonshot, Qwen/DashScope, Mistral",
        "archestra-ai/archestra#6044, QwenLM/qwen-code#98",
    ),
    Wording(
        "overflow",
        r"request_too_large|exceeds the maximum (?:allowed )?(?:size|number of (?:bytes|tokens))|entity too large"
        r"|total message size \d+ exceeds",
        "Anthropic, Gemini, nginx, Kimi",
        "earendil-works/pi packages/ai/src/utils/overflow.ts, MoonshotAI/kimi-code#1862",
    ),
    Wording(
        "overflow",
        r"(?:input|prompt) length \(?\d+\)? exceeds|sum of prompt length|max input characters|characters_too_long",
        "TensorRT-LLM, Triton, Qianfan",
        "NVIDIA/TensorRT-LLM#9277, triton-inference-server/tensorrtllm_backend#141, cloud.baidu.com (error 336007)",
    ),
    Wording(
        "overflow",
        r"超长|过长|超出最大长度|超过.{0,10}(?:最大|上下文)|长度超|token\S{0,4}超过上限",
        "GLM, Spark",
        "docs.bigmodel.cn (error 1261), xfyun.cn (error 10907)",
    ),
)

# Where nothing else fits, neither the table above nor a change of the request.
GUESSES = (
    Wording(
        "overflow",
        r"\btokens?\b.{0,120}(?:exceed|too (?:long|large|many)|longer|larger|greater|more than|beyond|only supports)"
        r"|(?:exceed|too (?:long|large|many)|longer|larger|greater|more than|beyond).{0,120}\btokens?\b",
        "any other",
        "our choice: it counts tokens and finds too many",
    ),
    Wording(
        "filtered",
        r"(?:content|safety|usage|moderation)\b.{0,40}(?:polic|filter|guideline|violat|blocked|flagged|reject)"
        r"|(?:violat|blocked|flagged|reject)\w*.{0,40}\b(?:content|safety|usage|moderation)\b"
        r"|acceptable use|\bcensor",
        "any other",
        "our choice: it blocks content, or has a policy on it",
    ),
)

# What is changed in the requests of an endpoint that says so, from then on; in the order in which it is tried.
CHANGES = (
    Wording(
        "max_completion_tokens instead of max_tokens",
        rf"\bmax_tokens\b.{{0,60}}(?:{_NO})|(?:{_NO}).{{0,60}}\bmax_tokens\b|use .?max_?completion_?tokens",
        "OpenAI, Azure",
        "koosoli/ESPHomeDesigner#379",
    ),
    Wording(
        "max_tokens instead of max_completion_tokens",
        rf"max_completion_tokens.{{0,60}}(?:{_NO})|(?:{_NO}).{{0,60}}max_completion_tokens"
        r"|\bmax_tokens.{0,30}(?:required|missing)",
        "Mistral, older servers",
        "charmbracelet/crush#1590 (of another field)",
    ),
    Wording(
        "no limit of output tokens",
        rf"max_(?:completion_|output_)?tokens.{{0,60}}(?:{_NO})|(?:{_NO}).{{0,60}}max_(?:completion_|output_)?tokens",
        "Codex",
        "decolua/9router#812",
    ),
    Wording(
        "no temperature",
        r"temperature",
        "OpenAI, Anthropic, Kimi",
        "gabrii/Cursor-Azure-GPT-5#33, UKGovernmentBEIS/inspect_ai#3721",
    ),
    Wording(
        "no parallel_tool_calls",
        r"parallel_tool_calls|parallel tool calls",
        "OpenAI, LiteLLM",
        "evalstate/fast-agent#279, BerriAI/litellm#6456",
    ),
    Wording(
        "no tool_choice",
        r"tool_choice|toolchoice|tool choice (?:none|is not)",
        "DeepSeek, Qwen/DashScope, Bedrock, OpenRouter",
        "cloudwego/eino#994, mozilla-ai/any-llm#1384",
    ),
    Wording(
        "no additionalProperties",
        r"additional_?properties",
        "Gemini",
        "BerriAI/litellm#14330, mem0ai/mem0#1820",
    ),
    Wording(
        "streamed",
        r"enable_thinking.{0,40}(?:must be|only support)|only supports? stream|enable the stream param|must be stream"
        r"|non-streaming|非流式|stream=.?(?:false|true)|stream must be|streaming is (?:required|strongly)",
        "Qwen/DashScope, Anthropic for long replies, Fireworks, Codex",
        "infiniflow/ragflow#5912, langchain4j/langchain4j#3974, musistudio/claude-code-router#948, "
        "nullclaw/nullclaw#231, leookun/cursor-byok#14",
    ),
    Wording(
        "the user's words with the tool's",
        r"role.{0,3} .?user.{0,30}after.{0,30}tool|roles must alternate|expected last role|alternate between"
        r"|successive user",
        "Mistral, Devstral behind llama.cpp, DeepSeek R1",
        "datapizza-labs/datapizza-ai#98, mistralai/mistral-vibe#1006",
    ),
    Wording(
        "the system message as the user's",
        r"system.{0,20}role|role.{0,60}system|does not support 'system'|(?:developer|system) instruction"
        r"|roles must alternate"
        r"|system (?:messages?|prompts?) (?:\w+ ){0,3}(?:not|un)",
        "OpenAI o1, Gemma behind vLLM, SGLang, llama.cpp, Gemini",
        "tailcallhq/forgecode#1177, sgl-project/sglang#892, QuantumNous/new-api#989",
    ),
    Wording(
        "an empty reasoning_content where there is none",
        r"(?:missing|must be).{0,60}reasoning_content|reasoning_content.{0,60}(?:missing|must be|required)",
        "DeepSeek, Kimi/Moonshot",
        "continuedev/continue#11285, bytedance/deer-flow#3043",
    ),
    Wording(
        "a stand-in where a thought signature is missing",
        r"thought_?signature",
        "Gemini",
        "Gitlawb/openclaude#67, ai.google.dev/gemini-api/docs/thought-signatures",
    ),
    Wording(
        "ids of calls in nine letters and digits",
        r"tool[_ ]?call[_ ]?ids?\b.{0,80}(?:must|length|long|pattern|match|invalid)|tool_calls\S*\.id\b|tool_?use_?id"
        rf"|tool_use\.id|{LONG_ID}",
        "Mistral, Bedrock, Anthropic, OpenAI",
        "nearai/ironclaw#1241",
    ),
    Wording(
        "names of tools with their results",
        r"function_?response\.name|(?:tool|function)[^.]{0,40}name[^.]{0,40}(?:empty|missing|required)|\.name\b.{0,30}empty",
        "Gemini",
        "ollama/ollama#14214, openclaw/openclaw#47857",
    ),
    Wording(
        "empty text instead of null",
        r"content.{0,90}(?:null|none\b|nonetype|string_type|valid string|a string|required|missing)"
        r"|missing field .?content",
        "OpenAI, LM Studio, DeepSeek",
        "docker/docker-agent#63, lmstudio-ai/lmstudio-bug-tracker#261",
    ),
    Wording(
        "null instead of empty text",
        r"non-?empty|content.{0,60}(?:empty|blank|must not be)|text field.{0,40}blank|at least one",
        "Bedrock, Anthropic",
        "vercel/ai#13744, boto/botocore#3525",
    ),
    Wording(
        "a stand-in for empty content",
        r"non-?empty|content.{0,90}(?:empty|blank|null|must not|required)|at least one",
        "Bedrock behind gateways",
        "maximhq/bifrost#6732, Portkey-AI/gateway#995",
    ),
    Wording(
        "tools as text",
        r"not support (?:tools|function|tool)|support tool use|enable-auto-tool-choice|tool-call-parser|tools param"
        r"|(?:tool|function)s?[ -]?(?:use|call\w*)?\W? (?:is|are) (?:not|un)|roles must alternate|body\.tools\b"
        r"|unexpected role|unknown role|role.{0,20}tool|(?:unsupported|unrecognized|unknown|invalid)\b.{0,40}\btools\b",
        "Ollama, vLLM, OpenRouter, Gemma, Mistral 7B, Groq, llama.cpp",
        "ollama/ollama#5793, evalstate/fast-agent#122, vllm-project/vllm#4119, defilantech/LLMKube#126",
    ),
)

_ENDINGS: dict[Ending, str] = {
    "end": "stop end_turn eos eos_token stop_sequence complete completed finished",
    "calls": "tool_calls function_call tool_use tool_call",
    "length": "length max_tokens max_output_tokens token_limit max_length",
    # Mistral; Anthropic, z.ai; LiteLLM
    "overflow": "model_length model_context_window_exceeded context_window_exceeded context_length_exceeded",
    # OpenAI, Anthropic, Gemini, Vertex, GLM, Bedrock, Cohere: BerriAI/litellm core_helpers.py, genkit-ai/genkit#6259
    "refused": "content_filter refusal safety recitation blocklist prohibited_content spii language image_safety "
    "sensitive guardrail_intervened content_filtered error_toxic model_armor blocked function_call_filter escalation",
    # Gemini; Bedrock: googleapis/python-genai#1836, theopenco/llmgateway#2218
    "malformed": "malformed_function_call unexpected_tool_call too_many_tool_calls malformed_response "
    "malformed_tool_use malformed_model_output missing_thought_signature",
    # OpenRouter; GLM; DeepSeek; vLLM, SGLang: gethouston/houston#1211, genkit-ai/genkit#6259
    "failed": "error network_error insufficient_system_resource abort aborted cancelled timeout load_failed "
    "engine_error",
}
_ENDING_OF = {reason: ending for ending, reasons in _ENDINGS.items() for reason in reasons.split()}


def ending_of(finish_reason: Any) -> Ending:
    """Say what a finish reason means; what is not known is an end like any other, judged by what was said."""
    words = str(finish_reason or "stop").lower().split(": ")  # Gemini: "function_call_filter: MALFORMED_FUNCTION_CALL"
    known = (_ENDING_OF.get(word.strip().rpartition(".")[2]) for word in reversed(words))
    return next(filter(None, known), "end")
