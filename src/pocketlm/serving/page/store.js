// What the browser keeps: settings across visits (local), token, drafts and conversations in this tab (session).
// Where the browser keeps nothing (some private windows, a full store), they last as long as the page does.

const PREFIX = "pocketlm.";

class Store {
  constructor(open) {
    this.open = open;
    this.unkept = new Map();
  }

  /** The value under a name; `otherwise` if there is none that can be read. */
  read(name, otherwise = null) {
    if (this.unkept.has(name)) return this.unkept.get(name) ?? otherwise;
    try {
      return JSON.parse(this.open().getItem(PREFIX + name)) ?? otherwise;
    } catch {
      return otherwise;
    }
  }

  /** Keep a value, or forget it if it is null. False: the browser did not take it. */
  write(name, value) {
    this.unkept.delete(name);
    try {
      if (value === null) this.open().removeItem(PREFIX + name);
      else this.open().setItem(PREFIX + name, JSON.stringify(value));
      return true;
    } catch {
      this.unkept.set(name, value);
      return false;
    }
  }
}

export const local = new Store(() => window.localStorage);
export const session = new Store(() => window.sessionStorage);
