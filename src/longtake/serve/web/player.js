// The player and its timeline: a strip of frames, how much each moment weighs, and where to look.

import { clock, el, percent } from "./format.js";

const MOST_FRAMES = 24;
const TRACK_HEIGHT = 60;
const byId = (id) => document.getElementById(id);

/** Where a frame of a video can be had as a picture. */
export function frameAt(video, seconds, width = 160) {
  return `/v1/videos/${encodeURIComponent(video.id)}/frame?at=${seconds.toFixed(2)}&width=${width}`;
}

export class Player {
  constructor() {
    this.video = null;
    this.time = 0;
    this.film = byId("player");
    this.still = byId("still");
    this.box = byId("timeline");
    const unseen = byId("unseen");
    this.still.addEventListener("error", () => (unseen.hidden = false));
    this.still.addEventListener("load", () => (unseen.hidden = true));
    this.film.addEventListener("timeupdate", () => this.film.hidden || this.moved(this.film.currentTime));
    this.film.addEventListener("error", () => this.video && this.showFrames());
    this.film.addEventListener("loadedmetadata", () => {
      if (!this.film.videoWidth) this.showFrames(); // sound alone: the picture's codec is unknown
      else if (this.time) this.film.currentTime = this.time;
    });
  }

  /** Show a video that was watched. */
  show(video) {
    this.video = video;
    this.time = 0;
    const frames = video.still || !video.playable;
    this.film.hidden = frames;
    this.still.hidden = !frames;
    byId("cannot").hidden = true;
    byId("unseen").hidden = true;
    this.film.removeAttribute("src");
    const content = `/v1/videos/${encodeURIComponent(video.id)}/content`;
    if (frames) {
      this.still.src = frameAt(video, 0, 960);
      this.still.alt = video.name;
    } else {
      this.film.poster = frameAt(video, 0, 960);
      this.film.src = content;
    }
    this.film.load();
    this.draw();
  }

  close() {
    this.video = null;
    this.film.removeAttribute("src");
    this.film.load();
    this.box.replaceChildren();
  }

  /** The browser cannot play it: frames decoded by the server stand in. */
  showFrames() {
    if (this.video === null || this.film.hidden) return;
    this.film.hidden = true;
    this.still.hidden = false;
    byId("cannot").hidden = false;
    this.seek(this.time);
  }

  seek(seconds) {
    const last = this.video.duration;
    const to = Math.min(Math.max(0, seconds), last);
    if (this.film.hidden && !this.video.still) {
      this.still.src = frameAt(this.video, to, 960);
      this.still.alt = `${this.video.name} at ${clock(to)}`;
    } else if (this.film.readyState > 0) {
      this.film.currentTime = to;
    } else {
      this.time = to; // once the file has begun to load
    }
    this.moved(to);
  }

  moved(seconds) {
    this.time = seconds;
    const share = this.video?.duration ? seconds / this.video.duration : 0;
    this.head?.style.setProperty("left", `${100 * Math.min(1, share)}%`);
    this.track?.setAttribute("aria-valuenow", seconds.toFixed(1));
    this.track?.setAttribute("aria-valuetext", clock(seconds));
  }

  /** Strip, ticks and an empty lane for marks. */
  draw() {
    const { video } = this;
    if (!video.duration) {
      this.box.replaceChildren();
      return;
    }
    // as many square frames as fit the track, so that none is squeezed
    const { width } = byId("open").getBoundingClientRect(); // the timeline itself has none yet
    const count = Math.min(MOST_FRAMES, Math.max(4, Math.round(width / TRACK_HEIGHT)));
    const src = `/v1/videos/${encodeURIComponent(video.id)}/strip?count=${count}&height=${2 * TRACK_HEIGHT}`;
    const strip = video.playable ? el("img", { class: "strip", src, alt: "", draggable: "false" }) : null;
    this.head = el("div", { class: "head", "aria-hidden": "true" });
    this.curve = el("div", { class: "curve", "aria-hidden": "true" });
    this.marks = el("div", { class: "marks" });
    this.track = el("div", {
      class: "track", role: "slider", tabindex: "0", "aria-label": "Time in the video",
      "aria-valuemin": "0", "aria-valuemax": video.duration.toFixed(1),
      onkeydown: (event) => this.key(event),
      onpointerdown: (event) => this.press(event),
      onpointermove: (event) => event.buttons === 1 && this.press(event),
    }, [strip, this.curve, this.head]);
    const ticks = el("div", { class: "ticks", "aria-hidden": "true" },
      [0, 0.25, 0.5, 0.75, 1].map((share) => el("span", {}, clock(share * video.duration, video.duration < 20 ? 1 : 0))));
    this.box.replaceChildren(this.track, this.marks, ticks);
    this.moved(0);
  }

  press(event) {
    const box = this.track.getBoundingClientRect();
    this.seek(((event.clientX - box.left) / box.width) * this.video.duration);
  }

  key(event) {
    const step = event.shiftKey ? 10 : Math.max(0.2, Math.min(5, this.video.duration / 100));
    const to = {
      ArrowLeft: this.time - step, ArrowDown: this.time - step,
      ArrowRight: this.time + step, ArrowUp: this.time + step,
      Home: 0, End: this.video.duration,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.seek(to);
  }

  /** Mark what an answer rests on. `spans`: heaviest first; `timeline`: weights over time, or nothing. */
  mark(spans, timeline) {
    if (!this.video?.duration) return;
    const whole = this.video.duration;
    const most = Math.max(...spans.map((span) => span.weight), 1e-9);
    this.marks.replaceChildren(...spans.map((span) => {
      const mark = el("button", {
        type: "button", class: "mark",
        title: `${clock(span.start)} to ${clock(span.end)}, ${percent(span.weight)}`,
        "aria-label": `Go to ${clock(span.start)}, ${percent(span.weight)} of the attention`,
        onclick: () => this.seek(span.start),
      });
      mark.style.left = `${(50 * (span.start + Math.max(span.start, span.end))) / whole}%`;
      mark.style.width = `${(100 * Math.max(0, span.end - span.start)) / whole}%`;
      mark.style.opacity = 0.45 + (0.55 * span.weight) / most;
      return mark;
    }));
    this.weigh(timeline);
  }

  /** A curve of weights over the strip: one bar per moment. */
  weigh(timeline) {
    const weights = timeline?.weights ?? [];
    const most = Math.max(...weights, 1e-12);
    this.curve.replaceChildren(...weights.map((weight, n) => {
      const bar = el("i");
      const from = timeline.seconds[n];
      const to = timeline.seconds[n + 1] ?? timeline.end;
      bar.style.left = `${(100 * from) / this.video.duration}%`;
      bar.style.width = `${(100 * Math.max(0, to - from)) / this.video.duration}%`;
      bar.style.height = `${100 * (weight / most)}%`;
      return bar;
    }));
  }
}
