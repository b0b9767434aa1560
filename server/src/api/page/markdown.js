// Markdown as DOM nodes. Text only ever becomes text nodes: what looks like HTML shows as it is
// written, links lead to web pages and mail alone, and images become links.

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const QUOTE = /^ {0,3}> ?/;
const DASHES = /^\|? *:?-+:? *(?:\| *:?-+:? *)*\|?$/;
const URL = /^(?:https?:\/\/|mailto:)[^\s<>]+$/i;
/** Lists and quotes within each other, and marks within each other. */
const DEPTH = 8;

/** Makes `target` show `text`; blocks that did not change keep their nodes. */
export function show(target, text, depth = 0) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n").map(spaces);
  blocks(lines, depth).forEach((block, index, all) => {
    const source = block.kind + "\n" + block.lines.join("\n");
    const old = target.children[index];
    if (old?.source !== source) {
      if (block.kind === "code" && old?.language === block.language) {
        old.lastChild.firstChild.textContent = block.text;
        old.source = source;
      } else {
        const node = build(block, depth);
        node.source = source;
        old ? old.replaceWith(node) : target.append(node);
      }
    }
    if (index === all.length - 1) while (target.children[index + 1]) target.lastChild.remove();
  });
}

/** Tabs that indent a line become spaces. */
const spaces = line => line.replace(/^[ \t]+/, indent => indent.replace(/\t/g, "    "));

const element = (name, content = [], className = "") => {
  const node = document.createElement(name);
  node.append(...[content].flat());
  if (className) node.className = className;
  return node;
};

/** Cuts lines into blocks. */
function blocks(lines, depth) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) { at++; continue; }
    const block = blockAt(lines, at, depth);
    block.lines = lines.slice(at, at + block.length);
    found.push(block);
    at += block.length;
  }
  return found;
}

/** The block that begins at a line: its kind and how many lines it has. */
function blockAt(lines, at, depth) {
  const fence = FENCE.exec(lines[at]);
  if (fence) return code(lines, at, fence);
  if (HEADING.test(lines[at])) return { kind: "heading", length: 1 };
  if (RULE.test(lines[at])) return { kind: "rule", length: 1 };
  if (isTable(lines, at)) return { kind: "table", length: run(lines, at + 2, line => line.includes("|")) - at };
  if (depth < DEPTH && QUOTE.test(lines[at])) {
    return { kind: "quote", length: run(lines, at + 1, line => QUOTE.test(line)) - at };
  }
  if (depth < DEPTH && ITEM.test(lines[at])) return { kind: "list", length: listEnd(lines, at) - at };
  const ends = (line, index) => FENCE.test(line) || HEADING.test(line) || RULE.test(line)
    || (depth < DEPTH && (QUOTE.test(line) || interrupts(line))) || isTable(lines, index);
  return { kind: "paragraph", length: run(lines, at + 1, (line, index) => line.trim() && !ends(line, index)) - at };
}

/** The first line from `at` on that is not such a one. */
function run(lines, at, such) {
  while (at < lines.length && such(lines[at], at)) at++;
  return Math.min(at, lines.length);
}

const isTable = (lines, at) =>
  lines[at].includes("|") && at + 1 < lines.length && lines[at + 1].includes("|") && DASHES.test(lines[at + 1].trim());

/** Items that end a paragraph before them; "1995. " in a text does not. */
const interrupts = line => {
  const item = ITEM.exec(line);
  return item && item[3] && (item[2].length === 1 || item[2].slice(0, -1) === "1");
};

function code(lines, at, fence) {
  const [, mark, info] = fence;
  const closes = line => {
    const text = line.trim();
    return text.length >= mark.length && text === mark[0].repeat(text.length);
  };
  const end = run(lines, at + 1, line => !closes(line));
  const text = lines.slice(at + 1, end).join("\n");
  return { kind: "code", length: Math.min(end + 1, lines.length) - at, language: info.trim().split(/\s/)[0], text };
}

