// What pages do where scripts run: live regions, followed logs, filters. Reading works without.
"use strict";

const LOG_LINES = 5000;

// Set while a form is on its way, which may end the session itself.
let leaving = false;
window.addEventListener("pageshow", () => { leaving = false; });
document.addEventListener("submit", (event) => { leaving = !event.defaultPrevented; });

// A region with data-live is shown anew whenever the server says that it looks different. A hidden
// tab gives its connection back: browsers allow six for one host.
function follow(region, address, on) {
  let source = null;
  const open = () => {
    source = new EventSource(address);
    for (const [name, act] of Object.entries(on)) {
      source.addEventListener(name, (event) => act(event.data, close));
    }
    source.addEventListener("ended", () => { if (!leaving) location.assign("/login?reason=expired"); });
    source.onopen = () => region.removeAttribute("data-stale");
    source.onerror = () => {
      region.setAttribute("data-stale", "");
      // A server that refuses (the session is over) ends the source for good.
      if (source && source.readyState === EventSource.CLOSED && !leaving) location.reload();
    };
  };
  const close = () => { if (source) source.close(); source = null; on = {}; };
  const pause = () => { if (source) source.close(); source = null; };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) pause();
    else if (!source && Object.keys(on).length) open();
  });
  window.addEventListener("pagehide", pause);
  open();
}

// Replaces a region's content and keeps what the reader has done in it: focus, scrolling, openings.
function show(region, html) {
  const next = document.createElement("div");
  next.innerHTML = html;
  if (next.innerHTML.trim() === region.innerHTML.trim()) return;
  const active = document.activeElement;
  const inside = region.contains(active) ? active.getAttribute("href") || active.id : null;
  const opened = new Set([...region.querySelectorAll("details[open][id]")].map((each) => each.id));
  const scrolled = [...region.querySelectorAll(".scroll, pre")].map((each) => [each.scrollLeft, each.scrollTop]);
  htmx.swap(region, html, { swapStyle: "innerHTML" });
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
  region.querySelectorAll(".scroll, pre").forEach((each, place) => {
    if (scrolled[place]) [each.scrollLeft, each.scrollTop] = scrolled[place];
  });
  if (inside) {
    const same = [...region.querySelectorAll("[href], [id]")]
      .find((each) => each.getAttribute("href") === inside || each.id === inside);
    same?.focus({ preventScroll: true });
  }
  document.querySelectorAll("[data-filter]").forEach(filter);
}

function filter(input) {
  const wanted = input.value.trim().toLowerCase();
  for (const row of document.querySelectorAll(input.dataset.filter)) {
    row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
  }
}

function log(region) {
  const atEnd = () => region.scrollHeight - region.scrollTop - region.clientHeight < 40;
  let lines = 0;
  follow(region, region.dataset.log, {
    // A connection made anew tells everything again.
    start: () => { region.textContent = ""; lines = 0; },
    lines: (data) => {
      const stick = atEnd();
      for (const line of data.split("\n")) {
        region.append(line + "\n");
        lines += 1;
      }
      for (; lines > LOG_LINES; lines -= 1) region.firstChild.remove();
      if (stick) region.scrollTop = region.scrollHeight;
    },
    end: (_, close) => { close(); region.setAttribute("data-ended", ""); },
  });
}

document.addEventListener("DOMContentLoaded", () => {
  const live = document.querySelector("[data-live]");
  if (live) follow(live, live.dataset.live, { content: (html) => show(live, html) });
  document.querySelectorAll("[data-log]").forEach(log);
  document.querySelectorAll("[data-filter]").forEach((input) => {
    input.addEventListener("input", () => filter(input));
  });
  document.querySelectorAll("form[data-confirm]").forEach((form) => {
    form.addEventListener("submit", (event) => {
      if (!window.confirm(form.dataset.confirm)) event.preventDefault();
    });
  });
});
