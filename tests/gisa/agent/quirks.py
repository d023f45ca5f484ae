# ruff: noqa: E501 - the replies are as they were sent
"""Replies of servers, worded as users and vendors quote them: what each does, and what must come of it.

Some are shortened, a few composed; the threads that quote them are named in ``src/gisa/agent/dialects.py``.

A quirk is a function of the request's body and of how many requests there were before it; what it returns is sent.
What a server without quirks says, ``plain``, is a call first, and the answer once it has read a result.
"""

import json
from dataclasses import dataclass, field

from tests.gisa.agent.servers import completion, reply

ANSWER = "```tsv\nCapital\nLima\n```"
CALL = {"id": "call_a1", "type": "function", "function": {"name": "search", "arguments": '{"query": "peru"}'}}


@dataclass(frozen=True)
class Quirk:
    """What one server does.

    Attributes:
        name: The server and what it does.
        says: Given the request's body and its number, returns the reply.
        outcome: Of the episode; its prediction is the answer if that is ``answered``.
        lesson: What the record says that was changed in the requests; None for nothing.
        settings: Of the endpoint.
        calls: Tool calls that are carried out.
        compactions: How often room was made.
    """

    name: str
    says: object
    outcome: str = "answered"
    lesson: str | None = None
    settings: dict = field(default_factory=dict)
    calls: int = 1
    compactions: int = 0


def plain(body):
    """A server without quirks; it has read a result, whatever form it has."""
    read = "<untrusted>\n1. Peru" in json.dumps(body["messages"], ensure_ascii=False).replace("\\n", "\n")
    return completion(ANSWER) if read else completion(None, tool_calls=[CALL])


def error(status, body):
    return reply(
        body if isinstance(body, str) else json.dumps(body), status=f"{status} No", content_type="application/json"
    )


def openai(message, code=None, param=None, kind="invalid_request_error"):
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusing(present, status, body):
    """A server that refuses requests in which ``present`` finds something, and is plain for others."""
    return lambda sent, number: error(status, body) if present(sent) else plain(sent)


def refusing_unless_streamed(status, body):
    """A server that answers in pieces or not at all."""
    return lambda sent, number: pieces(plain(sent)) if sent.get("stream") else error(status, body)


