// Reads a JSON document a line, {identifier, input, output}, and writes the hashes of MIP-004:
// of the input in canonical JSON, of the output as JSON escapes it, and of the output as it is.
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { canonicalize } from "json-canonicalize";

const hash = (identifier, payload) =>
  createHash("sha256").update(`${identifier};${payload}`, "utf8").digest("hex");

for await (const line of createInterface({ input: process.stdin })) {
  const { identifier, input, output } = JSON.parse(line);
  console.log(
    JSON.stringify({
      input: hash(identifier, canonicalize(input)),
      escaped: hash(identifier, JSON.stringify(output).slice(1, -1)),
      raw: hash(identifier, output),
    }),
  );
}