/** Whether an item of a list has a number. */
const isOrdered = item => item[2].length > 1;

/** A list goes on with items of its kind, with what is indented, and with text right below. */
function listEnd(lines, at) {
  const first = ITEM.exec(lines[at]);
  let blank = false;
  return run(lines, at + 1, (line, index) => {
    const item = ITEM.exec(line);
    if (item && item[1].length < first[1].length + 2 && isOrdered(item) !== isOrdered(first)) return false;
    if (!line.trim()) {
      const next = lines.slice(index, index + 3).find(line => line.trim());
      blank = true;
      return next !== undefined && (ITEM.test(next) || next.startsWith("  "));
    }
    const goesOn = item || line.startsWith("  ")
      || !(blank || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line));
    blank = false;
    return goesOn;
  });
}

function build(block, depth) {
  const { lines } = block;
  switch (block.kind) {
    case "code": return codeBlock(block);
    case "heading": {
      const [, marks, text] = HEADING.exec(lines[0]);
      return element("h" + Math.min(marks.length + 2, 6), inline(text.replace(/ #+ *$/, "").trim()));
    }
    case "rule": return element("hr");
    case "quote": {
      const quote = element("blockquote");
      show(quote, lines.map(line => line.replace(QUOTE, "")).join("\n"), depth + 1);
      return quote;
    }
    case "list": return list(lines, depth);
    case "table": return table(lines);
    default: return element("p", inline(lines.map(line => line.trim()).join("\n")));
  }
}

function codeBlock({ language, text }) {
  const copy = element("button", "Copy", "copy quiet");
  copy.type = "button";
  const block = element("div", [
    element("div", [element("span", language), copy], "code-head"),
    element("pre", element("code", text)),
  ], "code");
  block.language = language;
  return block;
}

function list(lines, depth) {
  const first = ITEM.exec(lines[0]);
  const node = element(isOrdered(first) ? "ol" : "ul");
  if (isOrdered(first)) node.start = Number.parseInt(first[2], 10);
  const items = [];
  let offset = 0;
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && (!items.length || item[1].length < Math.min(offset, first[1].length + 2))) {
      offset = item[1].length + item[2].length + Math.min(item[3].length || 1, 4);
      items.push([line.slice(offset)]);
    } else {
      items.at(-1).push(line.slice(Math.min(offset, line.length - line.trimStart().length)));
    }
  }
  for (const item of items) {
    const entry = element("li");
    show(entry, item.join("\n"), depth + 1);
    const head = entry.firstChild;
    if (head?.tagName === "P") head.replaceWith(...head.childNodes); // no gap behind the marker
    node.append(entry);
  }
  return node;
}

function table([head, dashes, ...rows]) {
  const cells = line => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map(cell => cell.trim().replaceAll("\\|", "|"));
  const sides = cells(dashes).map(cell => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : ""));
  const row = (line, name) => element("tr", cells(line).slice(0, sides.length).map((text, index) => {
    const cell = element(name, inline(text));
    cell.style.textAlign = sides[index] ?? "";
    return cell;
  }));
  const whole = element("table", [
    element("thead", row(head, "th")),
    element("tbody", rows.map(line => row(line, "td"))),
  ]);
  return element("div", whole, "table");
}

/** Text with its marks as nodes. */
function inline(text, depth = 0) {
  const nodes = [];
  const missing = new Set(); // marks that nothing closes any more
  let plain = "";
  let at = 0;
  const push = (node, next) => {
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(node);
    at = next;
  };
  while (at < text.length) {
    const found = depth < DEPTH && mark(text, at, missing, depth);
    if (found) push(...found);
    else if (text[at] === "\n") push(element("br"), at + 1);
    else if (text[at] === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) { plain += text[at + 1]; at += 2; }
    else plain += text[at++];
  }
  if (plain) nodes.push(plain);
  return nodes;
}

