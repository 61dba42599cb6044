"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const said = byId("said");
  const say = (text) => { if (said) said.textContent = text; };
  const clock = (seconds) => {
    const tenths = Math.round(Math.max(0, seconds) * 10);
    const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
    const minutes = Math.floor(tenths / 600);
    return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
  };

  // Names that are not UTF-8 cannot be decoded.
  const readable = (address) => { try { return decodeURIComponent(address); } catch { return address; } };

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = Array.from(document.querySelectorAll("details.video:not([open]), details.fold:not([open])"));
    for (const details of closed) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of closed) details.open = false; });

  const wire = (plot) => {
    const curve = byId(plot.dataset.curve);
    const video = plot.dataset.video ? byId(plot.dataset.video) : null;
    // Times within the curve begin at 0; those of the file and of its player at its first timestamp.
    const begin = Number(plot.dataset.start);
    const duration = Number(plot.dataset.duration);
    const wide = plot.querySelector("svg.wide");
    const cursor = plot.querySelector(".cursor");
    const readout = plot.parentElement.querySelector(".readout");
    const points = curve.querySelector(".line").getAttribute("points").split(" ").map((pair) => pair.split(",").map(Number));
    const spans = Array.from(curve.querySelectorAll(".truth"), (box) => {
      const x = Number(box.getAttribute("x"));
      return [x, x + Number(box.getAttribute("width"))];
    });
    let at = 0;

    const scoreAt = (x) => {
      let low = 0, high = points.length - 1;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (points[middle][0] <= x) low = middle; else high = middle;
      }
      const [x0, y0] = points[low], [x1, y1] = points[high];
      const y = x1 > x0 ? y0 + (y1 - y0) * Math.min(1, Math.max(0, (x - x0) / (x1 - x0))) : y1;
      return 1 - y / 100;
    };
    const describe = (seconds) => {
      const x = 1000 * seconds / duration;
      const marked = spans.some(([start, stop]) => x >= start && x < stop) ? ", marked anomalous" : "";
      return `${clock(begin + seconds)}, score ${scoreAt(x).toFixed(2)}${marked}`;
    };
    const move = (seconds) => {
      at = Math.min(duration, Math.max(0, seconds));
      const share = `${100 * at / duration}%`;
      cursor.setAttribute("x1", share);
      cursor.setAttribute("x2", share);
      const text = describe(at);
      plot.setAttribute("aria-valuenow", (begin + at).toFixed(3));
      plot.setAttribute("aria-valuetext", text);
      readout.textContent = text;
    };
    // Before the file is loaded, this is where it will begin.
    const seek = () => { if (video) video.currentTime = Math.max(0, begin + at); };
    const start = () => {
      if (!video) { say("The file of this video was not found when the page was made, so it cannot be played."); return; }
      seek();
      const promise = video.play();
      if (promise) promise.catch((error) => { if (error.name !== "AbortError") say(`The video cannot be played here: ${error.message}`); });
    };
    const timeOf = (event) => {
      const box = wide.getBoundingClientRect();
      return duration * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    };

    plot.addEventListener("click", (event) => { move(timeOf(event)); start(); });
    plot.addEventListener("pointermove", (event) => { readout.textContent = describe(timeOf(event)); });
    plot.addEventListener("pointerleave", () => { readout.textContent = describe(at); });
    plot.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const step = Math.max(duration / 100, Math.min(1, duration / 20));
      const moves = {
        ArrowLeft: at - step, ArrowDown: at - step, ArrowRight: at + step, ArrowUp: at + step,
        PageDown: at - duration / 10, PageUp: at + duration / 10, Home: 0, End: duration,
        m: Number(plot.dataset.peakAt), M: Number(plot.dataset.peakAt),
      };
      if (event.key in moves) {
        move(moves[event.key]);
        seek();
      } else if (event.key === "Enter" || event.key === " ") {
        if (video && !video.paused) video.pause(); else start();
      } else return;
      event.preventDefault();
    });
    plot.addEventListener("vadx-peak", () => { move(Number(plot.dataset.peakAt)); start(); });
    if (video) {
      video.preload = "metadata";
      video.addEventListener("timeupdate", () => { move(video.currentTime - begin); });
      video.addEventListener("error", () => {
        say(`This browser cannot play ${readable(video.getAttribute("src"))}: the file was moved, or its format is not one that browsers play.`);
      });
    }
    readout.textContent = describe(0);
    plot.setAttribute("aria-valuetext", describe(0));
  };

  // A page of hundreds of curves opens at once: each is wired when it is first needed.
  const wired = new WeakSet();
  const wireIn = (details) => {
    const plot = details.querySelector(".plot");
    if (plot && !wired.has(plot)) { wired.add(plot); wire(plot); }
  };
  const cards = byId("cards");
  if (!cards) return;
  const all = Array.from(cards.children);
  for (const details of all) {
    if (details.open) wireIn(details);
    details.addEventListener("toggle", (event) => {
      if (event.target !== details) return;
      if (details.open) wireIn(details);
      else for (const video of details.querySelectorAll("video")) video.pause();
    });
  }
  for (const button of document.querySelectorAll(".to-peak")) {
    button.addEventListener("click", () => byId(button.dataset.plot).dispatchEvent(new Event("vadx-peak")));
  }

  const given = new Map(all.map((details, number) => [details, number]));
  const orders = {
    kind: (a, b) => given.get(a) - given.get(b),
    peak: (a, b) => b.dataset.peak - a.dataset.peak || given.get(a) - given.get(b),
    id: (a, b) => (a.dataset.id < b.dataset.id ? -1 : a.dataset.id > b.dataset.id ? 1 : 0),
    time: (a, b) => b.dataset.duration - a.dataset.duration || given.get(a) - given.get(b),
  };
  byId("order").addEventListener("change", (event) => {
    cards.append(...all.slice().sort(orders[event.target.value]));
    say(`Ordered by ${event.target.selectedOptions[0].textContent}.`);
  });
  byId("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    let shown = 0;
    for (const details of all) {
      details.hidden = !`${details.dataset.id} ${details.dataset.kind}`.toLowerCase().includes(wanted);
      shown += !details.hidden;
    }
    say(wanted ? `${shown} of ${all.length} videos shown.` : "");
  });
  const setOpen = (open) => { for (const details of all) if (!details.hidden) details.open = open; };
  byId("open-all").addEventListener("click", () => setOpen(true));
  byId("close-all").addEventListener("click", () => setOpen(false));
  document.querySelector(".tools").hidden = false;

})();
