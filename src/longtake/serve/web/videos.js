// The list of videos: what is there, what is being watched, what comes in.

import { json, request, upload } from "./api.js";
import { clock, el, size, wait } from "./format.js";
import { dropAll } from "./history.js";
import { frameAt } from "./player.js";

const byId = (id) => document.getElementById(id);
const SOON = 500;
const LATER = 5000;

const facts = (video) => [
  video.duration ? clock(video.duration, 0) : "picture",
  video.frames ? `${video.frames} ${video.frames === 1 ? "frame" : "frames"}` : null,
  video.captions ? "with captions" : null,
  video.bytes ? `${size(video.bytes)} memory` : null,
].filter(Boolean).join(" \u00b7 ");

export function progressOf(video) {
  if (video.status === "queued") {
    return video.place ? `${video.place} before it` : "about to be watched";
  }
  const share = video.progress === null ? "" : `${Math.floor(100 * video.progress)} %`;
  const left = video.eta_seconds === null ? "" : `, ${wait(video.eta_seconds)} left`;
  return `watching ${share}${left}`;
}

const dismiss = (note) => el("button", { type: "button", class: "plain", onclick: () => note.remove() }, "Dismiss");

export class Videos {
  /** `onpick(video)` when one is opened, `onstate(error)` after each look at the server. */
  constructor({ onpick, onstate }) {
    this.list = [];
    this.picked = null;
    this.onpick = onpick;
    this.onstate = onstate;
    this.rows = new Map();
    this.timer = 0;
    const file = byId("file");
    file.addEventListener("change", () => {
      this.take([...file.files]);
      file.value = "";
    });
    this.droppable();
  }

  droppable() {
    const zone = byId("drop");
    let depth = 0;
    const carries = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragenter", (event) => {
      if (carries(event)) zone.classList.toggle("over", (depth += 1) > 0);
    });
    addEventListener("dragleave", (event) => {
      if (carries(event)) zone.classList.toggle("over", (depth -= 1) > 0);
    });
    addEventListener("dragover", (event) => carries(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!carries(event)) return;
      event.preventDefault();
      depth = 0;
      zone.classList.remove("over");
      this.take([...event.dataTransfer.files]);
    });
  }

  async take(files) {
    for (const file of files) await this.send(file);
  }

  async send(file) {
    const bar = el("progress", { max: "1", value: "0", "aria-label": `Uploading ${file.name}` });
    const text = el("p", {}, `Uploading ${file.name}`);
    const note = el("div", { class: "note" }, text, bar);
    byId("notes").append(note);
    const fields = { max_frames: byId("frames").value, start: byId("start").value, end: byId("end").value };
    try {
      const video = await upload(file, fields, (share) => {
        bar.value = share;
        if (share === 1) text.textContent = `Checking ${file.name}`;
      });
      if (video.sent_as) {
        bar.remove();
        text.textContent = `${video.sent_as} is here already, as ${video.name}: the files are the same.`;
        note.append(dismiss(note));
      } else note.remove();
      await this.look();
      this.pick(video.id, true);
    } catch (error) {
      bar.remove();
      note.classList.add("bad");
      text.textContent = `${file.name}: ${error.message}`;
      note.append(dismiss(note));
    }
  }

  /** Look at the server, again and again: often while something is being watched. */
  async look() {
    clearTimeout(this.timer);
    let soon = false;
    try {
      this.list = (await json("/v1/videos")).data;
      soon = this.list.some((video) => ["queued", "watching"].includes(video.status));
      this.draw();
      this.onstate(null);
    } catch (error) {
      this.onstate(error);
    }
    this.timer = setTimeout(() => this.look(), soon ? SOON : LATER);
  }

  pick(id, focus = false) {
    this.picked = id;
    history.replaceState(null, "", id ? `#${id}` : location.pathname);
    this.draw();
    if (focus) this.rows.get(id)?.querySelector("button")?.focus();
  }

  draw() {
    const seen = new Set(this.list.map((video) => video.id));
    for (const [id, row] of this.rows) {
      if (!seen.has(id)) {
        row.remove();
        this.rows.delete(id);
      }
    }
    this.list.forEach((video, place) => this.row(video, place));
    const found = this.list.find((video) => video.id === this.picked);
    this.onpick(found ?? null);
  }

  /** Rows are made once and changed in place, so that the focus stays where it is. */
  row(video, place) {
    let row = this.rows.get(video.id);
    const state = `${video.status} ${video.id === this.picked}`;
    if (row?.dataset.state !== state) {
      const made = this.made(video);
      const focused = row?.contains(document.activeElement);
      made.dataset.state = state;
      if (row) row.replaceWith(made);
      row = made;
      this.rows.set(video.id, row);
      if (focused) row.querySelector("button").focus();
    }
    const list = byId("videos");
    if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null);
    const busy = ["queued", "watching"].includes(video.status);
    row.querySelector(".what").textContent = busy ? progressOf(video)
      : video.status === "failed" ? video.error.message : facts(video);
    const bar = row.querySelector("progress");
    if (bar && video.progress !== null) bar.value = video.progress;
  }

  made(video) {
    const ready = video.status === "ready";
    const busy = ["queued", "watching"].includes(video.status);
    const picture = ready || video.playable ? el("img", { src: frameAt(video, (video.duration || 0) * 0.1), alt: "" }) : null;
    const thumb = el("span", { class: "thumb" }, picture);
    const open = el("button", {
      type: "button", class: "open", "aria-current": video.id === this.picked ? "true" : null,
      onclick: () => this.pick(video.id),
    }, thumb, el("span", { class: "words" },
      el("span", { class: "name" }, video.name), el("span", { class: "what" })));
    const remove = el("button", {
      type: "button", class: "plain remove", title: busy ? "Stop watching" : "Delete",
      "aria-label": `${busy ? "Stop watching" : "Delete"} ${video.name}`,
      onclick: () => this.remove(video, busy),
    }, "\u00d7");
    const bar = busy ? el("progress", { max: "1", "aria-label": `Watching ${video.name}` }) : null;
    return el("li", { class: video.status }, el("div", { class: "line" }, open, remove), bar);
  }

  async remove(video, busy) {
    if (!busy && !confirm(`Delete ${video.name} and what was learnt of it?`)) return;
    try {
      await request(`/v1/videos/${encodeURIComponent(video.id)}`, { method: "DELETE" });
      dropAll(video.id);
      if (this.picked === video.id) this.pick(null);
    } catch (error) {
      if (error.status !== 404) this.onstate(error);
    }
    await this.look();
  }
}
