/* The slides' page: one slide at a time over the whole screen, by buttons, keys or a swipe; without scripts it is a page. */
"use strict";
(() => {
  const root = document.documentElement;
  const stage = document.querySelector(".bd-article");
  const slides = [...stage.querySelectorAll("section > section")];
  const start = document.createElement("button");
  start.className = "bq-start";
  start.textContent = "Show full screen";
  stage.querySelector("h1").after(start);
  const bar = document.createElement("nav");
  bar.className = "bq-bar";
  bar.hidden = true;
  bar.setAttribute("aria-label", "Slides");
  bar.innerHTML = `<button name="back" aria-label="Slide before">←</button><span role="status"></span>
    <button name="next" aria-label="Next slide">→</button><button name="close">Close</button>`;
  stage.append(bar);
  let place = -1; // of the slide that is shown; −1 as a page

  function show(wanted) {
    place = Math.min(Math.max(wanted, 0), slides.length - 1);
    slides.forEach((slide, i) => slide.classList.toggle("bq-now", i === place));
    bar.querySelector("span").textContent = `Slide ${place + 1} of ${slides.length}`;
    const heading = slides[place].querySelector("h2");
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
    stage.scrollTop = 0;
  }

  function open() {
    root.classList.add("bq-presenting");
    bar.hidden = false;
    show(0);
    if (stage.requestFullscreen) stage.requestFullscreen().catch(() => {}); // refused: it fills the window
  }

  function close() {
    if (place < 0) return;
    const last = slides[place];
    place = -1;
    root.classList.remove("bq-presenting");
    bar.hidden = true;
    if (document.fullscreenElement) document.exitFullscreen();
    last.scrollIntoView();
    start.focus({ preventScroll: true });
  }

  const steps = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1, Home: -Infinity, End: Infinity };
  document.addEventListener("keydown", (event) => {
    if (place < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") close();
    if (!(event.key in steps) || event.target.matches("input, button, a, summary")) return; // they have keys of their own
    event.preventDefault();
    show(place + steps[event.key]);
  });
  start.addEventListener("click", open);
  bar.addEventListener("click", ({ target }) => {
    if (target.name === "close") close();
    else if (target.name) show(place + (target.name === "next" ? 1 : -1));
  });
  document.addEventListener("fullscreenchange", () => document.fullscreenElement || close());
  let touched = null;
  stage.addEventListener("touchstart", ({ target, touches }) => {
    touched = target.closest("input, canvas") || touches.length > 1 ? null : touches[0].clientX;
  }, { passive: true });
  stage.addEventListener("touchend", ({ changedTouches }) => {
    const moved = touched === null ? 0 : changedTouches[0].clientX - touched;
    if (place >= 0 && Math.abs(moved) > 60) show(place - Math.sign(moved));
  });
})();
