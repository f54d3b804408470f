// A client of TG/1 in one page, written from docs/protocol.md alone.

import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

/** The broker refused: `code` says why, `retryable` whether a retry may succeed, and `details`
 * holds the rest: status, version, allowed, limit, job_id, target. */
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

/** No answer came. The request may have been executed or not. */
export class OutcomeUnknown extends Error {}

export class Client {
  #socket;
  #seq = 0;
  #awaited = new Map(); // seq -> callback

  constructor(endpoint, { timeoutMs = 5_000 } = {}) {
    this.timeoutMs = timeoutMs;
    this.#socket = new Dealer({ immediate: true, linger: 0, sendTimeout: timeoutMs });
    this.#socket.connect(endpoint);
    this.#read();
  }

  close() {
    this.#socket.close();
  }

  /** Send one command and return its result, or throw its TollgateError.
   * `parkedMs` is how long the broker may park the command. */
  async call(command, parkedMs = 0) {
    const [result] = await this.batch([command], parkedMs);
    if (result instanceof TollgateError) throw result;
    return result;
  }

  /** Send commands in one message and return their results in order, errors included. */
  async batch(commands, parkedMs = 0) {
    const seq = ++this.#seq;
    const answer = new Promise((resolve) => this.#awaited.set(seq, resolve));
    // MessagePack's timestamp is an extension type that converts to a Date and back. A Date cuts
    // microseconds to milliseconds, so never send a time back for comparison.
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
      // All integers are below 2^53, so plain numbers are enough, without BigInt.
      const reply = decode(frame);
      this.#awaited.get(reply.seq)?.(reply); // ignore replies without a pending request
    }
  }
}
