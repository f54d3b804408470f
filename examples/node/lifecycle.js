// Takes one job through all its states, and checks at each step that the broker follows TG/1.
// Usage: node lifecycle.js ipc:///path/to/broker.sock

import assert from "node:assert/strict";
import { createHash, randomUUID } from "node:crypto";

import { Client, TollgateError } from "./client.js";

const endpoint = process.argv[2] ?? process.env.TOLLGATE_ENDPOINT;
if (!endpoint) {
  console.error("usage: node lifecycle.js ipc:///path/to/broker.sock");
  process.exit(2);
}

async function lifecycle(client) {
  const hello = await client.call({ type: "hello" });
  assert.equal(hello.protocol, 1);
  assert.ok(hello.revision >= 2, "an older broker does not know `history`");
  console.log(`hello: ${hello.server}, up to ${hello.limits.commands} commands a message`);

  const before = await client.call({ type: "count" });

  // MIP-004. This text is its own canonical form; for others use an RFC 8785 library.
  const purchaser = "aabbccddeeff0011";
  const input = JSON.stringify({ prompt: "Cardano payments" });
  const inputHash = createHash("sha256").update(`${purchaser};${input}`).digest("hex");
  assert.equal(inputHash, "25f3afe66b39b0582711c9faf53930c7b6a6feffd10294750ec77be47fd63080");

  const creation = {
    type: "create",
    job_id: randomUUID(), // made here, so that the creation may be sent again
    input_hash: inputHash,
    input,
    identifier_from_purchaser: purchaser,
    pay_by_time: new Date(Date.now() + 3_600_000),
  };
  const { job } = await client.call(creation);
  assert.equal(job.status, "awaiting_payment");
  assert.equal(job.version, 1);
  assert.ok(job.created_at instanceof Date);
  assert.equal(job.pay_by_time.getTime(), creation.pay_by_time.getTime());
  assert.deepEqual((await client.call(creation)).job, job);
  console.log(`create: ${job.job_id} is ${job.status}; created twice, it is one job`);

  const early = { type: "transition", job_id: job.job_id, target: "completed", result: "?" };
  await assert.rejects(client.call(early), (error) => {
    assert.ok(error instanceof TollgateError);
    assert.equal(error.code, "illegal_transition");
    assert.equal(error.retryable, false);
    assert.deepEqual(error.details.allowed, ["failed", "running"]);
    console.log(`refused, as it should be: ${error.line}`);
    return true;
  });

  const waiting = client.call(
    { type: "wait", job_ids: [job.job_id], timeout_ms: 10_000 },
    10_000,
  );

  const [running, again] = await client.batch([
    { type: "transition", job_id: job.job_id, target: "running", expected_version: 1 },
    { type: "transition", job_id: job.job_id, target: "running", expected_version: 1 },
  ]);
  assert.equal(running.job.status, "running");
  assert.equal(again.code, "version_conflict");
  assert.equal(again.details.version, 2);
  console.log(`transition: ${running.job.status}, and a second one: ${again.line}`);

  const result = "Zahlungen über Cardano ✓";
  const done = await client.call({
    type: "transition",
    job_id: job.job_id,
    target: "completed",
    result,
    expected_version: 2,
  });
  assert.equal(done.job.status, "completed");
  assert.equal(done.job.result, result);

  assert.deepEqual((await waiting).job, done.job);
  console.log(`wait: woken with the result "${done.job.result}"`);

  const { entries, left_out } = await client.call({ type: "history", job_id: job.job_id });
  assert.equal(left_out, 0);
  assert.deepEqual(
    entries.map(({ what, to }) => to ?? what),
    ["created", "running", "completed"],
  );
  console.log(`history: ${entries.map(({ at, what, to }) => `${at.toISOString()} ${to ?? what}`).join(", ")}`);

  const after = await client.call({ type: "count" });
  assert.equal(after.total, before.total + 1);
  assert.equal(after.by_status.completed, before.by_status.completed + 1);
  console.log(`count: ${after.total} in all, ${after.by_status.completed} completed`);
}

const client = new Client(endpoint);
try {
  await lifecycle(client);
} catch (error) {
  console.error(error instanceof TollgateError ? error.line : error);
  process.exitCode = 1;
} finally {
  client.close();
}