def pieces(whole):
    """Cut a reply into the events of a stream, of ten characters each."""
    body = json.loads(whole.partition(b"\r\n\r\n")[2])
    message, reason = body["choices"][0]["message"], body["choices"][0]["finish_reason"]
    deltas = [{"role": "assistant", "content": None}]
    text = message["content"] or ""
    deltas += [{"content": text[at : at + 10]} for at in range(0, len(text), 10)]
    for index, call in enumerate(message.get("tool_calls", [])):
        arguments = call["function"]["arguments"]
        begun = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        deltas.append({"tool_calls": [begun]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": arguments[at : at + 10]}}]}
            for at in range(0, len(arguments), 10)
        ]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks += [
        {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
        {"choices": [], "usage": body["usage"]},
    ]
    events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return reply(f": keep-alive\n\n{events}data: [DONE]\n\n", content_type="text/event-stream")


def wanting_back(**sent_with):
    """A server that wants back what it sent with its call, as it was."""

    def says(sent, number):
        if number == 0:
            return completion(None, tool_calls=[CALL | sent_with.get("call", {})], **sent_with.get("message", {}))
        (asked,) = [message for message in sent["messages"] if message["role"] == "assistant"]
        expected = {"role": "assistant", "content": None, **sent_with.get("message", {})}
        expected["tool_calls"] = [CALL | sent_with.get("call", {})]
        return plain(sent) if asked == expected else error(400, openai("messages.2: invalid signature"))

    return says


def second(bad):
    """A server that says ``bad`` as its second reply, and is plain before and after."""
    return lambda sent, number: bad if number == 1 else plain(sent)


def always(bad):
    """A server that says ``bad`` once it has made its call."""
    return lambda sent, number: bad if number else plain(sent)


def has(name):
    return lambda sent: name in sent


def in_messages(found):
    return lambda sent: any(found(message) for message in sent["messages"])


def chosen(finish_reason="stop", message=None, **choice):
    """A completion of any form."""
    message = {"role": "assistant", "content": None} if message is None else message
    body = {"choices": [{"message": message, "finish_reason": finish_reason, **choice}], "usage": {"prompt_tokens": 1}}
    return reply(json.dumps(body), content_type="application/json")


def said(content, finish_reason="stop"):
    return chosen(finish_reason, {"role": "assistant", "content": content})


# A result is there, and the conversation is too long for it: refused until the answer is asked for.
def too_long(status, body):
    def says(sent, number):
        results = any(message["role"] == "tool" for message in sent["messages"])
        asked = "final answer now" in json.dumps(sent["messages"])
        return error(status, body) if results and not asked else (completion(ANSWER) if asked else plain(sent))

    return says


OVERFLOWS = {
    "OpenAI": (400, openai("This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens. Please reduce the length of the messages.", "context_length_exceeded", "messages")),
    "OpenAI, newer": (400, openai("Your input exceeds the context window of this model. Please adjust your input and try again.", "context_length_exceeded", "input")),
    "OpenAI, one text too long": (400, openai("Invalid 'messages[3].content': string too long. Expected a string with maximum length 10485760, but got a string with length 11534336 instead.", "string_above_max_length", "messages[3].content")),
    "OpenAI, more than a minute's tokens": (429, openai("Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 342389. The input or output tokens must be reduced in order to run successfully.", "rate_limit_exceeded", kind="tokens")),
    "Azure": (400, openai("This model's maximum context length is 128000 tokens. However, you requested 131000 tokens (122808 in the messages, 8192 in the completion). Please reduce the length of the messages or completion.", "context_length_exceeded")),
    "Anthropic": (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 213462 tokens > 200000 maximum"}}),
    "Anthropic, with output": (400, {"error": {"code": "invalid_request_error", "message": "input length and `max_tokens` exceed context limit: 196321 + 8192 > 200000, decrease input length or `max_tokens` and try again"}}),
    "Anthropic, bytes": (413, {"type": "error", "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}}),
    "Gemini": (400, [{"error": {"code": 400, "message": "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).", "status": "INVALID_ARGUMENT"}}]),
    "OpenRouter": (400, {"error": {"message": "This endpoint's maximum context length is 32768 tokens. However, you requested about 40000 tokens (31000 of text input, 1000 of tool input, 8192 in the output). Please reduce the length of either one, or use the \"middle-out\" transform to compress your prompt automatically.", "code": 400}}),
    "OpenRouter, upstream's words within": (400, {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "{\"error\":{\"message\":\"Input length 131393 exceeds the maximum allowed input length of 131040 tokens.\"}}", "provider_name": "Poolside"}}}),
    "vLLM": (400, {"object": "error", "message": "This model's maximum context length is 8192 tokens. However, you requested 9500 tokens (9400 in the messages, 100 in the completion). Please reduce the length of the messages or completion.", "type": "BadRequestError", "param": None, "code": 400}),
    "vLLM, newer": (400, {"error": {"message": "'max_tokens' or 'max_completion_tokens' is too large: 8192. This model's maximum context length is 8192 tokens and your request has 8100 input tokens (8192 > 8192 - 8100).", "type": "BadRequestError", "param": None, "code": 400}}),
    "SGLang": (400, {"object": "error", "message": "The input (9000 tokens) is longer than the model's context length (8192 tokens).", "type": "BadRequestError", "code": 400}),
    "SGLang, with output": (400, {"object": "error", "message": "Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a total of 16292 tokens: 8100 tokens from the input messages and 8192 tokens for the completion.", "code": 400}),
    "llama.cpp": (400, {"error": {"code": 400, "message": "request (9001 tokens) exceeds the available context size (8192 tokens), try increasing it", "type": "exceed_context_size_error", "n_prompt_tokens": 9001, "n_ctx": 8192}}),
    "llama.cpp, older": (500, {"error": {"code": 500, "message": "the request exceeds the available context size. try increasing the context size or enable context shift", "type": "server_error"}}),
    "Ollama": (400, {"error": {"message": "prompt too long; exceeded max context length by 809 tokens", "type": "invalid_request_error"}}),
    "LM Studio": (400, {"error": "The number of tokens to keep from the initial prompt is greater than the context length. Try to load the model with a larger context length, or provide a shorter input"}),
    "TGI": (422, {"error": "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000", "error_type": "validation"}),
    "Kimi": (400, {"error": {"message": "Invalid request: Your request exceeded model token limit: 262144 (requested: 291351)", "type": "invalid_request_error"}}),
    "Qwen/DashScope": (400, openai("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]", "invalid_parameter_error")),
    "DeepSeek": (400, openai("This model's maximum context length is 65536 tokens. However, you requested 73919 tokens (65727 in the messages, 8192 in the completion). Please reduce the length of the messages or completion.", "invalid_request_error")),
    "Mistral": (400, {"object": "error", "message": "Prompt contains 41000 tokens and 0 draft tokens, too large for model with 32768 maximum context length", "type": "invalid_request_prompt", "code": "3051"}),
    "Groq": (400, openai("Please reduce the length of the messages or completion.", "context_length_exceeded", "messages")),
    "Groq, more than a minute's tokens": (413, openai("Request too large for model `llama-3.3-70b-versatile` in organization `org_x` service tier `on_demand` on tokens per minute (TPM): Limit 12000, Requested 24137, please reduce your message size and try again.", "rate_limit_exceeded", kind="tokens")),
    "Cerebras": (400, ""),
    "Together": (422, {"error": {"message": "`inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens and 512 `max_new_tokens`", "type": "invalid_request_error"}}),
    "xAI": (400, {"code": "Client specified an invalid argument", "error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."}),
    "Bedrock": (400, {"message": "Input is too long for requested model."}),
    "LiteLLM": (400, openai("litellm.ContextWindowExceededError: litellm.BadRequestError: ContextWindowExceededError: AnthropicException - prompt is too long: 213462 tokens > 200000 maximum", "400")),
    "MiniMax": (400, {"type": "error", "error": {"type": "bad_request_error", "message": "invalid params, context window exceeds limit (2013)", "http_code": "400"}}),
    "GLM": (400, {"error": {"code": "1261", "message": "Prompt 超长"}}),
    "NIM behind nginx": (413, "<html><body><h1>413 Request Entity Too Large</h1></body></html>"),
    "TensorRT-LLM": (400, {"object": "error", "message": "The sum of prompt length (9351.0), query length (0) should not exceed max_num_tokens (8192)", "type": "BadRequestError", "code": 400}),
    "Triton": (400, {"error": "Cannot process new request: Prompt length (5056) exceeds maximum sequence length (2048)"}),
    "Qianfan": (400, openai("the max input characters is 11200", "characters_too_long")),
    "Spark": (400, {"error": {"code": "10907", "message": "token数量超过上限。对话历史+问题的字数太多，需要精简输入"}}),
    "OpenAI, names of ids apart": (400, openai("Invalid 'messages[3].tool_calls[0].function.arguments': string too long. Expected a string with maximum length 10485760, but got a string with length 11534336 instead.", "string_above_max_length", "messages[3].tool_calls[0].function.arguments")),
    "vLLM, without room": (400, {"object": "error", "message": "max_tokens must be at least 1, got -4210.", "type": "BadRequestError", "param": None, "code": 400}),
    "Kimi, bytes": (400, {"error": {"message": "total message size 2100954 exceeds limit 2097152", "type": "invalid_request_error"}}),
    "Cloudflare": (413, {"errors": [{"message": "AiError: AiError: The estimated number of input and maximum output tokens (41000) exceeded this model context window limit (24000).", "code": 5021}], "success": False, "result": {}, "messages": []}),
    "TensorRT-LLM, without room": (400, {"object": "error", "message": "default_max_tokens (-931) must be greater than 0, default_max_tokens (-931) = max_seq_len (32768) - splited_prompt_len (33699) - query_token_len (0)", "type": "BadRequestError", "param": None, "code": 400}),
    "GLM, in other words": (400, {"error": {"code": "1261", "message": "输入内容过长"}}),
    "Fireworks": (400, {"error": {"object": "error", "type": "invalid_request_error", "message": "The prompt is too long: 140000, model maximum context length: 131071"}}),
}  # fmt: skip

FILTERS = {
    "Azure": (400, {"error": {"message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.", "type": None, "param": "prompt", "code": "content_filter", "status": 400, "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    "OpenAI": (400, openai("Invalid prompt: your prompt was flagged as potentially violating our usage policy. Please try again with a different prompt.", "invalid_prompt")),
    "Anthropic": (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}}),
    "Qwen/DashScope": (400, openai("Input data may contain inappropriate content.", "data_inspection_failed", kind="data_inspection_failed")),
    "Qwen/DashScope, newer": (400, openai("<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate content.", "invalid_parameter_error")),
    "DeepSeek": (400, openai("Content Exists Risk", "invalid_request_error")),
    "Kimi": (400, {"error": {"message": "The request was rejected because it was considered high risk", "type": "content_filter"}}),
    "GLM": (400, {"error": {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容，请您避免输入易产生敏感内容的提示语，感谢您的配合。"}}),
    "MiniMax, with status 200": (200, {"choices": None, "base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}}),
    "xAI": (403, {"code": "The caller does not have permission to execute the specified operation", "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_CSAM"}),
    "OpenRouter": (403, {"error": {"code": 403, "message": "openai/gpt-4 requires moderation. Your input was flagged for \"harassment\". No credits were charged.", "metadata": {"reasons": ["harassment"]}}}),
    "OpenAI, of some fields": (400, openai("Invalid prompt: we've limited access to this content for safety reasons. This type of information may be used to benefit or to harm people.", "invalid_prompt")),
    "Spark": (400, {"error": {"code": "10013", "message": "输入内容审核不通过，涉嫌违规，请重新调整输入内容"}}),
    "Hunyuan": (400, {"error": {"code": "OperationDenied.TextIllegalDetected", "message": "文本包含违法违规信息，审核不通过"}}),
    "Gemini": (400, [{"error": {"code": 400, "message": "The prompt was blocked: PROHIBITED_CONTENT", "status": "INVALID_ARGUMENT"}}]),
    "Bedrock": (400, {"message": "Sorry, the model cannot answer: blocked by guardrail policy"}),
    "LiteLLM, by name": (400, openai("litellm.BadRequestError: litellm.ContentPolicyViolationError: AzureException - Error", "400")),
    "Copilot": (400, openai("Sorry, the response was filtered by the Responsible AI Service. Please rephrase your prompt and try again.")),
    "MiniMax, with an empty reply": (200, {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": ""}}], "output_sensitive": True, "base_resp": {"status_code": 1027, "status_msg": "output new_sensitive"}}),
    "OpenRouter, with status 200": (200, {"error": {"code": 403, "message": "Provider returned error", "metadata": {"raw": "Input flagged by moderation"}}}),
}  # fmt: skip

# What a server says of a field, what it means by it, and what is changed.
FIELDS = [
    Quirk("OpenAI refuses max_tokens", refusing(has("max_tokens"), 400, openai("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", "unsupported_parameter", "max_tokens")), lesson="max_completion_tokens instead of max_tokens"),
    Quirk("Mistral refuses max_completion_tokens", refusing(has("max_completion_tokens"), 422, {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"], "msg": "Extra inputs are not permitted", "input": 8192}]}}), lesson="max_tokens instead of max_completion_tokens", settings={"max_tokens_field": "max_completion_tokens"}),
    Quirk("a gateway refuses both limits of output", refusing(lambda sent: "max_tokens" in sent or "max_completion_tokens" in sent, 400, {"detail": "Unsupported parameter: max_output_tokens (from max_tokens or max_completion_tokens) is not supported"}), lesson="no limit of output tokens"),
    Quirk("OpenAI refuses a temperature", refusing(has("temperature"), 400, openai("Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.", "unsupported_value", "temperature")), lesson="no temperature", settings={"temperature": 0.0}),
    Quirk("Anthropic refuses a temperature", refusing(has("temperature"), 400, {"error": {"message": "`temperature` is deprecated for this model.", "type": "invalid_request_error"}}), lesson="no temperature", settings={"temperature": 0.0}),
    Quirk("Kimi refuses a temperature", refusing(has("temperature"), 400, openai("invalid temperature: only 1 is allowed for this model")), lesson="no temperature", settings={"temperature": 0.6}),
    Quirk("OpenAI refuses parallel_tool_calls", refusing(has("parallel_tool_calls"), 400, openai("Unsupported parameter: 'parallel_tool_calls' is not supported with this model.", "unsupported_parameter", "parallel_tool_calls")), lesson="no parallel_tool_calls", settings={"parallel_calls": False}),
    Quirk("LiteLLM refuses parallel_tool_calls", refusing(has("parallel_tool_calls"), 400, openai("litellm.UnsupportedParamsError: anthropic does not support parameters: {'parallel_tool_calls': False}, for model=claude. To drop these, set `litellm.drop_params=True`", "400")), lesson="no parallel_tool_calls", settings={"parallel_calls": False}),
    Quirk("Gemini refuses additionalProperties", refusing(lambda sent: "additionalProperties" in json.dumps(sent.get("tools")), 400, [{"error": {"code": 400, "message": "Invalid JSON payload received. Unknown name \"additionalProperties\" at 'tools[0].function_declarations[0].parameters': Cannot find field.", "status": "INVALID_ARGUMENT"}}]), lesson="no additionalProperties"),
    Quirk("o1 refuses the system role", refusing(in_messages(lambda message: message["role"] == "system"), 400, openai("Unsupported value: 'messages[0].role' does not support 'system' with this model.", "unsupported_value", "messages[0].role")), lesson="the system message as the user's"),
    Quirk("Gemma behind vLLM refuses the system role", refusing(in_messages(lambda message: message["role"] == "system"), 400, {"object": "error", "message": "System role not supported", "type": "BadRequestError", "code": 400}), lesson="the system message as the user's"),
    Quirk("Gemma at Google refuses the system role", refusing(in_messages(lambda message: message["role"] == "system"), 400, [{"error": {"code": 400, "message": "Developer instruction is not enabled for models/gemma-3-27b-it", "status": "INVALID_ARGUMENT"}}]), lesson="the system message as the user's"),
    Quirk("Mixtral behind vLLM refuses all but turns", refusing(lambda sent: "tools" in sent or sent["messages"][0]["role"] == "system", 400, {"object": "error", "message": "Conversation roles must alternate user/assistant/user/assistant/...", "type": "BadRequestError", "code": 400}), lesson="tools as text"),
    Quirk("Groq refuses reasoning", lambda sent, number: error(400, openai("'messages.2' : for 'role:assistant' the following must be satisfied[('messages.2' : property 'reasoning' is unsupported)]")) if in_messages(lambda message: "reasoning" in message)(sent) else completion(None, tool_calls=[CALL], reasoning="hm") if number == 0 else plain(sent), lesson="no reasoning"),
    Quirk("Mistral refuses reasoning_content", lambda sent, number: error(422, {"object": "Error", "detail": [{"type": "extra_forbidden", "loc": ["body", "messages", 2, "assistant", "reasoning_content"], "msg": "Extra inputs are not permitted", "input": "hm"}]}) if in_messages(lambda message: "reasoning_content" in message)(sent) else completion(None, tool_calls=[CALL], reasoning_content="hm") if number == 0 else plain(sent), lesson="no reasoning_content"),
    Quirk("a gateway refuses the index of a call", lambda sent, number: error(400, openai("messages.2.tool_calls.0.index: Extra inputs are not permitted")) if "\"index\"" in json.dumps(sent["messages"]) else completion(None, tool_calls=[CALL | {"index": 0}]) if number == 0 else plain(sent), lesson="no index"),
    Quirk("DeepSeek misses reasoning_content", refusing(in_messages(lambda message: message["role"] == "assistant" and not message.get("reasoning_content")), 400, openai("Missing `reasoning_content` field in the assistant message at message index 2. For more information, please refer to https://api-docs.deepseek.com/guides/thinking_mode#tool-calls", "invalid_request_error")), lesson="an empty reasoning_content where there is none"),
    Quirk("Kimi misses reasoning_content", refusing(in_messages(lambda message: message["role"] == "assistant" and not message.get("reasoning_content")), 400, {"error": {"message": "thinking is enabled but reasoning_content is missing in assistant tool call message at index 2", "type": "invalid_request_error"}}), lesson="an empty reasoning_content where there is none"),
    Quirk("Gemini misses a thought signature", refusing(in_messages(lambda message: message.get("tool_calls") and "thought_signature" not in json.dumps(message)), 400, [{"error": {"code": 400, "message": "Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly, and missing thought_signature may lead to degraded model performance. Additional data, function call `default_api:search` , position 2.", "status": "INVALID_ARGUMENT"}}]), lesson="a stand-in where a thought signature is missing"),
    Quirk("Mistral wants ids of nine characters", refusing(in_messages(lambda message: len(message.get("tool_call_id", "a" * 9)) != 9), 400, {"object": "error", "message": "Tool call id was call_a1 but must be a-z, A-Z, 0-9, with a length of 9.", "type": "invalid_function_call", "code": "3280"}), lesson="ids of calls in nine letters and digits"),
    Quirk("Gemini wants the names of functions", refusing(in_messages(lambda message: message["role"] == "tool" and not message.get("name")), 400, [{"error": {"code": 400, "message": "* GenerateContentRequest.contents[2].parts[0].function_response.name: Name cannot be empty.", "status": "INVALID_ARGUMENT"}}]), lesson="names of tools with their results"),
    Quirk("a server refuses null content", refusing(in_messages(lambda message: message["content"] is None), 400, openai("Invalid value for 'content': expected a string, got null.", param="messages[2].content")), lesson="empty text instead of null"),
    Quirk("Bedrock refuses null and empty content", refusing(in_messages(lambda message: not message["content"]), 400, openai("bedrock error: The content field in the Message object at messages.2 is empty. Add a ContentBlock object to the content field and try again.")), lesson="a stand-in for empty content"),
    Quirk("Anthropic refuses empty content", lambda sent, number: error(400, openai("messages: text content blocks must be non-empty")) if in_messages(lambda message: message["content"] == "")(sent) else completion("", tool_calls=[CALL]) if number == 0 else plain(sent), lesson="null instead of empty text"),
    Quirk("Ollama's model knows no tools", refusing(has("tools"), 400, openai("registry.ollama.ai/library/llama3:latest does not support tools", kind="api_error")), lesson="tools as text"),
    Quirk("OpenRouter's model knows no tools", refusing(has("tools"), 404, {"error": {"message": "No endpoints found that support tool use. To learn more about provider routing, visit: https://openrouter.ai/docs/provider-routing", "code": 404}}), lesson="tools as text"),
    Quirk("vLLM has no parser of calls", refusing(has("tools"), 400, {"object": "error", "message": "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set", "type": "BadRequestError", "code": 400}), lesson="tools as text"),
    Quirk("Qwen3 does not think without streaming", refusing_unless_streamed(400, openai("parameter.enable_thinking must be set to false for non-streaming calls", "invalid_parameter_error")), lesson="streamed"),
    Quirk("gpt-4-turbo writes at most 4096 tokens", refusing(lambda sent: sent["max_tokens"] > 4096, 400, openai("max_tokens is too large: 8192. This model supports at most 4096 completion tokens, whereas you provided 8192.", "invalid_value", "max_tokens")), lesson="at most 4096 tokens of output"),
    Quirk("Anthropic writes at most 4096 tokens", refusing(lambda sent: sent["max_tokens"] > 4096, 400, {"error": {"message": "max_tokens: 8192 > 4096, which is the maximum allowed number of output tokens for claude-3-opus-20240229", "type": "invalid_request_error"}}), lesson="at most 4096 tokens of output"),
    Quirk("Qwen/DashScope writes at most 2000 tokens", refusing(lambda sent: sent["max_tokens"] > 2000, 400, openai("<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 2000]", "invalid_parameter_error")), lesson="at most 2000 tokens of output"),
    Quirk("DeepSeek writes at most 4096 tokens", refusing(lambda sent: sent["max_tokens"] > 4096, 400, openai("Invalid max_tokens value, the valid range of max_tokens is [1, 4096]", "invalid_request_error")), lesson="at most 4096 tokens of output"),
    Quirk("Groq writes at most 4096 tokens", refusing(lambda sent: sent["max_tokens"] > 4096, 400, openai("`max_tokens` must be less than or equal to `4096`, the maximum value for `max_tokens` is less than the `context_window` for this model")), lesson="at most 4096 tokens of output"),
    Quirk("Bedrock writes less than 4096 tokens", refusing(lambda sent: sent["max_tokens"] >= 4096, 400, {"message": "The maximum tokens you requested exceeds the model limit of 4096. Try again with a maximum tokens value that is lower than 4096."}), lesson="at most 4095 tokens of output"),
    Quirk("Ark writes at most 4096 tokens", refusing(lambda sent: sent["max_tokens"] > 4096, 400, {"error": {"code": "InvalidParameter", "message": "The parameter `max_tokens` specified in the request are not valid: integer above maximum value, expected a value <= 4096, but got 8192 instead. Request id: 021787281042180b566464da517b102b4cb09cdfd60e7ee3d23dd", "param": "max_tokens", "type": "BadRequest"}}), lesson="at most 4096 tokens of output"),
    Quirk("vLLM behind LiteLLM writes at most 4096 tokens", refusing(lambda sent: sent["max_tokens"] > 4096, 400, openai("litellm.BadRequestError: OpenAIException - Error code: 400 - {'detail': 'max_tokens exceeds server limit (4096)'}. Received Model Group=m", "400")), lesson="at most 4096 tokens of output"),
    Quirk("a server with pydantic writes at most 4096 tokens", refusing(lambda sent: sent["max_tokens"] > 4096, 422, {"detail": [{"type": "less_than_equal", "loc": ["body", "max_tokens"], "msg": "Input should be less than or equal to 4096", "input": 8192, "ctx": {"le": 4096}}]}), lesson="at most 4096 tokens of output"),
    Quirk("GLM writes at most 4096 tokens", refusing(lambda sent: sent["max_tokens"] > 4096, 400, {"error": {"code": "1210", "message": "max_tokens参数非法。请检查参数。取值范围[1,4096]"}}), lesson="at most 4096 tokens of output"),
    Quirk("Fireworks streams what is longer than 4096 tokens", refusing_unless_streamed(400, openai("Requests with max_tokens > 4096 must have stream=true", "BAD_REQUEST", "max_tokens", kind="error")), lesson="streamed"),
    Quirk("Codex only streams", refusing_unless_streamed(400, {"detail": "Stream must be set to true"}), lesson="streamed"),
    Quirk("Azure wants the other limit, in its own words", refusing(has("max_tokens"), 400, openai("this model is not supported MaxTokens, please use MaxCompletionTokens")), lesson="max_completion_tokens instead of max_tokens"),
    Quirk("OpenAI refuses long ids", lambda sent, number: error(400, openai("Invalid 'messages[2].tool_calls[0].id': string too long. Expected a string with maximum length 40, but got a string with length 60 instead.", "string_above_max_length", "messages[2].tool_calls[0].id")) if "call_" * 12 in json.dumps(sent["messages"]) else completion(None, tool_calls=[CALL | {"id": "call_" * 12}]) if number == 0 else plain(sent), lesson="ids of calls in nine letters and digits"),
    Quirk("LiteLLM takes long ids for a long conversation", lambda sent, number: error(400, openai("litellm.ContextWindowExceededError: litellm.BadRequestError: ContextWindowExceededError: OpenAIException - Invalid 'messages[2].tool_calls[0].id': string too long. Expected a string with maximum length 40, but got a string with length 60 instead.", "400")) if "call_" * 12 in json.dumps(sent["messages"]) else completion(None, tool_calls=[CALL | {"id": "call_" * 12}]) if number == 0 else plain(sent), lesson="ids of calls in nine letters and digits"),
    Quirk("DeepSeek misses the content", refusing(in_messages(lambda message: message["content"] is None), 400, openai("Failed to deserialize the JSON body into the target type: messages[2]: missing field `content` at line 1 column 999", "invalid_request_error")), lesson="empty text instead of null"),
    Quirk("llama.cpp reads no template", refusing(has("tools"), 500, {"error": {"code": 500, "message": "tools param requires --jinja flag", "type": "server_error"}}), lesson="tools as text"),
    Quirk("Groq's model calls no tools", refusing(has("tools"), 400, openai("`tool calling` is not supported with this model")), lesson="tools as text"),
    Quirk("vLLM has room for a shorter reply", refusing(lambda sent: sent["max_tokens"] > 8192 - 500, 400, {"error": {"message": "'max_tokens' or 'max_completion_tokens' is too large: 8192. This model's maximum context length is 8192 tokens and your request has 500 input tokens (8192 > 8192 - 500).", "type": "BadRequestError", "code": 400}}), lesson="at most 2048 tokens of output"),
]  # fmt: skip

# The answer is asked for after the only call: then the tools must not be called any more.
FORCED = [
    Quirk("DeepSeek refuses tool_choice", refusing(has("tool_choice"), 400, openai("deepseek-reasoner does not support this tool_choice")), lesson="no tool_choice"),
    Quirk("Qwen/DashScope refuses tool_choice", refusing(has("tool_choice"), 400, openai("<400> InternalError.Algo.InvalidParameter: The tool_choice parameter does not support being set to required or object in thinking mode", "invalid_parameter_error")), lesson="no tool_choice"),
    Quirk("OpenRouter has no model with tool_choice", refusing(has("tool_choice"), 404, {"error": {"message": "No endpoints found that support the provided 'tool_choice' value.", "code": 404}}), lesson="no tool_choice"),
    Quirk("Mistral refuses the user after a tool", refusing(lambda sent: [message["role"] for message in sent["messages"][-2:]] == ["tool", "user"], 400, {"object": "error", "message": "Unexpected role 'user' after role 'tool'", "type": "invalid_request_message_order", "code": "3230"}), lesson="the user's words with the tool's"),
    Quirk("DeepSeek R1 refuses the user after a user", refusing(lambda sent: [message["role"] for message in sent["messages"][-2:]] == ["tool", "user"], 400, openai("deepseek-reasoner does not support successive user or assistant messages (messages[3] and messages[4] in your input). You should interleave the user/assistant messages in the message sequence.", "invalid_request_error")), lesson="the user's words with the tool's"),
    Quirk("Devstral behind llama.cpp refuses the user after a tool", refusing(lambda sent: [message["role"] for message in sent["messages"][-2:]] == ["tool", "user"], 500, {"error": {"code": 500, "message": "Error: Jinja Exception: After the optional system message, conversation roles must alternate user and assistant roles except for tool calls and results.", "type": "server_error"}}), lesson="the user's words with the tool's"),
]  # fmt: skip

ENDINGS = {
    "refused": ["refusal", "content_filter", "safety", "SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "sensitive", "guardrail_intervened", "content_filtered"],
    "truncated": ["length", "max_tokens", "MAX_TOKENS", "max_output_tokens"],
    "format_error": ["stop", "OTHER", None, "unheard_of"],
}  # fmt: skip
ANSWERING_ENDS = [
    "stop",
    "eos",
    "eos_token",
    "end_turn",
    "STOP",
    "stop_sequence",
    "COMPLETE",
    None,
    "FinishReason.STOP",
]
FULL = ["model_context_window_exceeded", "model_length"]
MALFORMED = [
    "malformed_function_call",
    "MALFORMED_FUNCTION_CALL",
    "unexpected_tool_call",
    "too_many_tool_calls",
    "tool_calls",
]
FAILED = ["error", "network_error", "insufficient_system_resource", "abort"]

THOUGHTS = {
    "closed": f"<think>{ANSWER.replace('Lima', 'Cusco')}</think>{ANSWER}",
    "orphan end": f"{ANSWER.replace('Lima', 'Cusco')}\n</think>\n\n{ANSWER}",
    "twice": f"<think>a</think><think>{ANSWER.replace('Lima', 'Cusco')}</think>{ANSWER}",
    "nested": f"<think>a<think>b</think>{ANSWER.replace('Lima', 'Cusco')}</think>{ANSWER}",
    "Mistral's": f"[THINK]{ANSWER.replace('Lima', 'Cusco')}[/THINK]{ANSWER}",
    "Kimi's": f"◁think▷{ANSWER.replace('Lima', 'Cusco')}◁/think▷{ANSWER}",
    "Seed's": f"<seed:think>{ANSWER.replace('Lima', 'Cusco')}</seed:think>{ANSWER}",
    "gpt-oss's": f"<|channel|>analysis<|message|>{ANSWER.replace('Lima', 'Cusco')}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>",
    "gpt-oss's, without special tokens": f"analysisI look.{ANSWER.replace('Lima', 'Cusco')}assistantfinal{ANSWER}",
    "Gemma 4's": f"<|channel>thought\n{ANSWER.replace('Lima', 'Cusco')}<channel|>{ANSWER}",
    "Command's": f"<|START_THINKING|>{ANSWER.replace('Lima', 'Cusco')}<|END_THINKING|>{ANSWER}",
    "after the answer, not closed": f"{ANSWER}\n<think>{ANSWER.replace('Lima', 'Cusco')}",
    "in parts": [{"type": "thinking", "thinking": [{"type": "text", "text": ANSWER.replace("Lima", "Cusco")}]}, {"type": "text", "text": ANSWER}],
}  # fmt: skip

TEXT_CALLS = {
    "Qwen3-Coder": "<tool_call>\n<function=search>\n<parameter=query>\nperu\n</parameter>\n</function>\n</tool_call>",
    "GLM": "<tool_call>search\n<arg_key>query</arg_key>\n<arg_value>peru</arg_value>\n</tool_call>",
    "Mistral": '[TOOL_CALLS][{"name": "search", "arguments": {"query": "peru"}}]',
    "Llama": '<|python_tag|>{"name": "search", "parameters": {"query": "peru"}}',
    "MiniMax": '<minimax:tool_call>\n<invoke name="search">\n<parameter name="query">peru</parameter>\n</invoke>\n</minimax:tool_call>',
    "DeepSeek V3.2": '<｜DSML｜function_calls>\n<｜DSML｜invoke name="search">\n<｜DSML｜parameter name="query" string="true">peru</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
    "Kimi": '<|tool_calls_section_begin|><|tool_call_begin|>functions.search:0<|tool_call_argument_begin|>{"query": "peru"}<|tool_call_end|><|tool_calls_section_end|>',
    "gpt-oss": '<|channel|>analysis<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.search <|constrain|>json<|message|>{"query": "peru"}<|call|>',
    "gpt-oss, the recipient first": '<|start|>assistant to=functions.search<|channel|>commentary json<|message|>{"query": "peru"}<|call|>',
    "LFM2": '<|tool_call_start|>[search(query="peru")]<|tool_call_end|>',
    "Gemma": '```tool_code\nsearch(query="peru")\n```',
    "Hermes": '<tool_call>\n{"name": "search", "arguments": {"query": "peru"}}\n</tool_call>',
    "bare JSON": '{"name": "search", "arguments": {"query": "peru"}}',
    "parameters": '{"name": "search", "parameters": {"query": "peru"}}',
    "after thinking": '<think>I call {"name": "visit"}.</think>\n<tool_call>{"name": "search", "arguments": {"query": "peru"}}</tool_call>',
    "in a block": '```json\n[{"name": "search", "arguments": {"query": "peru"}}]\n```',
}  # fmt: skip


def combined(draw):
    """A server that refuses two to six things, whatever it has read before; none of them is what another one wants."""
    alone = (
        "both limits",
        "vLLM has room",
        "max_completion_tokens",
        "without streaming",
        "streams",
        "long ids",
        "writes",
        "refuses reasoning",
    )
    refusals = [quirk for quirk in [*FIELDS, *FORCED] if not any(name in quirk.name for name in alone)]
    chosen = draw.sample(refusals, draw.randint(2, 6))

    def says(sent, number):
        replies = (quirk.says(sent, 99) for quirk in chosen)
        return next((refusal for refusal in replies if not refusal.startswith(b"HTTP/1.1 200")), plain(sent))

    settings = {name: value for quirk in chosen for name, value in quirk.settings.items()}
    return Quirk("; ".join(quirk.name for quirk in chosen), says, settings=settings)


def quirks():
    """All of them."""
    for name, (status, body) in OVERFLOWS.items():
        yield Quirk(f"overflow: {name}", too_long(status, body), compactions=1)
    for name, (status, body) in FILTERS.items():
        yield Quirk(f"filter: {name}", always(error(status, body)), "refused")
    yield from FIELDS
    yield from FORCED
    for outcome, reasons in ENDINGS.items():
        for reason in reasons:
            yield Quirk(f"ends: {reason} without text", always(said(None, reason)), outcome)
    for reason in ANSWERING_ENDS:
        yield Quirk(f"ends: {reason} with the answer", always(said(ANSWER, reason)))
    for reason in FULL:
        yield Quirk(f"ends: {reason}", second(said("The capi", reason)), compactions=1)
        yield Quirk(f"ends: {reason} for ever", always(said("The capi", reason)), "truncated", compactions=1)
    for reason in MALFORMED:
        yield Quirk(f"ends: {reason}, no call", second(said(None, reason)))
        yield Quirk(f"ends: {reason}, no call, for ever", always(said(None, reason)), "format_error")
    for reason in FAILED:
        yield Quirk(f"fails in the choice: {reason}", second(said("The capi", reason)))
    yield Quirk(
        "fails in the choice, with an error",
        second(chosen("error", error={"code": 502, "message": "Provider disconnected"})),
    )
    yield Quirk(
        "filters in the choice",
        always(chosen("error", error={"code": 403, "message": "Output blocked by content filtering policy"})),
        "refused",
    )
    yield Quirk(
        "overflows in the choice",
        too_long(
            200,
            {
                "choices": [
                    {
                        "finish_reason": "error",
                        "message": {},
                        "error": {"code": 400, "message": "context_length_exceeded"},
                    }
                ]
            },
        ),
        compactions=1,
    )
    yield Quirk(
        "overflows at the top with a code as text",
        too_long(200, {"error": {"code": "400", "message": "maximum context length is 8192 tokens"}}),
        compactions=1,
    )
    yield Quirk("fails with a text at the top", second(error(200, {"error": "upstream connect error"})))
    busy = {"message": "ThrottlingException: Too many tokens, please wait before trying again."}
    yield Quirk("Bedrock is busy with the status of a bad request", second(error(400, busy)))
    yield Quirk("fails with no choices", second(error(200, {"choices": [], "message": "busy"})))
    yield Quirk(
        "Groq failed to call",
        second(
            error(
                400,
                {
                    "error": {
                        "message": "Failed to call a function. Please adjust your prompt. See 'failed_generation' for more details.",
                        "type": "invalid_request_error",
                        "code": "tool_use_failed",
                        "failed_generation": "search(peru",
                    }
                },
            )
        ),
    )
    yield Quirk(
        "Groq shows the call it failed to make",
        lambda sent, number: (
            error(
                400,
                {
                    "error": {
                        "message": "Failed to call a function.",
                        "code": "tool_use_failed",
                        "failed_generation": TEXT_CALLS["bare JSON"],
                    }
                },
            )
            if number == 0
            else plain(sent)
        ),
    )
    yield Quirk(
        "Ollama failed to read a call",
        second(
            error(
                500,
                openai("error parsing tool call: raw='{\"query', err=unexpected end of JSON input", kind="api_error"),
            )
        ),
    )
    yield Quirk(
        "llama.cpp failed to read a call",
        second(
            error(
                500,
                {
                    "error": {
                        "code": 500,
                        "message": "Failed to parse input at pos 12: <tool_call>",
                        "type": "server_error",
                    }
                },
            )
        ),
    )
    yield Quirk(
        "a message without content",
        lambda sent, number: (
            chosen("tool_calls", {"role": "assistant", "tool_calls": [CALL]}) if number == 0 else plain(sent)
        ),
    )
    yield Quirk(
        "a call of the first form",
        lambda sent, number: (
            chosen("function_call", {"role": "assistant", "content": None, "function_call": CALL["function"]})
            if number == 0
            else plain(sent)
        ),
    )
    yield Quirk(
        "a refusal as OpenAI writes it",
        always(chosen("stop", {"role": "assistant", "content": None, "refusal": "I can't help with that."})),
        "refused",
    )
    yield Quirk(
        "an empty refusal beside the answer",
        always(chosen("stop", {"role": "assistant", "content": ANSWER, "refusal": ""})),
    )
    for name, text in THOUGHTS.items():
        yield Quirk(f"thinks in the text: {name}", always(said(text)))
    yield Quirk("thinks in the text and says nothing else", always(said(f"<think>{ANSWER}")), "format_error")
    for begin in ("<|channel>thought\n", "<|START_THINKING|>"):
        yield Quirk(
            f"thinks in the text and says nothing else: {begin.strip()}", always(said(begin + ANSWER)), "format_error"
        )
    yield Quirk("thinks to its limit", always(said(f"<think>{ANSWER}", "length")), "truncated")
    for name, text in TEXT_CALLS.items():
        yield Quirk(
            f"calls in the text: {name}", lambda sent, number, text=text: said(text) if number == 0 else plain(sent)
        )
    for thoughts in ("reasoning", "reasoning_content"):
        within = {"role": "assistant", "content": "", thoughts: "I look.\n" + TEXT_CALLS["Qwen3-Coder"]}
        yield Quirk(
            f"vLLM takes the call for a part of {thoughts}",
            lambda sent, number, within=within: chosen("stop", within) if number == 0 else plain(sent),
        )
    considered = {"role": "assistant", "content": ANSWER, "reasoning": TEXT_CALLS["Hermes"]}
    yield Quirk("thinks of another call and answers", always(chosen("stop", considered)))
    temperature = {"temperature": 0.0}
    yield Quirk(
        "Opus 4.6 does not say what it refuses",
        refusing(has("temperature"), 400, openai("Invalid request data")),
        lesson="nothing optional",
        settings=temperature,
    )
    yield Quirk(
        "a template fails without saying why",
        refusing(has("tools"), 400, openai('can only concatenate str (not "dict") to str')),
        lesson="tools as text and no system message",
    )
    for said_of_length in [
        "Unable to submit request because the input token count is 1100000 but model only supports up to 1048576.",
        "Requested generation length 1 is not possible! The provided prompt is 8193 tokens long, but the maximum supported sequence length is just 8192!",
        "Total message token length exceed model limit",
        "too many tokens: size limit exceeded by 8326 tokens. Try using shorter or fewer inputs.",
        "You asked for 9000 tokens, which goes beyond the 8192 that this deployment takes.",
    ]:
        yield Quirk(f"overflow: {said_of_length[:40]}", too_long(400, openai(said_of_length)), compactions=1)
    for said_of_content in [
        "Your request was rejected as a result of our safety system.",
        "The request violates our content guidelines.",
        "Request blocked by content moderation.",
    ]:
        yield Quirk(f"filter: {said_of_content}", always(error(400, openai(said_of_content))), "refused")
    yield Quirk(
        "QwQ only streams",
        refusing_unless_streamed(
            400,
            openai(
                "This model only support stream mode, please enable the stream parameter to access the model. ",
                "invalid_parameter_error",
            ),
        ),
        lesson="streamed",
    )
    yield Quirk("a gateway streams what nobody asked it to", lambda sent, number: pieces(plain(sent)))
    for reason in ("content_filter: PROHIBITED_CONTENT", "content_filter: OTHER"):
        yield Quirk(
            f"Gemini ends: {reason}, no message",
            always(error(200, {"choices": [{"finish_reason": reason, "index": 0}]})),
            "refused",
        )
    yield Quirk(
        "Gemini ends: function_call_filter: MALFORMED_FUNCTION_CALL",
        second(chosen("function_call_filter: MALFORMED_FUNCTION_CALL", {"role": "assistant"})),
    )
    yield Quirk(
        "fails in the choice with a code of bad requests",
        second(chosen("error", error={"code": 400, "message": "Provider returned error"})),
    )
    yield Quirk(
        "a refusal as a part",
        always(chosen("stop", {"role": "assistant", "content": [{"type": "refusal", "refusal": "I can't."}]})),
        "refused",
    )
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "x=="}, {"type": "redacted_thinking", "data": "y=="}]
    yield Quirk(
        "Anthropic behind LiteLLM wants its thinking blocks",
        wanting_back(message={"thinking_blocks": blocks, "reasoning_content": "hm"}),
    )
    yield Quirk(
        "OpenRouter wants its reasoning details",
        wanting_back(
            message={
                "reasoning": "hm",
                "reasoning_details": [{"type": "reasoning.encrypted", "data": "z==", "id": None, "index": 0}],
            }
        ),
    )
    yield Quirk(
        "Gemini wants its thought signature",
        wanting_back(call={"extra_content": {"google": {"thought_signature": "s=="}}}),
    )
    yield Quirk(
        "Gemini behind LiteLLM wants its provider's fields",
        wanting_back(
            call={"provider_specific_fields": {"thought_signature": "s=="}},
            message={"provider_specific_fields": {"a": [None]}},
        ),
    )
    yield Quirk("DeepSeek wants its reasoning content", wanting_back(message={"reasoning_content": "hm"}))
    filled = {
        "choices": [{"message": {"role": "assistant", "content": ""}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 8192, "completion_tokens": 0},
    }
    yield Quirk("MiMo fills its context with the prompt", second(error(200, filled)), compactions=1)
    shown = f"Failed to parse input at pos 0: {TEXT_CALLS['Hermes']}"
    unread = error(500, {"error": {"code": 500, "message": shown, "type": "server_error"}})
    yield Quirk(
        "llama.cpp shows the call it failed to read", lambda sent, number: unread if number == 0 else plain(sent)
    )
    streams = openai("enable thinking can not be support when `stream=False`.", "invalid_parameter_error")
    yield Quirk("ModelScope only streams thoughts", refusing_unless_streamed(400, streams), lesson="streamed")
    words = openai("input contains sensitive words: [test]", "sensitive_words_detected")
    yield Quirk("filter: new-api counts sensitive words", always(error(400, words)), "refused")
