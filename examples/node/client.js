// A client of TG/1 in one page, written from docs/protocol.md alone.

import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

/** The broker's no: `code` says which, `retryable` whether it may be tried again, and `details`
 * has the rest: status, version, allowed, limit, job_id, target. */
export class TollgateError extends Error {
  constructor({ type, code, message, retryable, ...details }) {
    super(message);
    this.name = "TollgateError";
    Object.assign(this, { code, retryable, details });
  }

  /** One line for people. */
  get line() {
    const details = Object.entries(this.details).map(([name, value]) => `${name}: ${value}`);
    return [`${this.code}: ${this.message}`, ...details].join(" · ");
  }
}

/** No answer came: whether the request was executed is not known. */
export class OutcomeUnknown extends Error {}

export class Client {
  #socket;
  #seq = 0;
  #awaited = new Map(); // by seq: who is told

  constructor(endpoint, { timeoutMs = 5_000 } = {}) {
    this.timeoutMs = timeoutMs;
    this.#socket = new Dealer({ immediate: true, linger: 0, sendTimeout: timeoutMs });
    this.#socket.connect(endpoint);
    this.#read();
  }

  close() {
    this.#socket.close();
  }

  /** Send one command and return its result, or throw the TollgateError that it came to.
   * `parkedMs` is how long the broker may keep the command by its own terms. */
  async call(command, parkedMs = 0) {
    const [result] = await this.batch([command], parkedMs);
    if (result instanceof TollgateError) throw result;
    return result;
  }

  /** Send commands in one message and return their results in order, errors among them. */
  async batch(commands, parkedMs = 0) {
    const seq = ++this.#seq;
    const answer = new Promise((resolve) => this.#awaited.set(seq, resolve));
    // MessagePack's timestamp has an extension type of its own: a Date becomes one, and back. It
    // cuts microseconds to milliseconds, which is why times are never sent back for comparison.
    const validUntil = new Date(Date.now() + this.timeoutMs);
    const request = { v: 1, session: 0, seq, acked: 0, commands, valid_until: validUntil };
    let timer;
    const silence = new Promise((_, reject) => {
      const fail = () => reject(new OutcomeUnknown(`no answer to request ${seq}`));
      timer = setTimeout(fail, this.timeoutMs + parkedMs);
    });
    try {
      await this.#socket.send(encode(request));
      const reply = await Promise.race([answer, silence]);
      if (reply.type === "refused") throw new TollgateError(reply.error);
      return reply.results.map((r) => (r.type === "error" ? new TollgateError(r) : r));
    } finally {
      clearTimeout(timer);
      this.#awaited.delete(seq);
    }
  }

  async #read() {
    for await (const [frame] of this.#socket) {
      // All integers are below 2^53, so numbers will do: no BigInt (the default of `decode`).
      const reply = decode(frame);
      this.#awaited.get(reply.seq)?.(reply); // whatever nobody awaits is ignored
    }
  }
}
