
// One question ---------------------------------------------------------------------------------------------------------

const SIGNS = { same: "", moved: "↕", changed: "≠", missing: "+", extra: "−", blank: "" };
const WORDS = { moved: "right, in another place", changed: "wrong", missing: "missing in the answer", extra: "not in the gold table" };

function diffCell([status, given, right], tag = "td") {
  const shown = (value) => textOf(value) + (Array.isArray(value) ? "…" : "");
  const content = {
    same: () => [shown(given)],
    moved: () => [shown(given)],
    changed: () => [el("del", {}, shown(given)), " ", el("ins", {}, shown(right))],
    missing: () => [shown(right)],
    extra: () => [el("del", {}, shown(given))],
    blank: () => [],
  }[status]();
  const sign = WORDS[status] && el("span", { class: "sign", title: WORDS[status] }, SIGNS[status], el("span", { class: "unseen" }, ` (${WORDS[status]})`));
  return el(tag, { class: status }, sign, content);
}

function diffTable([columns, rows, leftOut]) {
  const cells = rows.flatMap(([, , cellsOfRow]) => cellsOfRow);
  const number = (...statuses) => cells.filter(([status]) => statuses.includes(status)).length;
  const place = (at) => el("td", { class: "place" }, at == null ? "–" : count(at + 1));
  const parts = [
    `${number("same", "moved")} of ${number("same", "moved", "changed", "missing")} gold cells right`,
    ...["changed", "moved", "missing", "extra"].filter((status) => number(status)).map((status) => `${SIGNS[status]} ${number(status)} ${WORDS[status]}`),
  ];
  const named = columns.some(([, given, right]) => textOf(given) || textOf(right));
  const place2 = ["Answer’s row", "Gold row"].map((title) => el("th", { class: "place", scope: "col" }, title));
  return [
    el("p", { class: "note" }, parts.join(" · ")),
    el("div", { class: "wide" }, el("table", { class: "diff" },
      el("thead", {}, el("tr", {}, place2, columns.map((column) => (named ? diffCell(column, "th") : el("th"))))),
      el("tbody", {}, rows.map(([given, right, cellsOfRow]) => el("tr", {}, place(given), place(right), cellsOfRow.map((cell) => diffCell(cell))))))),
    leftOut > 0 && el("p", { class: "cut" }, `${count(leftOut)} more rows or columns are not compared.`),
  ];
}

/** The searches and visits of both, with the pages that both visited marked. */
function beside(question) {
  const agent = (question.steps ?? []).flatMap((step) =>
    step.tool === "search" ? [["search", step.query]] : step.tool === "visit" ? step.urls.map((url) => ["visit", url]) : []);
  const both = new Set(question.shared.map(textOf));
  const walk = (steps) => el("ol", { class: "walk" }, steps.map(([kind, value]) => {
    const shared = kind === "visit" && both.has(textOf(value));
    return el("li", { class: shared ? `${kind} shared` : kind, title: shared ? "visited by both" : null },
      el("b", {}, kind), el("span", {}, textOf(value), shared && el("span", { class: "unseen" }, " (visited by both)")));
  }));
  const column = (title, steps) => el("div", {}, el("h5", {}, title), steps.length ? el("div", { class: "walks", tabindex: "0" }, walk(steps)) : el("p", { class: "empty" }, "Nothing recorded."));
  return el("div", { class: "beside" }, column(`Agent: ${agent.length} steps`, agent), column(`Human: ${question.human.length} steps`, question.human));
}

function stepCard(step, at) {
  const spent = [
    sum(step.tokens) > 0 && `${count(step.tokens[0])} tokens read, ${count(step.tokens[1])} written`,
    step.usd !== 0 && dollars(step.usd),
    seconds(step.seconds),
  ].filter(Boolean).join(" · ");
  const who = step.failed != null ? "Failed" : step.kind === "reply" ? "Agent" : step.kind === "compaction" ? "Steps left out" : step.tool ? `Result of ${step.tool}` : `Call ${step.error}`;
  const about = [
    step.finish && step.finish !== "stop" && step.finish !== "tool_calls" && `ended by ${step.finish}`,
    step.tool === "visit" && count(step.urls.length) + (step.urls.length === 1 ? " page" : " pages"),
  ].filter(Boolean);
  const body = [];
  if (textOf(step.thought)) body.push(folded("Reasoning", step.thought));
  if (step.failed != null) body.push(longText(step.failed));
  else if (step.kind === "reply") {
    if (textOf(step.content)) body.push(longText(step.content));
    for (const [name, argument] of step.calls)
      body.push(el("p", { class: "calling" }, "calls ", el("b", {}, textOf(name)), el("code", {}, textOf(argument)), Array.isArray(argument) && "…"));
  } else if (step.error || step.kind === "compaction") body.push(longText(step.content));
  else body.push(folded("Text", step.content));
  for (const failure of step.failures) body.push(el("p", { class: "cut" }, "failed attempt: ", textOf(failure)));
  return el("section", { class: `step ${step.kind}`, "aria-label": `Step ${at + 1}, ${who}` },
    el("header", {}, el("b", {}, who), about.join(", "), el("span", { class: "right" }, spent)), body);
}

