"use strict";
// Without this file everything works; with it, the keys 1 to 4 answer a pair, and the playground's texts appear as they are written.

document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (typing || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  const button = [...document.querySelectorAll("button[data-key]")].find((b) => b.dataset.key === event.key);
  if (button) button.click();
});

const playground = document.getElementById("playground");
if (playground) playground.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = playground.querySelector("button");
  const status = document.getElementById("status");
  const sides = { base: document.getElementById("base-text"), tuned: document.getElementById("tuned-text") };
  button.disabled = true;
  status.textContent = "Writing";
  for (const side of Object.values(sides)) side.textContent = "";
  try {
    const answer = await fetch("/playground/stream", { method: "POST", body: new URLSearchParams(new FormData(playground)) });
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    let said = "Done";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const line of lines.filter(Boolean)) {
        const news = JSON.parse(line);
        if (news.problem) said = news.problem;
        for (const [arm, side] of Object.entries(sides)) if (arm in news) side.textContent = news[arm].trimStart();
      }
    }
    status.textContent = answer.ok ? said : "Not done: load the page again.";
  } catch {
    status.textContent = "The server did not answer; is it still running?";
  }
  button.disabled = false;
});
