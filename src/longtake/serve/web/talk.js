// Questions and answers about the open video: asked, streamed, kept, shown again.

import { stream } from "./api.js";
import { clock, el, percent, took, unique } from "./format.js";
import { drop, keep, past } from "./history.js";
import { frameAt } from "./player.js";

const byId = (id) => document.getElementById(id);
const TRIES = 5;
const EARLIER = 4;

export class Talk {
  constructor(player) {
    this.player = player;
    this.video = null;
    this.running = null;
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.running) this.running.abort();
      else this.ask(byId("question").value.trim());
    });
    byId("question").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.running) byId("ask").requestSubmit();
    });
  }

  open(video) {
    this.running?.abort();
    this.video = video;
    const cards = past(video.id).map((one) => this.card(one));
    byId("answers").replaceChildren(...cards);
    if (cards.length) this.choose(cards[0], past(video.id)[0], false);
  }

  close() {
    this.running?.abort();
    this.video = null;
    byId("answers").replaceChildren();
  }

  /** Show an answer's moments on the timeline; `go`: and the heaviest in the player. */
  choose(card, one, go) {
    for (const other of byId("answers").children) other.classList.toggle("chosen", other === card);
    const spans = one.evidence ?? [];
    this.player.mark(spans, one.timeline);
    if (go && spans.length) this.player.seek(spans[0].start);
  }

  async ask(question) {
    if (!question || !this.video) return;
    const { video } = this;
    const one = { id: unique(), question, answer: "", evidence: [], state: "waiting" };
    const card = this.card(one);
    byId("answers").prepend(card);
    this.player.mark([], null);
    const abort = new AbortController();
    this.running = abort;
    this.busy(true);
    try {
      await this.tried(video, one, card, abort.signal);
      keep(video.id, one);
      byId("question").value = "";
    } catch (error) {
      this.failed(one, error);
    } finally {
      this.running = null;
      this.busy(false);
      const done = this.card(one);
      card.replaceWith(done);
      if (this.video === video && one.state !== "failed") this.choose(done, one, false);
      byId("said").textContent = one.state === "failed" ? one.error : `Answer: ${one.answer}`;
      if (matchMedia("(hover: hover)").matches) byId("question").focus();
    }
  }

  failed(one, error) {
    one.state = "failed";
    one.error = error.name === "AbortError" ? "Stopped." : error.message;
  }

  busy(on) {
    byId("send").textContent = on ? "Stop" : "Ask";
    byId("send").classList.toggle("stop", on);
  }

  /** Ask; where the server is full, wait as long as it says and ask again. */
  async tried(video, one, card, signal) {
    for (let left = TRIES; ; left -= 1) {
      try {
        await this.heard(video, one, card, signal);
        return;
      } catch (error) {
        if (error.status !== 429 || left === 0) throw error;
        await pause(error.retryAfter || 1, signal, (seconds) => {
          card.querySelector(".answer").textContent = `The server is busy. Asking again in ${seconds} s \u2026`;
        });
      }
    }
  }

  async heard(video, one, card, signal) {
    const words = card.querySelector(".answer");
    const began = performance.now();
    const body = {
      model: "default", stream: true, stream_options: { include_usage: true },
      messages: this.messages(video, one.question),
    };
    body.model = this.model ?? body.model;
    one.answer = "";
    for await (const chunk of stream("/v1/chat/completions", body, signal)) {
      const delta = chunk.choices[0]?.delta?.content;
      if (delta) {
        one.first ??= (performance.now() - began) / 1000;
        one.answer += delta;
        words.textContent = one.answer.trimStart();
      }
      if (chunk.longtake) {
        one.evidence = chunk.longtake.evidence;
        one.timeline = chunk.longtake.timeline?.find((line) => line.visual === 0) ?? null;
        one.cut = chunk.choices[0]?.finish_reason === "length";
      }
      if (chunk.usage) one.tokens = chunk.usage.completion_tokens;
    }
    one.answer = one.answer.trim();
    one.seconds = (performance.now() - began) / 1000;
    one.at = Date.now();
    one.state = "done";
  }

  messages(video, question) {
    const say = (role, content) => ({ role, content });
    const seen = { type: "video_url", video_url: { url: `longtake:${video.id}` } };
    const follow = byId("follow")?.checked ?? false;
    const before = follow ? past(video.id).filter((one) => one.answer).slice(0, EARLIER).reverse() : [];
    const turns = before.flatMap((one) => [say("user", one.question), say("assistant", one.answer)]);
    turns.push(say("user", question));
    turns[0] = say("user", [seen, { type: "text", text: turns[0].content }]);
    return turns;
  }

  card(one) {
    const waiting = one.state === "waiting";
    const card = el("li", { class: `card ${one.state ?? "done"}` });
    const head = el("div", { class: "line" }, el("h3", {}, one.question), waiting ? null : el("button", {
      type: "button", class: "plain remove", "aria-label": `Forget the question ${one.question}`, title: "Forget",
      onclick: () => { drop(this.video.id, one.id); card.remove(); this.player.mark([], null); },
    }, "\u00d7"));
    const text = one.state === "failed" ? one.error : waiting ? "\u2026" : one.answer || "(nothing was said)";
    card.append(head, el("p", { class: "answer" }, text));
    if (one.state === "failed") {
      card.append(el("button", { type: "button", class: "plain", onclick: () => { card.remove(); this.ask(one.question); } }, "Ask again"));
    }
    if (one.evidence?.length) card.append(this.moments(one, card));
    const told = [
      one.first ? `first word after ${took(one.first)}` : null,
      one.seconds ? `whole answer ${took(one.seconds)}` : null,
      one.tokens ? `${one.tokens} tokens` : null,
      one.cut ? "cut at the longest length" : null,
    ].filter(Boolean).join(" \u00b7 ");
    if (told) card.append(el("p", { class: "small" }, told));
    return card;
  }

  /** A thumbnail of each moment, in the order of time. */
  moments(one, card) {
    const sorted = [...one.evidence].sort((a, b) => a.start - b.start);
    const heaviest = one.evidence[0];
    return el("ul", { class: "moments", "aria-label": "Moments the answer rests on" }, sorted.map((span) => el("li", {},
      el("button", {
        type: "button", class: span === heaviest ? "moment heaviest" : "moment",
        "aria-label": `Show ${clock(span.start)}, ${percent(span.weight)} of the attention`,
        onclick: () => { this.choose(card, one, false); this.player.seek(span.start); },
      },
      el("img", { src: frameAt(this.video, span.start), alt: "", loading: "lazy" }),
      el("span", {}, clock(span.start)), el("span", { class: "small" }, percent(span.weight))))));
  }
}

/** Wait so many seconds, telling how many are left; ends early with AbortError. */
function pause(seconds, signal, tell) {
  return new Promise((resolve, reject) => {
    let left = seconds;
    tell(left);
    const tick = setInterval(() => {
      left -= 1;
      if (left > 0) return tell(left);
      clearInterval(tick);
      resolve();
    }, 1000);
    signal.addEventListener("abort", () => {
      clearInterval(tick);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}