function facts(question) {
  const metrics = Object.entries(question.official).filter(([name]) => name !== "question_type");
  const shown = (value) => (Number.isInteger(value) ? `${value}` : value.toFixed(3));
  const pairs = metrics.map(([name, value]) =>
    [name, shown(value) + (question.robust[name] === value ? "" : ` (robust ${shown(question.robust[name])})`)]);
  if (question.counts) {
    const { calls, searches, visits, failed_urls: unread, invalid_calls: invalid, cached } = question.counts;
    pairs.push(["calls", `${calls} (${searches} searches, ${visits} visits)`]);
    for (const [name, number] of [["unread pages", unread], ["invalid calls", invalid], ["from cache", cached], ["resumed", question.resumed]])
      if (number) pairs.push([name, count(number)]);
    for (const [part, { prompt_tokens: read, completion_tokens: written, usd }] of Object.entries(question.spent))
      pairs.push([part, `${count(read)} + ${count(written)} tokens, ${dollars(usd)}`]);
    pairs.push(["time", seconds(question.seconds)]);
  }
  for (const [name, value] of Object.entries(question.evidence ?? {}))
    if (value != null) pairs.push([name.replace("_", " "), name === "citations" ? count(value) : `${percent(value)}%`]);
  return el("dl", { class: "facts" }, terms(pairs));
}

function showQuestion(data, question, neighbours) {
  const badge = (text, kind = "") => el("span", { class: `badge ${kind}` }, text);
  const turn = (label, other) => {
    const button = el("button", { type: "button" }, label);
    button.disabled = !other;
    button.addEventListener("click", () => { location.hash = hashOf(other); });
    return button;
  };
  const heading = el("h3", { tabindex: "-1" }, `Question ${question.id}`);
  const hidden = "The text of this benchmark’s questions is not part of this page, as published it would spoil the test. " +
    "To have it: dataset.show_questions=true for a run, --show-questions for python -m src.report.";
  const spread = el("button", { type: "button" }, "Unfold all");
  const steps = el("div", { class: "steps" },
    question.question != null && el("section", { class: "step user" }, el("header", {}, el("b", {}, "Question")), longText(question.question)),
    (question.steps ?? []).map(stepCard));
  spread.addEventListener("click", () => steps.querySelectorAll("details").forEach((one) => { one.open = true; }));
  byId("detail").replaceChildren();
  fill(byId("detail"), {}, [
    el("div", { class: "head" }, heading,
      badge(isRight(question) ? "✓ right" : "✗ wrong", isRight(question) ? "yes" : "no"),
      isRight(question) !== (question.robust.global_em === 1) && badge("robust scorer disagrees", "odd"),
      question.outcome !== "answered" && badge(question.outcome, "odd"),
      [question.answer_type, question.question_type, question.topic].map((text) => badge(text)),
      el("span", { class: "turn" }, turn("← Previous", neighbours[0]), turn("Next →", neighbours[1]))),
    question.question == null ? el("p", { class: "note" }, hidden) : el("blockquote", {}, textOf(question.question)),
    facts(question),
    el("ul", { class: "why" },
      question.reason && el("li", {}, `Ended as “${question.outcome}”: ${textOf(question.reason)}`),
      question.error && el("li", {}, `Cause by ${question.error.by}: ${(question.error.cause ?? "cannot be told").replaceAll("_", " ")}; ${textOf(question.error.why)}`),
      question.fault && el("li", {}, `The official script could not have scored it: ${question.fault}`),
      question.parity_flags.map((flag) => el("li", {}, `Scores differ: ${data.flags[flag]}`)),
      question.denied?.length > 0 && el("li", {}, `Came upon the benchmark’s own pages: ${question.denied.map(textOf).join(", ")}`)),
    el("h4", {}, "Answer and gold table"),
    diffTable(question.diff),
    !textOf(question.prediction).trim() ? el("p", { class: "empty" }, "There is no answer.") : folded("The answer as written", question.prediction),
    el("h4", {}, "Searches and visits, beside the human’s"),
    beside(question),
    el("h4", {}, "Trajectory ", question.steps && spread),
    question.steps ? steps : el("p", { class: "empty" }, "No trajectory is recorded in this run’s folder."),
  ]);
  heading.focus({ preventScroll: true });
  byId("questions").scrollIntoView();
}

