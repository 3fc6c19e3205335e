// Makes the shop livelier. Everything works without this, a page at a time.

const quantity = document.getElementById("quantity");
const toast = document.getElementById("toast");

// One thing at a time: the first product begins the session, and a second
// click that did not wait for its cookie would begin another one.
let queue = Promise.resolve();
const inTurn = (task) => (queue = queue.then(task, task));

function show(text) {
  toast.textContent = text;
  toast.classList.add("shown");
  clearTimeout(show.timer);
  show.timer = setTimeout(() => toast.classList.remove("shown"), 4000);
}

// Adds to the cart without leaving the page.

async function add(form) {
  const response = await fetch(form.action, {
    method: "POST",
    headers: { Accept: "application/json" },
    body: new URLSearchParams(new FormData(form)),
  }).catch(() => null);
  if (!response?.ok) {
    show("That did not work. Load the page again, and try once more.");
    return;
  }
  const answer = await response.json();
  quantity.textContent = answer.quantity;
  show(answer.text);
  sessionIsThere();
}

for (const form of document.querySelectorAll("form[data-add]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    inTurn(() => add(form));
  });
}

for (const form of document.querySelectorAll("form[data-change]")) {
  form.addEventListener("change", () => form.requestSubmit());
}

// Shows what other tabs do. The server says when there is news, and the page
// asks what it is.

async function ask() {
  const response = await fetch("/news", { cache: "no-store" }).catch(() => null);
  if (!response?.ok) return;
  const news = await response.json();
  quantity.textContent = news.quantity;
  if ((news.user ?? "") !== document.body.dataset.user) {
    location.replace(location.pathname + location.search);
  }
}

const NO_SESSION = 4000;
let socket = null;
let pause = 500;

function listen() {
  socket ??= new WebSocket(location.origin.replace(/^http/, "ws") + "/tab");
  socket.onmessage = () => {
    pause = 500;
    inTurn(ask);
  };
  socket.onclose = (event) => {
    socket = null;
    if (event.code === NO_SESSION) inTurn(ask);
    else setTimeout(listen, (pause = Math.min(2 * pause, 30000)));
  };
}

// A tab that was opened before there was a session has no line yet.
const tabs = new BroadcastChannel("session");
tabs.onmessage = listen;

function sessionIsThere() {
  if (socket) return;
  listen();
  tabs.postMessage("there");
}

if (document.body.dataset.session === "some") sessionIsThere();

// Warns before the session ends because nobody was there. To ask is not to use it.

const WARNING = 120;
const warning = document.getElementById("warning");
let warnAt = null;

async function watch(options) {
  clearTimeout(watch.timer);
  const response = await fetch("/status", options).catch(() => null);
  const status = response?.ok ? await response.json() : null;
  if (status && !status.signed_in) {
    inTurn(ask);
    return;
  }
  const left = status?.seconds_left ?? 0;
  // A whole session may be shorter than the usual time for a warning.
  if (status) warnAt ??= Math.min(WARNING, left / 2);
  warning.hidden = !status || left > warnAt;
  const minutes = Math.ceil(left / 60);
  warning.querySelector("span").textContent =
    minutes > 1 ? `${minutes} minutes` : "less than a minute";
  warning.querySelector("form").hidden = !status?.extendable;
  // Another tab may extend it, so a warning is looked after as well.
  const wait = left > warnAt ? Math.min(left - warnAt, 3600) : Math.min(left || 10, 10);
  watch.timer = setTimeout(watch, Math.max(wait, 1) * 1000);
}

if (warning) {
  const form = warning.querySelector("form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    watch({ method: "POST", body: new URLSearchParams(new FormData(form)) });
  });
  watch();
}

// A page that one has gone back to is an old one.
addEventListener("pageshow", (event) => {
  const [navigation] = performance.getEntriesByType("navigation");
  if (event.persisted || navigation.type === "back_forward") listen();
});
