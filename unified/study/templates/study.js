"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const place = "study-" + data.study;

function fresh() {
  // Every participant sees the trials in an order of their own; sides are fixed by the study.
  const order = data.trials.map((trial) => trial.id);
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  const number = Math.floor(Math.random() * 2 ** 48);
  return { study: data.study, format: data.format, participant: number.toString(16).padStart(12, "0"), order, answers: {} };
}

function stored() {
  try {
    const found = JSON.parse(localStorage.getItem(place));
    return found && found.study === data.study ? found : null;
  } catch { return null; }
}

function keep() {
  try { localStorage.setItem(place, JSON.stringify(state)); } catch { /* a browser that keeps nothing */ }
}

const trials = new Map(data.trials.map((trial) => [trial.id, trial]));
const state = stored() || fresh();
let position = 0;
let shownAt = 0;

function show(section) {
  for (const id of ["welcome", "trial", "end"]) byId(id).hidden = id !== section;
}

function next() {
  while (position < state.order.length && state.answers[state.order[position]]) position++;
  present();
}

function present() {
  if (position >= state.order.length) return finish();
  const trial = trials.get(state.order[position]);
  show("trial");
  byId("progress").textContent = `${position + 1} of ${state.order.length}`;
  byId("bar").style.width = `${(100 * position) / state.order.length}%`;
  for (const question of ["fidelity", "prompt"]) {
    const part = byId("ask-" + question);
    if (part) part.hidden = trial.question !== question;
  }
  if (trial.question === "prompt") byId("text").textContent = trial.text;
  for (const side of ["left", "right"]) {
    byId(side).firstElementChild.src = trial[side];
    byId(side).classList.toggle("chosen", (state.answers[trial.id] || {}).choice === side);
  }
  byId("back").disabled = position === 0;
  shownAt = performance.now();
}

function choose(side) {
  if (byId("trial").hidden) return;
  const seconds = Math.round((performance.now() - shownAt) / 100) / 10;
  if (seconds < 0.3) return; // a second click that was meant for the pair before
  state.answers[state.order[position]] = { choice: side, seconds };
  keep();
  position++;
  next();
}

function finish() {
  show("end");
  const text = JSON.stringify({ study: state.study, format: state.format, participant: state.participant, answers: state.answers }, null, 1);
  byId("copy").value = text;
  byId("save").href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  byId("save").download = `results-${state.participant}.json`;
}

byId("total").textContent = data.trials.length;
for (const address of data.references) {
  const image = document.createElement("img");
  image.src = address;
  image.alt = "reference picture";
  if (byId("references")) byId("references").append(image);
}
byId("start").addEventListener("click", next);
byId("left").addEventListener("click", () => choose("left"));
byId("right").addEventListener("click", () => choose("right"));
byId("back").addEventListener("click", () => { if (position > 0) { position--; present(); } });
document.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") choose("left");
  if (event.key === "ArrowRight") choose("right");
});
