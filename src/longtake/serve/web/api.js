// All that is asked of the server: JSON, uploads with progress, streams of an answer.

const KEY = "longtake.token";

/** What the server said no with. `status` 0: it did not answer at all. */
export class Refused extends Error {
  constructor(status, message, { code = "", retryAfter = 0 } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

let askForToken = async () => false;

/** `ask(bad)` resolves to a token, or to nothing when the person gives up. */
export function whenTokenIsAsked(ask) {
  askForToken = ask;
}

function headers(more = {}) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

function refusedBy(status, text, retryAfter) {
  let told = { message: `The server answered with status ${status}.`, code: "" };
  try {
    told = { ...told, ...JSON.parse(text).error };
  } catch { /* no JSON: the status says it */ }
  return new Refused(status, told.message, { code: told.code, retryAfter: Number(retryAfter) || 0 });
}

/** Ask for a session for the player and pictures, whose requests carry no header; the status. */
async function session() {
  return (await fetch("/v1/session", { method: "POST", headers: headers() })).status;
}

let renewing = null;

/** Whether there is a new session: the old one ends with the server, or after hours. */
export function renewed() {
  if (sessionStorage.getItem(KEY) === null) return Promise.resolve(false);
  renewing ??= session().then((status) => status === 204, () => false).finally(() => { renewing = null; });
  return renewing;
}

let asking = null;

/** A token from the person; one question at a time, however many requests wait for it. */
async function newToken() {
  asking ??= (async () => {
    for (let bad = false; ; bad = true) {
      const word = await askForToken(bad);
      if (!word) return false;
      sessionStorage.setItem(KEY, word);
      if ((await session()) !== 401) return true;
      sessionStorage.removeItem(KEY);
    }
  })();
  try {
    return await asking;
  } finally {
    asking = null;
  }
}

/** A response that is fine, or Refused. Asks for the token once where it is needed. */
export async function request(path, options = {}, again = true) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer.");
  }
  if (response.status === 401 && again && (await newToken())) return request(path, options, false);
  if (!response.ok) {
    throw refusedBy(response.status, await response.text(), response.headers.get("Retry-After"));
  }
  return response;
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

export function post(path, body, options = {}) {
  const more = { "Content-Type": "application/json" };
  return request(path, { ...options, method: "POST", headers: more, body: JSON.stringify(body) });
}

/** Send a file; `onprogress(share)` while it goes. Resolves to the server's video. */
export async function upload(file, fields, onprogress) {
  await json("/v1/server"); // a token is asked for before gigabytes travel
  const query = new URLSearchParams({ name: file.name });
  for (const [name, value] of Object.entries(fields)) if (value !== "") query.set(name, value);
  return new Promise((resolve, reject) => {
    const sent = new XMLHttpRequest();
    sent.open("POST", `/v1/videos?${query}`);
    for (const [name, value] of Object.entries(headers())) sent.setRequestHeader(name, value);
    sent.setRequestHeader("Content-Type", "application/octet-stream");
    sent.upload.onprogress = (event) => event.lengthComputable && onprogress(event.loaded / event.total);
    sent.onerror = () => reject(new Refused(0, "The server does not answer, or broke off the upload."));
    sent.onload = () => {
      if (sent.status < 300) resolve(JSON.parse(sent.responseText));
      else reject(refusedBy(sent.status, sent.responseText, sent.getResponseHeader("Retry-After")));
    };
    sent.send(file);
  });
}

/** Objects of a stream, one after the other; throws what the server reports on the way. */
export async function* stream(path, body, signal) {
  const response = await post(path, body, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Refused(0, "The answer broke off: the connection to the server is gone.");
      held += value;
      const events = held.split("\n\n");
      held = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ")) continue; // comments keep the line open
        const data = event.slice(6);
        if (data === "[DONE]") return;
        const thing = JSON.parse(data);
        if (thing.error) throw new Refused(500, thing.error.message, { code: thing.error.code });
        yield thing;
      }
    }
  } catch (error) {
    if (error instanceof TypeError) throw new Refused(0, "The connection to the server is gone.");
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
}
