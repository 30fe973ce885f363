// The page of a server: what is asked of its API, and shown. All that comes from rows is set as text.
"use strict";

const one = (selector, within = document) => within.querySelector(selector);
const sections = ["search", "chat", "results", "systems"];

function make(tag, content = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = content;
  if (name) made.className = name;
  return made;
}

function explain(message) {
  one("#problem").textContent = message;
  one("#problem").hidden = !message;
}

// ---------------------------------------------------------------- asking

async function ask(path, content) {
  const headers = { "Content-Type": "application/json" };
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  const body = content && JSON.stringify(content);
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body });
  } catch {
    throw new Error("the server does not answer; is it still running?");
  }
  if (answer.status === 401) one("#token").hidden = false;
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  return answer;
}

function guarded(work) {
  return async (event) => {
    event.preventDefault();
    explain("");
    try {
      await work(event.currentTarget ?? event.target);
    } catch (error) {
      explain(error.message);
    }
  };
}

// ---------------------------------------------------------------- files

function addressOf(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

async function partOf(file) {
  const address = await addressOf(file);
  if (!file.type.startsWith("audio/")) return { type: "image_url", image_url: { url: address } };
  const format = file.name.split(".").pop().toLowerCase();
  return { type: "input_audio", input_audio: { data: address.split(",")[1], format } };
}

function showChosen(form) {
  const [input, chosen] = [form.elements.file, one(".chosen", form)];
  input.onchange = async () => {
    const file = input.files[0];
    chosen.hidden = !file;
    if (!file) return;
    const isPicture = file.type.startsWith("image/");
    one("img", chosen).hidden = !isPicture;
    one("img", chosen).src = isPicture ? await addressOf(file) : "data:,";
    one("span", chosen).textContent = file.name;
  };
  one("button", chosen).onclick = () => {
    input.value = "";
    chosen.hidden = true;
  };
}

async function partsOf(form) {
  const parts = [];
  if (form.elements.file.files[0]) parts.push(await partOf(form.elements.file.files[0]));
  const text = form.elements.text.value.trim();
  if (text) parts.push({ type: "text", text });
  if (!parts.length) throw new Error("nothing is asked: give words, a picture or a recording");
  return parts;
}

// ---------------------------------------------------------------- search

function card(row) {
  const made = make("li");
  if (row.picture) {
    const picture = make("img");
    picture.src = row.picture;
    picture.alt = "";
    made.append(picture);
  }
  const values = Object.entries(row.values);
  if (!values.length && row.text) made.append(make("p", row.text));
  const list = make("dl");
  for (const [name, value] of values) {
    const pair = make("div");
    pair.append(make("dt", name), make("dd", String(value)));
    list.append(pair);
  }
  const foot = make("footer");
  const why = [row.score.toFixed(3), row.field ?? "words"].join(" · ");
  foot.append(make("b", String(row.place)), make("span", row.key, "key"), make("span", why));
  made.append(list, foot);
  return made;
}

async function search(form) {
  const fields = form.elements;
  const asked = { input: await partsOf(form), mode: fields.mode.value, limit: 24, pictures: true };
  asked.index = fields.index.value;
  if (fields.where.value.trim()) asked.where = fields.where.value;
  const begin = performance.now();
  const found = await (await ask("v1/search", asked)).json();
  const took = Math.round(performance.now() - begin);
  one("#search .found").replaceChildren(...found.data.map(card));
  const number = found.data.length;
  const said = number ? `The ${number} best rows, in ${took} ms.` : "Nothing was found.";
  one("#search .note").textContent = [said, ...found.warnings].join(" ");
}

// ---------------------------------------------------------------- chat

let turns = [];

function said(role, parts) {
  const made = make("li", "", role);
  for (const part of parts) {
    if (part.type === "image_url") {
      const picture = make("img");
      picture.src = part.image_url.url;
      picture.alt = "";
      made.append(picture);
    } else {
      made.append(document.createTextNode(part.text ?? "(a recording)"));
    }
  }
  one("#chat .talk").append(made);
  return made;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const pieces = (rest + value).split("\n\n");
    rest = pieces.pop();
    for (const piece of pieces) {
      if (piece === "data: [DONE]") return;
      yield JSON.parse(piece.slice("data: ".length));
    }
  }
}

async function say(form) {
  const parts = await partsOf(form);
  const asked = [...turns, { role: "user", content: parts }];
  const button = one("button:not([type])", form);
  button.disabled = true;
  const shown = said("user", parts);
  try {
    const content = { model: form.elements.model.value, messages: asked, stream: true };
    const answer = await ask("v1/chat/completions", content);
    const line = said("assistant", []);
    for await (const event of events(answer)) {
      line.textContent += event.choices[0]?.delta.content ?? "";
    }
    // an assistant that says nothing would be one whose turn is missing
    turns = [...asked, { role: "assistant", content: line.textContent || "..." }];
    form.elements.text.value = form.elements.file.value = "";
    one(".chosen", form).hidden = true;
  } catch (error) {
    shown.remove();
    throw error;
  } finally {
    button.disabled = false;
  }
}

function beginAnew() {
  turns = [];
  one("#chat .talk").replaceChildren();
}

// ---------------------------------------------------------------- what there is

function fill(select, names) {
  select.replaceChildren(...names.map((name) => new Option(name, name)));
}

function tab(name, is) {
  one(`.tabs a[href="#${name}"]`).hidden = !is;
  return is ? [name] : [];
}

async function showReport(name) {
  const answer = await ask(`reports/${encodeURIComponent(name)}`);
  one("#results .report").innerHTML = await answer.text(); // written by the server, and escaped there
}

function turn() {
  const wanted = location.hash.slice(1);
  const links = [...document.querySelectorAll(".tabs a")].filter((link) => !link.hidden);
  const names = links.map((link) => link.hash.slice(1));
  const current = names.includes(wanted) ? wanted : names[0];
  for (const name of sections) one(`#${name}`).hidden = name !== current;
  for (const link of links) {
    if (link.hash === `#${current}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function begin() {
  const served = (await (await ask("v1/models")).json()).data;
  const reports = (await (await ask("reports")).json()).data;
  const can = (what) => served.filter((each) => each.can.includes(what)).map((each) => each.id);
  one("#token").hidden = true;
  fill(one("#search select[name=index]"), can("search"));
  fill(one("#chat select[name=model]"), can("chat"));
  const choice = one("#results select");
  fill(choice, reports);
  tab("search", can("search").length > 0);
  tab("chat", can("chat").length > 0);
  tab("results", reports.length > 0);
  turn();
  if (reports.length) await showReport(choice.value);
}

one("#search form").onsubmit = guarded(search);
one("#chat form").onsubmit = guarded(say);
one("#chat [name=anew]").onclick = beginAnew;
one("#chat select").onchange = beginAnew;
one("#results form").onsubmit = (event) => event.preventDefault();
one("#results select").onchange = guarded((select) => showReport(select.value));
one("#token").onsubmit = guarded(async (form) => {
  sessionStorage.setItem("token", form.elements.token.value);
  await begin();
});
document.querySelectorAll("form:has(.chosen)").forEach(showChosen);
addEventListener("hashchange", turn);
turn();
begin().catch((error) => explain(error.message));
