// Signs and verifies with jose, for tests/interop/run: jose.mjs sign KEY ALG TYP PAYLOAD | verify JWK DOCUMENT; all but words are files.

import { readFileSync, writeFileSync } from "node:fs";
import { CompactSign, compactVerify, importJWK } from "jose";

const [command, keyFile, ...rest] = process.argv.slice(2);
const jwk = JSON.parse(readFileSync(keyFile, "utf8"));

if (command === "sign") {
  const [alg, typ, payload, output] = rest;
  const key = await importJWK(jwk, alg);
  const document = await new CompactSign(readFileSync(payload)).setProtectedHeader({ alg, kid: jwk.kid, typ }).sign(key);
  writeFileSync(output, document);
} else {
  const [document] = rest;
  const { payload } = await compactVerify(readFileSync(document, "utf8").trim(), await importJWK(jwk, "EdDSA"), {
    algorithms: ["EdDSA"],
  });
  process.stdout.write(payload);
}
