
"use strict";
// Everything shown goes through text nodes: whatever a page or a model wrote, none of it is ever markup.

const byId = (id) => document.getElementById(id);
const percent = (share) => (100 * share).toFixed(1);
const count = (number) => Number(number).toLocaleString("en");
const seconds = (number) => (number < 0.05 ? "< 0.1 s" : number < 90 ? `${number.toFixed(1)} s` : `${(number / 60).toFixed(1)} min`);
const dollars = (usd) => (usd == null ? "price unknown" : usd === 0 ? "0 USD" : `${usd.toFixed(usd < 0.1 ? 4 : 2)} USD`);
const textOf = (value) => (Array.isArray(value) ? value[0] : value ?? "");
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const isRight = (question) => question.official.global_em === 1;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) if (value != null) node.setAttribute(name, value);
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false && child !== ""));
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const terms = (pairs) => pairs.map(([name, ...values]) => el("div", {}, el("dt", {}, name), el("dd", {}, ...values)));
const row = (kind, cells, attributes) => el("tr", attributes, cells.map((cell, at) => el(at ? kind : "th", {}, cell)));

/** A text of a run in its own lines, with a note where its end is left out. */
function longText(value) {
  const note = Array.isArray(value) && el("p", { class: "cut" }, `… ${count(value[1])} more characters are left out.`);
  return [el("pre", {}, textOf(value)), note];
}

function folded(title, value) {
  const length = textOf(value).length + (Array.isArray(value) ? value[1] : 0);
  return el("details", {}, el("summary", {}, `${title} (${count(length)} characters)`), longText(value));
}

// Scores -------------------------------------------------------------------------------------------------------------

const PARTS = { all: () => true };
for (const type of ["item", "set", "list", "table"]) PARTS[type] = (question) => question.answer_type === type;
for (const change of ["stable", "live"]) PARTS[change] = (question) => question.question_type === change;
const inPart = (part) =>
  PARTS[part] ?? ((question) => (part === "uncontaminated" ? !question.contaminated : `topic: ${question.topic}` === part));

const groupOf = (question) =>
  question.outcome === "answered" ? (isRight(question) ? "right" : "wrong") : question.outcome;

/** Right, wrong, then every other outcome that occurs, each with its colour. */
function groups(questions) {
  const others = [...new Set(questions.map(groupOf))].filter((name) => name !== "right" && name !== "wrong").sort();
  return new Map([["right", "fill-right"], ["wrong", "fill-wrong"], ...others.map((name, at) => [name, `fill-${at % 4}`])]);
}

const key = (kinds) =>
  el("ul", { class: "key" }, [...kinds].map(([name, fillClass]) => el("li", {}, el("i", { class: fillClass }), name)));

