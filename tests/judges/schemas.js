// Reads an input schema a line, and writes what the public validator says of it: whether it is
// valid, its first message, and the fields as it keeps them.
import { createInterface } from "node:readline";
import { validateSchemaWithZod } from "masumi-schema-validator-component";

for await (const line of createInterface({ input: process.stdin })) {
  const { valid, errors, parsedSchemas } = validateSchemaWithZod(line);
  console.log(JSON.stringify({ valid, message: errors[0]?.message ?? "", fields: parsedSchemas }));
}