// The list -------------------------------------------------------------------------------------------------------------

const hashOf = (question) => `#q=${encodeURIComponent(question.id)}`;

const FILTERS = {
  result: (question) => [isRight(question) ? "right" : "wrong", ...(isRight(question) !== (question.robust.global_em === 1) ? ["scorers disagree"] : [])],
  outcome: (question) => [question.outcome],
  type: (question) => [question.answer_type],
  change: (question) => [question.question_type],
  topic: (question) => [question.topic],
  cause: (question) => (question.error ? [(question.error.cause ?? "cannot be told").replaceAll("_", " ")] : []),
};

function searchable(question) {
  const steps = (question.steps ?? []).flatMap((step) => [textOf(step.query), ...(step.urls ?? []).map(textOf)]);
  const cells = question.diff[1].flatMap(([, , cellsOfRow]) => cellsOfRow.flatMap(([, given, right]) => [textOf(given), textOf(right)]));
  return [question.id, textOf(question.question), question.topic, textOf(question.prediction), textOf(question.reason), ...steps, ...cells]
    .join("\n").toLowerCase();
}

function listItem(question) {
  const sign = isRight(question) ? el("span", { class: "yes", title: "right" }, "✓") : el("span", { class: "no", title: "wrong" }, "✗");
  const about = [question.id, question.answer_type, question.topic, ...(question.outcome === "answered" ? [] : [question.outcome])];
  return el("li", {}, el("a", { href: hashOf(question) }, sign, el("span", { class: "about" }, about.join(" · ")),
    question.question != null && el("span", { class: "text" }, textOf(question.question))));
}

function showQuestions(data) {
  const entries = data.questions.map((question) => ({ question, item: listItem(question), text: null }));
  let visible = entries;
  let opened = null;
  for (const [id, valuesOf] of Object.entries(FILTERS)) {
    const numbers = new Map();
    for (const value of data.questions.flatMap(valuesOf)) numbers.set(value, (numbers.get(value) ?? 0) + 1);
    byId(id).append(el("option", { value: "" }, "all"),
      ...[...numbers].sort().map(([value, number]) => el("option", { value }, `${value} (${number})`)));
  }

  function filter() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    visible = entries.filter((entry) => {
      for (const [id, valuesOf] of Object.entries(FILTERS))
        if (byId(id).value && !valuesOf(entry.question).includes(byId(id).value)) return false;
      if (words.length) entry.text ??= searchable(entry.question);
      return words.every((word) => entry.text.includes(word));
    });
    byId("list").replaceChildren(...visible.map((entry) => entry.item));
    byId("count").value = `${visible.length} of ${entries.length} questions`;
  }

  function open() {
    const found = entries.find((entry) => hashOf(entry.question) === location.hash);
    if (!found) return;
    opened?.item.firstChild.removeAttribute("aria-current");
    opened = found;
    found.item.firstChild.setAttribute("aria-current", "true");
    found.item.parentNode && byId("list").parentNode.scrollTo({ top: found.item.offsetTop - 80 });
    const at = visible.indexOf(found);
    showQuestion(data, found.question, [visible[at - 1]?.question, visible[at + 1]?.question]);
  }

  for (const event of ["input", "change"]) byId("filters").addEventListener(event, filter);
  byId("filters").addEventListener("reset", () => setTimeout(filter));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", open);
  filter();
  open();
}

async function start() {
  const packed = Uint8Array.from(atob(byId("data").textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const data = await new Response(stream).json();
  document.title = `${data.run.name}: run on GISA`;
  byId("name").replaceChildren(`${data.run.name}: ${data.questions.length} questions`);
  byId("facts").append(...terms(Object.entries(data.run.facts).map(([name, value]) => [name, `${value}`])));
  byId("command").append(`python -m src.run ${data.run.overrides.join(" ")}`);
  byId("main").hidden = false;
  showScores(data);
  showQuestions(data);
  byId("cut").append(`Texts longer than ${count(data.most_chars)} characters are cut, so that this page stays small; the run’s folder has them whole.`);
  byId("status").hidden = true;
}

start().catch((error) => { byId("status").replaceChildren(`This page cannot be shown: ${error}. A browser from 2023 or newer is needed.`); });