function figure(title, legend, width, height, ...shapes) {
  const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}; the figures stand in the table below` });
  return el("figure", {}, el("figcaption", {}, title), legend, fill(image, {}, shapes));
}

function matchPlot(means) {
  const parts = [...new Set(means.map((mean) => mean.part))];
  const [left, width, step] = [150, 520, 22];
  const x = (share) => left + share * (width - left - 60);
  const bottom = parts.length * step + 4;
  const axis = [0, 0.25, 0.5, 0.75, 1].map((share) => [
    svg("line", { class: "grid", x1: x(share), x2: x(share), y1: 0, y2: bottom }),
    svg("text", { class: "soft", x: x(share), y: bottom + 15, "text-anchor": "middle" }, `${100 * share}%`),
  ]);
  const marks = parts.map((part, at) => {
    const y = at * step + step / 2;
    const [official, robust] = ["official", "robust"].map((scorer) => means.find((mean) => mean.part === part && mean.scorer === scorer));
    return [
      svg("text", { x: left - 10, y: y + 4, "text-anchor": "end" }, part.replace("topic: ", "")),
      svg("line", { class: "official", x1: x(official.low), x2: x(official.high), y1: y - 3, y2: y - 3, "stroke-width": 2 }),
      svg("line", { class: "robust", x1: x(robust.low), x2: x(robust.high), y1: y + 4, y2: y + 4, "stroke-width": 1.5 }),
      svg("circle", { class: "official", cx: x(official.mean), cy: y - 3, r: 4 }),
      svg("circle", { class: "robust", cx: x(robust.mean), cy: y + 4, r: 3, "stroke-width": 1.5 }),
      svg("text", { class: "soft", x: width, y: y + 4, "text-anchor": "end" }, percent(official.mean)),
    ];
  });
  const legend = key([["official (figure at the right)", "fill-2"], ["robust", "fill-1"]]);
  return figure("Exact match by part, with 95% intervals", legend, width, bottom + 22, axis, marks);
}

/** Horizontal bars of questions, each divided by how they ended. */
function outcomePlot(questions, kinds) {
  const types = Object.keys(PARTS).filter((part) => part !== "all" && questions.some(PARTS[part]));
  const [left, width, step] = [60, 520, 26];
  const bars = types.map((type, at) => {
    const members = questions.filter(PARTS[type]);
    let start = left;
    return [
      svg("text", { x: left - 8, y: at * step + 17, "text-anchor": "end" }, type),
      [...kinds].map(([name, fillClass]) => {
        const number = members.filter((question) => groupOf(question) === name).length;
        const length = (number / members.length) * (width - left - 40);
        const label = length > 22 && svg("text", { class: "inside", x: start + length / 2, y: at * step + 17, "text-anchor": "middle" }, count(number));
        const bar = svg("rect", { class: fillClass, x: start, y: at * step + 3, width: length, height: step - 6 },
          svg("title", {}, `${type}, ${name}: ${number} of ${members.length}`));
        start += length;
        return [bar, label];
      }),
      svg("text", { class: "soft", x: width, y: at * step + 17, "text-anchor": "end" }, count(members.length)),
    ];
  });
  return figure("How questions ended", key(kinds), width, types.length * step, bars);
}

function callPlot(questions, kinds) {
  const asked = questions.filter((question) => question.counts);
  if (!asked.length) return null;
  const size = Math.max(1, Math.ceil((Math.max(...asked.map((question) => question.counts.calls)) + 1) / 16));
  const binOf = (question) => Math.floor(question.counts.calls / size);
  const bins = Array.from({ length: Math.max(...asked.map(binOf)) + 1 }, (_, bin) => asked.filter((question) => binOf(question) === bin));
  const most = Math.max(...bins.map((bin) => bin.length));
  const [width, height, left, bottom] = [520, 150, 40, 122];
  const step = (width - left) / bins.length;
  const scale = (number) => (number / most) * (bottom - 14);
  const columns = bins.map((bin, at) => {
    let top = bottom;
    const label = size === 1 ? `${at}` : `${at * size}–${(at + 1) * size - 1}`;
    return [
      [...kinds].map(([name, fillClass]) => {
        const number = bin.filter((question) => groupOf(question) === name).length;
        top -= scale(number);
        return number > 0 && svg("rect", { class: fillClass, x: left + at * step + 2, y: top, width: step - 4, height: scale(number) },
          svg("title", {}, `${label} calls, ${name}: ${number}`));
      }),
      svg("text", { class: "soft", x: left + (at + 0.5) * step, y: bottom + 16, "text-anchor": "middle" }, `${at * size}`),
    ];
  });
  return figure("Questions by number of tool calls", key(kinds), width, height, columns,
    svg("line", { class: "grid", x1: left, x2: width, y1: bottom, y2: bottom }),
    svg("text", { class: "soft", x: left - 8, y: 18, "text-anchor": "end" }, count(most)),
    svg("text", { class: "soft", x: left - 8, y: bottom, "text-anchor": "end" }, "0"));
}

/** Figure 6 of the paper, each cause with its published share beside; and the shares of gold cells and human pages. */
function showCauses({ questions, causes, evidence }) {
  const wrong = questions.filter((question) => question.error);
  const named = (cause) => wrong.filter((question) => question.error.cause === cause).length;
  const share = (number) => (wrong.length ? percent(number / wrong.length) : "–");
  byId("causes").append(
    el("thead", {}, row("th", ["Cause", "Questions", "Percent of errors", "Published (Figure 6)", "Meaning"])),
    el("tbody", {}, [...Object.entries(causes), ["cannot be told", ["", "rules cannot tell, and no judge was asked"]]].map(([cause, [published, meaning]]) => {
      const number = named(cause in causes ? cause : null);
      return row("td", [cause.replaceAll("_", " "), count(number), share(number), published, meaning]);
    })));
  byId("evidence").append(
    el("thead", {}, row("th", ["Evidence", "Questions", "Mean"])),
    el("tbody", {}, Object.entries(evidence).map(([name, mean]) =>
      row("td", [name.replaceAll("_", " "), count(mean.questions), name === "citations" ? mean.mean.toFixed(2) : interval(mean)]))));
}

const interval = (mean) => [percent(mean.mean), " ", el("span", { class: "soft" }, `[${percent(mean.low)}, ${percent(mean.high)}]`)];

function showScores(data) {
  const { questions, means } = data;
  const exact = means.filter((mean) => mean.metric === "global_em");
  const kinds = groups(questions);
  const parts = [...new Set(exact.map((mean) => mean.part))];
  const find = (part, scorer, metric = "global_em") =>
    means.find((mean) => mean.part === part && mean.scorer === scorer && mean.metric === metric);

  const [official, robust] = [find("all", "official"), find("all", "robust")];
  const range = (mean) => el("small", {}, `95% interval ${percent(mean.low)} to ${percent(mean.high)}`);
  const asked = questions.filter((question) => question.counts);
  const average = (of) => (sum(asked.map(of)) / asked.length).toFixed(1);
  const spent = asked.flatMap((question) => Object.values(question.spent));
  const tokens = (name) => count(sum(spent.map((part) => part[name])));
  byId("headline").append(...terms([
    ["Exact match, official", `${percent(official.mean)}%`, range(official)],
    ["Exact match, robust", `${percent(robust.mean)}%`, range(robust)],
    ["Answered", `${questions.filter((question) => question.outcome === "answered").length} of ${questions.length}`,
      el("small", {}, `${official.errors} errors, scored 0`)],
    ...(asked.length ? [
      ["Calls a question", average((question) => question.counts.calls),
        el("small", {}, `${average((question) => question.counts.searches)} searches, ${average((question) => question.counts.visits)} visits`)],
      ["Tokens read", tokens("prompt_tokens"), el("small", {}, `${tokens("completion_tokens")} written`)],
      ["Cost", dollars(spent.some((part) => part.usd == null) ? null : sum(spent.map((part) => part.usd))),
        el("small", {}, `${seconds(sum(asked.map((question) => question.seconds)))} of steps`)],
    ] : []),
  ]));
  byId("plots").append(matchPlot(exact), el("div", {}, outcomePlot(questions, kinds), callPlot(questions, kinds) ?? ""));

  const head = ["Part", "Questions", "Official EM", "Robust EM", "Errors", ...kinds.keys()];
  byId("parts").append(
    el("thead", {}, row("th", head)),
    el("tbody", {}, parts.map((part, at) => {
      const members = questions.filter(inPart(part));
      const outcomes = [...kinds.keys()].map((name) => count(members.filter((question) => groupOf(question) === name).length));
      const starts = ["item", "stable", "live"].includes(part) || (part.startsWith("topic") && !parts[at - 1].startsWith("topic"));
      const cells = [part, count(find(part, "official").questions), interval(find(part, "official")), interval(find(part, "robust")), count(find(part, "official").errors), ...outcomes];
      return row("td", cells, starts && part !== "live" ? { class: "gap" } : {});
    })));
  showCauses(data);
  const own = means.filter((mean) => mean.scorer === "official" && mean.metric !== "global_em");
  byId("metrics").append(
    el("thead", {}, row("th", ["Metric", "Questions", "Official", "Robust"])),
    el("tbody", {}, own.map((mean) =>
      row("td", [mean.metric, count(mean.questions), interval(mean), interval(find(mean.part, "robust", mean.metric))]))));
}
