// A little help for pages that work without it: fresh figures, a button that copies, a box that
// chooses all, a question before what cannot be undone.
"use strict";

const EVERY = 3000; // milliseconds between looks
const LONGEST = 30000; // while the server does not answer

// What a person is doing in a part of the page must not be taken from under their hands.
function busy(part) {
  const selection = document.getSelection();
  return part.contains(document.activeElement) ||
    part.querySelector("input:checked, details[open]") !== null ||
    [...part.querySelectorAll("input[type=file]")].some((box) => box.files.length > 0) ||
    (selection && !selection.isCollapsed && part.contains(selection.anchorNode));
}

async function refresh() {
  const parts = document.querySelectorAll("[data-live]");
  const answer = await fetch(location.href, { headers: { "Accept": "text/html" }, redirect: "error" });
  if (!answer.ok) throw new Error(String(answer.status));
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts) {
    const other = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
    if (other && !busy(part) && other.innerHTML !== part.innerHTML) {
      part.replaceChildren(...other.childNodes);
      prepare(part);
    }
  }
}

function watch() {
  if (!document.querySelector("[data-live]")) return;
  const told = document.querySelector("[data-told]");
  let wait = EVERY;
  async function look() {
    if (!document.hidden) {
      try {
        await refresh();
        wait = EVERY;
        if (told) told.textContent = "live";
      } catch {
        wait = Math.min(LONGEST, wait * 2);
        if (told) told.textContent = "not connected: this page may be out of date";
      }
    }
    setTimeout(look, wait);
  }
  if (told) told.textContent = "live";
  setTimeout(look, wait);
}

function prepare(root) {
  for (const box of root.querySelectorAll(".copy")) {
    if (box.querySelector("button") || !navigator.clipboard) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(box.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    box.append(button);
  }
  for (const all of root.querySelectorAll("[data-all]")) {
    all.hidden = false;
    all.addEventListener("change", () => {
      for (const box of document.querySelectorAll(`input[name="${all.dataset.all}"]`)) box.checked = all.checked;
    });
  }
}

// A file is read into the field that would be sent anyway.
for (const box of document.querySelectorAll("[data-fill]")) {
  box.hidden = false;
  box.querySelector("input").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) document.getElementById(box.dataset.fill).value = await file.text();
  });
}

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.ask;
  if (question && !confirm(question)) event.preventDefault();
});

prepare(document);
watch();
