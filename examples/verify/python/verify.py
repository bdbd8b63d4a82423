#!/usr/bin/env python3
"""Verifies a licence with PyJWT and prints the features it grants."""

import argparse
import json
import sys
import time

import jwt

TYPE = "entitlements-licence+jwt"
LEEWAY = 300


class Refused(Exception):
    """The word says why."""


def verify(token: str, jwks: dict, issuer: str, audience: str | None, machine: str | None, now: float) -> dict:
    """The claims of a licence that holds here and now."""
    try:
        header = jwt.get_unverified_header(token)
        if header.get("typ") != TYPE or set(header) != {"alg", "kid", "typ"}:
            raise Refused("malformed")
        keys = [key for key in jwks["keys"] if key["kid"] == header["kid"]]
        if not keys:
            raise Refused("unknown_key")
        # The times are judged below: PyJWT knows no other now than the clock's.
        options = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}
        key = jwt.PyJWK(keys[0], algorithm="EdDSA").key
        claims = jwt.decode(token, key, algorithms=["EdDSA"], options=options)
    except jwt.InvalidSignatureError as error:
        raise Refused("bad_signature") from error
    except jwt.PyJWTError as error:
        raise Refused("malformed") from error
    if claims["iss"] != issuer:
        raise Refused("other_issuer")
    if claims.get("aud") is not None and claims["aud"] != audience:
        raise Refused("other_audience")
    bound = claims.get("machine")
    if bound is not None and bound["id"] != machine:
        raise Refused("other_machine")
    if max(claims["iat"], claims.get("nbf", claims["iat"])) > now + LEEWAY:
        raise Refused("not_yet_valid")
    if claims["exp"] <= now:
        raise Refused("expired")
    return claims


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jwks", required=True, help="file with the vendor's public keys")
    parser.add_argument("--issuer", required=True)
    parser.add_argument("--audience")
    parser.add_argument("--machine", help="digest of this machine's identity")
    parser.add_argument("--at", type=float, default=time.time(), help="seconds since 1970")
    parser.add_argument("licence")
    arguments = parser.parse_args()
    with open(arguments.jwks, encoding="utf-8") as file:
        jwks = json.load(file)
    with open(arguments.licence, encoding="utf-8") as file:
        token = file.read().strip()
    try:
        claims = verify(token, jwks, arguments.issuer, arguments.audience, arguments.machine, arguments.at)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    print(json.dumps(claims["features"], separators=(",", ":"), sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
