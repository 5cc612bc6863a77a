// The page: its controls, and who is asked when. Everything shown is text (textContent), never markup.

import { ask } from "./answer.js";
import { copyText } from "./clipboard.js";
import { Composer } from "./composer.js";
import { askToken, wireDialogs } from "./dialogs.js";
import { Models } from "./models.js";
import { withToken } from "./server.js";
import { Settings } from "./settings.js";
import { Speech } from "./speech.js";
import { local } from "./store.js";
import { Thread } from "./thread.js";
import { Tooltip } from "./token_text.js";
import { Welcome } from "./welcome.js";

const find = (id) => document.getElementById(id);
const main = find("main");
const running = new Set(); // abort controllers
const tooltip = new Tooltip(find("odds"), find("spoken"));
const speech = new Speech(find("log"));
const templates = { turn: find("turn-template"), answer: find("answer-template") };
const authorize = (action) => withToken(action, askToken);
const models = new Models([find("model-0"), find("model-1")], find("no-models"), authorize, refresh);
const settings = new Settings(find("settings-form"), showDifferences);
const composer = new Composer(find("composer"), send, stop);
const threads = Object.fromEntries(
  ["chat", "text"].map((name) => [name, new Thread(name, find(`${name}-turns`), templates, tooltip, act)]),
);
const welcome = new Welcome(find("welcome"), send, () => restore());

let mode = local.read("mode") === "text" ? "text" : "chat";
let comparing = local.read("comparing") === true;

function thread() {
  return threads[mode];
}

function columns() {
  return comparing ? [0, 1] : [0];
}

/** Ask what was typed. True if it went into the thread: until then it stays where it was typed. */
async function send(text) {
  if (running.size || !text.trim() || !sendable()) return false;
  const here = thread();
  if (!(await models.ready()) || running.size) return false;
  const turn = here.add(text);
  answer(here, turn, columns());
  main.scrollTop = main.scrollHeight;
  composer.focus();
  return true;
}

function sendable() {
  const fault = settings.check();
  if (fault) {
    openSettings();
    fault.focus();
  }
  return !fault;
}

/** Have a turn answered in each of `wanted` columns, all at once. */
async function answer(here, turn, wanted) {
  const controller = new AbortController();
  running.add(controller);
  const system = settings.value("system").trim();
  const body = settings.body();
  const views = wanted.map((column) => here.begin(turn, column, models.picked(column)));
  here.keep();
  refresh();
  await Promise.all(
    wanted.map(async (column, place) => {
      const view = views[place];
      const question = here.question(turn, column, system);
      await ask(view, {
        body: { ...body, ...question, model: view.record.model },
        chat: here.chat,
        signal: controller.signal,
        authorize,
        progress: () => {
          keepUp();
          speech.progress(view.record);
        },
      });
      keepUp();
      speech.finish(view.record);
      here.keep();
      if (view.record.problem?.status === 404) models.load();
    }),
  );
  running.delete(controller);
  refresh();
}

let atEnd = true;
main.addEventListener("scroll", () => (atEnd = main.scrollHeight - main.scrollTop - main.clientHeight < 40));

/** Stay at the thread's end while it grows, if the reader is there. */
function keepUp() {
  if (atEnd) main.scrollTop = main.scrollHeight;
}

function stop() {
  for (const controller of running) controller.abort();
}

/** A button of an answer. */
function act(name, here, turn, argument) {
  const record = turn.views[argument]?.record;
  if (name === "copy-said") return copyText(turn.part("copy-said"), turn.text);
  if (name === "copy") return copyText(turn.views[argument].part("copy"), record.before + record.text);
  if (running.size || !sendable()) return false;
  if (name === "again") answer(here, turn, [argument]);
  if (name === "continue") answer(here, here.add(record.before + record.text), columns());
  if (name === "as-text") {
    setMode("text");
    send(turn.text);
  }
  if (name === "resend") {
    here.rewrite(turn, argument);
    answer(here, turn, columns());
  }
  composer.focusStop(); // the button that was used may be gone
  return true;
}

function restore() {
  thread().restore();
  refresh();
}

function setMode(name) {
  mode = name;
  local.write("mode", mode);
  composer.setMode(mode);
  refresh();
  main.scrollTop = main.scrollHeight;
}

/** Bring everything that depends on the state up to it. */
function refresh() {
  document.body.dataset.mode = mode;
  document.body.classList.toggle("comparing", comparing);
  document.body.classList.toggle("busy", running.size > 0);
  for (const name of ["chat", "text"]) {
    find(`mode-${name}`).checked = mode === name;
    threads[name].box.hidden = mode !== name;
  }
  find("compare").setAttribute("aria-pressed", String(comparing));
  find("second").hidden = !comparing;
  find("new").disabled = thread().turns.length === 0;
  composer.setBusy(running.size > 0);
  tooltip.place();
  welcome.show(mode, thread(), models, columns());
}

function showDifferences() {
  const count = settings.differences().length;
  find("settings-count").textContent = count ? ` (${count} changed)` : "";
}

function openSettings() {
  if (find("settings").open) return;
  if (matchMedia("(min-width: 64rem)").matches) find("settings").show();
  else find("settings").showModal();
  refreshSettings();
}

function refreshSettings() {
  find("settings-open").setAttribute("aria-expanded", String(find("settings").open));
}

for (const name of ["chat", "text"]) find(`mode-${name}`).addEventListener("change", () => setMode(name));
find("compare").addEventListener("click", () => {
  comparing = !comparing;
  local.write("comparing", comparing);
  refresh();
});
find("new").addEventListener("click", () => {
  stop();
  thread().clear();
  refresh();
  composer.focus();
});
find("settings-open").addEventListener("click", () => {
  if (find("settings").open) find("settings").close();
  else openSettings();
});
find("settings").addEventListener("close", () => {
  refreshSettings();
  find("settings-open").focus();
});
find("settings-reset").addEventListener("click", () => settings.reset());
find("shade").checked = local.read("shade", true);
const setShade = () => document.body.classList.toggle("shaded", find("shade").checked);
find("shade").addEventListener("change", () => {
  setShade();
  local.write("shade", find("shade").checked);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
  if (document.querySelector("dialog:modal")) return;
  if (running.size) stop();
  else if (tooltip.span) tooltip.hide();
  else if (find("settings").open) find("settings").close();
});
window.addEventListener("pagehide", () => {
  for (const one of Object.values(threads)) one.keep();
  composer.keep();
});

wireDialogs();
setShade();
showDifferences();
setMode(mode);
models.load();
composer.focus();