/** The node of the mark that begins here and where it ends, if one does. */
function mark(text, at, missing, depth) {
  const c = text[at];
  if (c === "`") return codeSpan(text, at, missing);
  if (c === "*" || c === "_" || c === "~") return emphasis(text, at, missing, depth);
  if (c === "[" || (c === "!" && text[at + 1] === "[")) return link(text, at, missing, depth);
  if (c === "<" || text.startsWith("http", at)) return bareLink(text, at);
  return null;
}

function codeSpan(text, at, missing) {
  let end = at;
  while (text[end] === "`") end++;
  const ticks = text.slice(at, end);
  if (missing.has(ticks)) return [ticks, end];
  for (let close = text.indexOf(ticks, end); close >= 0; close = text.indexOf(ticks, close)) {
    let after = close;
    while (text[after] === "`") after++;
    if (after - close === ticks.length) {
      const code = text.slice(end, close).replaceAll("\n", " ");
      return [element("code", code.trim() ? code.replace(/^ (.*) $/, "$1") : code), after];
    }
    close = after;
  }
  missing.add(ticks);
  return [ticks, end];
}

const isWord = c => c !== undefined && /[\p{L}\p{N}_]/u.test(c);
const isSpace = c => c === undefined || /\s/.test(c);

function emphasis(text, at, missing, depth) {
  const c = text[at];
  const ticks = text[at + 1] === c ? c + c : c;
  const begin = at + ticks.length;
  if (ticks === "~" || missing.has(ticks) || isSpace(text[begin]) || (c === "_" && isWord(text[at - 1]))) return null;
  for (let close = text.indexOf(ticks, begin + 1); close >= 0; close = text.indexOf(ticks, close + 1)) {
    const after = close + ticks.length;
    const fits = !isSpace(text[close - 1]) && !(c === "_" && isWord(text[after]))
      && !(ticks.length === 1 && (text[after] === c || text[close - 1] === c));
    if (!fits) continue;
    const name = c === "~" ? "del" : ticks.length === 2 ? "strong" : "em";
    // of three marks that close the outer one stands last
    const end = ticks.length === 2 && text[after] === c ? after + 1 : after;
    return [element(name, inline(text.slice(begin, end - ticks.length), depth + 1)), end];
  }
  missing.add(ticks);
  return null;
}

const anchor = (content, href) => {
  const node = element("a", content);
  node.href = href;
  node.target = "_blank";
  node.rel = "noopener noreferrer nofollow";
  return node;
};

function link(text, at, missing, depth) {
  const begin = text.indexOf("[", at) + 1;
  if (missing.has("](")) return null;
  const middle = text.indexOf("](", begin);
  if (middle < 0) missing.add("](");
  const inner = text.slice(begin, middle);
  if (middle < 0 || inner.length > 1024 || inner.includes("[")) return null;
  const end = closingBracket(text, middle + 2);
  if (end < 0) return null;
  const [href] = text.slice(middle + 2, end).trim().split(/\s/);
  if (!URL.test(href)) return null;
  return [anchor(inner ? inline(inner, depth + 1) : href, href), end + 1];
}

/** Addresses may hold brackets in pairs. */
function closingBracket(text, at) {
  let open = 1;
  for (let end = at; end < Math.min(text.length, at + 2048); end++) {
    if (text[end] === "(") open++;
    if (text[end] === ")" && --open === 0) return end;
  }
  return -1;
}

function bareLink(text, at) {
  const angle = text[at] === "<";
  const rest = text.slice(at, at + 2048);
  const found = angle ? /^<((?:https?:\/\/|mailto:)[^\s<>]+)>/i.exec(rest)
    : !isWord(text[at - 1]) && /^(https?:\/\/[^\s<>"`*]+)/.exec(rest);
  if (!found) return null;
  const href = angle ? found[1] : found[1].replace(/[.,;:!?)\]'"]+$/, "");
  return [anchor(href, href), at + (angle ? found[0].length : href.length)];
}
