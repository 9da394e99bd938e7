// Copy buttons, and a status that follows what runs. Every page works without this script.
"use strict";

function addCopyButtons(root) {
  for (const box of root.querySelectorAll(".copy")) {
    if (box.querySelector("button")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy-button";
    button.textContent = document.body.dataset.copy;
    button.addEventListener("click", () => copy(box.querySelector("pre"), button));
    box.append(button);
  }
}

async function copy(source, button) {
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // Browsers offer the clipboard on https and localhost only: select the text, and let the
    // browser copy the selection.
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
  button.textContent = document.body.dataset.copied;
  setTimeout(() => (button.textContent = document.body.dataset.copy), 2000);
}

async function follow() {
  const live = document.getElementById("live");
  if (!live) return;
  await new Promise((resolve) => setTimeout(resolve, 1000 * Number(live.dataset.live)));
  try {
    if (!document.hidden && !live.contains(document.activeElement)) {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("live");
      if (answer.ok && fresh) live.replaceWith(document.adoptNode(fresh));
      addCopyButtons(document);
    }
  } catch {
    // The mirror restarts, or the network is away for a moment.
  }
  follow();
}

addCopyButtons(document);
follow();
for (const select of document.querySelectorAll(".filters select")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}
