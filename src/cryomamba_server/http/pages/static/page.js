// Keeps the status up to date. Without it the page reloads itself.
"use strict";

const INTERVAL = 2000;
const region = document.getElementById("status");
const notice = document.getElementById("notice");
let shown = "";

/** Let pictures that are on the page stay until their successors have arrived, so that nothing flickers. */
function keepPictures(fresh) {
  for (const picture of fresh.querySelectorAll("img[id]")) {
    const present = document.getElementById(picture.id);
    if (!present) continue;
    const address = picture.getAttribute("src");
    present.alt = picture.alt;
    picture.replaceWith(present);
    if (present.getAttribute("src") === address) continue;
    const next = new Image();
    next.addEventListener("load", () => present.setAttribute("src", address));
    next.src = address;
  }
}

function show(html) {
  if (html === shown) return;
  const fresh = new DOMParser().parseFromString(html, "text/html").body;
  const focused = document.activeElement && document.activeElement.id;
  keepPictures(fresh);
  region.replaceChildren(...fresh.childNodes);
  shown = html;
  if (focused && document.getElementById(focused)) document.getElementById(focused).focus({ preventScroll: true });
}

async function refresh() {
  if (document.hidden || !document.getSelection().isCollapsed) return;
  let answer;
  try {
    answer = await fetch("/pages/status", { cache: "no-store" });
  } catch {
    notice.textContent = "The server does not answer. Trying again …";
    return;
  }
  if (answer.status === 401) {
    location.reload();
    return;
  }
  if (!answer.ok) {
    notice.textContent = `The server answered ${answer.status}. Trying again …`;
    return;
  }
  show(await answer.text());
  notice.textContent = "";
}

async function keepFresh() {
  await refresh();
  setTimeout(keepFresh, INTERVAL);
}

document.addEventListener("visibilitychange", refresh);
setTimeout(keepFresh, INTERVAL);
