// Puts the page together: what is open, how the server is, light or dark, the token.

import { json, renewed, whenTokenIsAsked } from "./api.js";
import { clock, el, size, took } from "./format.js";
import { Player } from "./player.js";
import { Talk } from "./talk.js";
import { Videos, progressOf } from "./videos.js";

const byId = (id) => document.getElementById(id);
const THEMES = ["auto", "light", "dark"];

function theme(next) {
  const now = next ?? localStorage.getItem("longtake.theme") ?? "auto";
  localStorage.setItem("longtake.theme", now);
  if (now === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = now;
  byId("theme").textContent = { auto: "Auto", light: "Light", dark: "Dark" }[now];
  byId("theme").setAttribute("aria-label", `Colours: ${now}. Change`);
  return now;
}

byId("theme").addEventListener("click", () => theme(THEMES[(THEMES.indexOf(theme()) + 1) % 3]));
theme();

whenTokenIsAsked((bad) => new Promise((resolve) => {
  const dialog = byId("token");
  byId("token-bad").hidden = !bad;
  byId("token-word").value = "";
  const form = byId("token-form");
  const given = () => done(byId("token-word").value.trim());
  const closed = () => done("");
  function done(word) {
    form.removeEventListener("submit", given);
    dialog.removeEventListener("close", closed);
    if (dialog.open) dialog.close();
    resolve(word);
  }
  form.addEventListener("submit", given);
  dialog.addEventListener("close", closed);
  dialog.showModal();
}));

/** A picture or film that does not come is asked for once more, with a new session. */
async function again(event) {
  const thing = event.target;
  const src = thing.getAttribute?.("src");
  if (!src || thing.dataset.again === src) return;
  event.stopImmediatePropagation();
  thing.dataset.again = src;
  const fresh = await renewed();
  if (thing.getAttribute("src") !== src) return;
  if (fresh) thing.src = src;
  else thing.dispatchEvent(new Event("error"));
}

/** Where a picture does not come there is nothing, and not the browser's sign of a broken one. */
const missing = ({ target }) => target.tagName === "IMG" && target.classList.add("missing");

function came({ target }) {
  delete target.dataset?.again;
  target.classList?.remove("missing");
}

addEventListener("error", again, true);
addEventListener("error", missing, true);
addEventListener("load", came, true);
addEventListener("loadedmetadata", came, true);

const player = new Player();
const talk = new Talk(player);
let shown = "";

/** Open a video, or close it; called after every look at the server, so it must do nothing twice. */
function pick(video) {
  const state = video ? `${video.id} ${video.status}` : "";
  far(video);
  if (state === shown) return;
  shown = state;
  const ready = video?.status === "ready";
  byId("empty").hidden = ready;
  byId("open").hidden = !ready;
  byId("talk").hidden = !ready;
  byId("desk").classList.toggle("opened", ready);
  document.title = ready ? `${video.name} - longtake` : "longtake";
  if (!ready) {
    player.close();
    talk.close();
    explain(video);
    return;
  }
  byId("video-title").textContent = video.name;
  player.show(video);
  talk.open(video);
  facts(video);
}

/** How far a video is that is being watched. */
function far(video) {
  const busy = ["queued", "watching"].includes(video?.status);
  byId("far").hidden = !busy;
  byId("far-text").hidden = !busy;
  if (!busy) return;
  if (video.progress === null) byId("far").removeAttribute("value");
  else byId("far").value = video.progress;
  byId("far-text").textContent = progressOf(video);
}

/** What the stage says while nothing can be played. */
function explain(video) {
  const [title, text] = !video
    ? ["Nothing is open yet", "Drop a video, or pick one that was watched before. It is watched once; then ask as much as you like, and see which moments each answer rests on."]
    : video.status === "failed"
      ? ["It could not be watched", video.error.message]
      : ["Being watched", `${video.name} opens here as soon as it has been watched.`];
  byId("empty").querySelector("h2").textContent = title;
  byId("empty").querySelector("p").textContent = text;
}

function facts(video) {
  const rows = [
    ["Length", video.duration ? clock(video.duration) : "picture"],
    ["Frames seen", String(video.frames)],
    ["Tokens", video.tokens.toLocaleString("en")],
    ["Memory", size(video.bytes)],
    ["Watched in", video.watch_seconds === null ? null : took(video.watch_seconds)],
  ].filter(([, value]) => value !== null);
  byId("facts").replaceChildren(...rows.flatMap(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  for (const warning of video.warnings) {
    byId("facts").append(el("p", { class: "bad" }, warning));
  }
}

function state(error) {
  const link = byId("link");
  link.className = error ? "link off" : "link on";
  link.textContent = error ? "no connection" : "connected";
  const banner = byId("banner");
  banner.hidden = !error;
  if (!error) return;
  banner.textContent = error.status === 0 ? "The server does not answer. Trying again every few seconds."
    : error.status === 401 ? "This server needs a token. Reload the page to give it."
      : `The server has a problem: ${error.message}`;
}

const videos = new Videos({ onpick: pick, onstate: state });

async function begin() {
  videos.picked = location.hash.slice(1) || null;
  await renewed();
  try {
    const server = await json("/v1/server");
    byId("model").textContent = server.model;
    talk.model = server.model;
    byId("bounds").textContent = `up to ${size(server.limits.upload_bytes)}, ${clock(server.limits.video_seconds, 0)} long`;
    byId("frames").max = server.limits.frames;
    byId("frames").placeholder = `${server.frames} unless said`;
  } catch (error) {
    state(error);
  }
  await videos.look();
}

begin();
