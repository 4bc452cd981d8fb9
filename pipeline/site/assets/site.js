// Conveniences only: every page says all it has to say without this.
"use strict";

(() => {
  // Search: what is not found is hidden, and how much is found is said.
  const form = document.querySelector("form.search");
  if (form) {
    const [field, found] = [form.querySelector("input"), form.querySelector("#found")];
    const cards = [...document.querySelectorAll("[data-text]")];
    const search = () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const card of cards) card.hidden = !words.every((word) => card.dataset.text.includes(word));
      const count = cards.filter((card) => !card.hidden).length;
      found.textContent = words.length ? `${count} of ${cards.length} models` : "";
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    field.addEventListener("input", search);
    form.hidden = cards.length < 2;
    search();
  }

  // Pages in a store that is served know where that is: commands name it so.
  const beside = document.querySelector("[data-beside]");
  if (beside && location.protocol.startsWith("http")) {
    const store = new URL(beside.dataset.beside, location).href.replace(/\/$/, "");
    if (/^[\w.:/%~+-]+$/.test(store))
      for (const code of document.querySelectorAll(".command code"))
        code.textContent = code.textContent.replaceAll(beside.dataset.address, store).replaceAll("https://…", store);
  }

  // Pages without their store beside them, on a web server: links to its files would lead nowhere.
  if (!beside && location.protocol.startsWith("http")) {
    const root = new URL("..", document.currentScript.src).href;
    const depth = location.href.slice(root.length).split(/[?#]/)[0].split("/").length - 1;
    const ups = (link) => link.getAttribute("href").match(/^(\.\.\/)*/)[0].length / 3;
    for (const link of document.querySelectorAll('a[href^="../"]')) if (ups(link) > depth) link.removeAttribute("href");
  }

  // A button that copies, on each command.
  if (navigator.clipboard)
    for (const box of document.querySelectorAll(".command")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "Copy";
      button.setAttribute("aria-label", `Copy the commands for ${box.querySelector("h3").textContent}`);
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(box.querySelector("code").textContent);
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = "Copy"), 1500);
      });
      box.prepend(button);
    }
})();
