// The dialog that asks for the server's token, and the buttons that close dialogs.

import { session } from "./store.js";

const dialog = () => document.getElementById("token-dialog");

/** Ask the reader for the token; gives whether there is a new one. `again`: the server did not take the last one. */
export function askToken(again) {
  const box = dialog();
  box.querySelector("#token-fault").textContent = again ? "The server did not take this token." : "";
  box.showModal();
  box.querySelector("input").select();
  return new Promise((resolve) => {
    box.addEventListener("close", () => resolve(box.returnValue === "given"), { once: true });
  });
}

/** Let dialogs be closed and the token be given. */
export function wireDialogs() {
  for (const button of document.querySelectorAll("button[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close(""));
  }
  const box = dialog();
  const field = box.querySelector("input");
  box.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const token = field.value.trim();
    if (!/^[!-~]+$/.test(token)) {
      box.querySelector("#token-fault").textContent = "A token has letters, digits and signs, and no spaces.";
      return;
    }
    session.write("token", token);
    box.close("given");
  });
  box.addEventListener("cancel", () => (box.returnValue = ""));
}
