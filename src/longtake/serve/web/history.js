// Past questions of each video, kept in this browser; the newest first.

const MOST = 50;
const name = (video) => `longtake.history.${video}`;

export function past(video) {
  try {
    const found = JSON.parse(localStorage.getItem(name(video)) ?? "[]");
    return Array.isArray(found) ? found.filter((one) => typeof one?.question === "string") : [];
  } catch {
    return [];
  }
}

export function keep(video, answered) {
  const all = [answered, ...past(video).filter((one) => one.id !== answered.id)];
  for (let most = MOST; most > 0; most = Math.floor(most / 2)) {
    try {
      localStorage.setItem(name(video), JSON.stringify(all.slice(0, most)));
      return;
    } catch { /* the browser's store is full: keep fewer */ }
  }
}

export function drop(video, id) {
  localStorage.setItem(name(video), JSON.stringify(past(video).filter((one) => one.id !== id)));
}

export function dropAll(video) {
  localStorage.removeItem(name(video));
}
