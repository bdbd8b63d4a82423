// Verifies a licence with jose and prints the features it grants.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { type JSONWebKeySet, createLocalJWKSet, errors, jwtVerify } from "jose";

const TYPE = "entitlements-licence+jwt";
const LEEWAY = 300;

interface Place {
  issuer: string;
  audience?: string;
  machine?: string;
  now: Date;
}

interface Licence {
  sub: string;
  exp: number;
  features: Record<string, unknown>;
  machine?: { id: string };
}

class Refused extends Error {}

/** The claims of a licence that holds at this place and time. */
export async function verify(token: string, jwks: JSONWebKeySet, place: Place): Promise<Licence> {
  const { payload, protectedHeader } = await jwtVerify(token, createLocalJWKSet(jwks), {
    algorithms: ["EdDSA", "Ed25519"],
    typ: TYPE,
    issuer: place.issuer,
    requiredClaims: ["sub", "jti", "iat", "exp", "features"],
    clockTolerance: LEEWAY,
    currentDate: place.now,
  }).catch((error: unknown) => {
    throw new Refused(word(error));
  });
  const now = place.now.getTime() / 1000;
  if (Object.keys(protectedHeader).sort().join() !== "alg,kid,typ") throw new Refused("malformed");
  if (payload.aud !== undefined && payload.aud !== place.audience) throw new Refused("other_audience");
  // The leeway is for clocks that are behind; it does not prolong anything.
  if (payload.exp === undefined || payload.exp <= now) throw new Refused("expired");
  if (payload.iat === undefined || payload.iat > now + LEEWAY) throw new Refused("not_yet_valid");
  const licence = payload as unknown as Licence;
  if (licence.machine !== undefined && licence.machine.id !== place.machine) throw new Refused("other_machine");
  return licence;
}

function word(error: unknown): string {
  if (error instanceof errors.JWSSignatureVerificationFailed) return "bad_signature";
  if (error instanceof errors.JWKSNoMatchingKey) return "unknown_key";
  if (error instanceof errors.JWTExpired) return "expired";
  if (error instanceof errors.JWTClaimValidationFailed) {
    return { iss: "other_issuer", nbf: "not_yet_valid" }[error.claim] ?? "malformed";
  }
  return "malformed";
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    jwks: { type: "string" },
    issuer: { type: "string" },
    audience: { type: "string" },
    machine: { type: "string" },
    at: { type: "string" },
  },
});
const [file] = positionals;
if (values.jwks === undefined || values.issuer === undefined || file === undefined) {
  console.error("usage: verify.js --jwks FILE --issuer NAME [--audience NAME] [--machine=DIGEST] [--at SECONDS] FILE");
  process.exit(2);
}
try {
  const now = values.at === undefined ? new Date() : new Date(Number(values.at) * 1000);
  const jwks = JSON.parse(readFileSync(values.jwks, "utf8")) as JSONWebKeySet;
  const place = { issuer: values.issuer, audience: values.audience, machine: values.machine, now };
  const { features } = await verify(readFileSync(file, "utf8").trim(), jwks, place);
  const sorted = Object.fromEntries(Object.entries(features).sort(([a], [b]) => (a < b ? -1 : 1)));
  console.log(JSON.stringify(sorted));
} catch (error) {
  if (!(error instanceof Refused)) throw error;
  console.error(error.message);
  process.exit(1);
}
