"""Tokens made by hand, with nothing but the standard library: good ones, and each kind of bad one."""

import base64
import hmac
import json
import time


def segment(value):
    """A part of a token: JSON, or bytes as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parts(token):
    """Header and payload of a token."""
    return [json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2]]


def sign(header, payload, secret, digest="sha256"):
    """A token that is signed as its verifier would."""
    signed = f"{segment(header)}.{segment(payload)}"
    return f"{signed}.{segment(hmac.new(secret, signed.encode(), digest).digest())}"


def without(mapping, *names):
    return {key: value for key, value in mapping.items() if key not in names}


def forgeries(good, secret, addresses_key):
    """Tokens by what is wrong with them, each made from a good one.

    Parameters
    ----------
    good
        A token that counts.
    secret
        Of the key that signed it.
    addresses_key
        Id and secret of the key for addresses.
    """
    header, claims = parts(good)
    now = int(time.time())

    def with_header(**values):
        return sign({**header, **values}, claims, secret)

    def with_claims(**values):
        return sign(header, {**claims, **values}, secret)

    def with_text(old, new):
        return sign(header, json.dumps(claims).replace(old, new).encode(), secret)

    head, body, signature = good.split(".")
    other = sign(header, claims, b"x" * 32)
    return {
        "nothing signed": f"{head}.{body}.",
        "no third part": f"{head}.{body}",
        "alg none, unsigned": f"{segment({**header, 'alg': 'none'})}.{body}.",
        "alg none, signed": with_header(alg="none"),
        "alg None": f"{segment({**header, 'alg': 'None'})}.{body}.",
        "alg missing": sign(without(header, "alg"), claims, secret),
        "alg of another length": sign({**header, "alg": "HS512"}, claims, secret, "sha512"),
        "alg of a public key": with_header(alg="RS256"),
        "alg no text": with_header(alg=["HS256"]),
        "signed by a stranger": other,
        "signature of another token": f"{head}.{segment({**claims, 'sub': 'bob'})}.{signature}",
        "signature cut": good[:-2],
        "key unknown": with_header(kid="0123456789abcdef"),
        "key missing": sign(without(header, "kid"), claims, secret),
        "key no text": with_header(kid=[header["kid"]]),
        "key a path": with_header(kid="../../dev/null"),
        "key of addresses": sign({**header, "kid": addresses_key.id}, claims, addresses_key.secret),
        "critical extension": with_header(crit=["exp"], exp=now),
        "critical b64": sign({**header, "crit": ["b64"], "b64": False}, claims, secret),
        "key in the header": with_header(jwk={"kty": "oct", "k": segment(b"x" * 32)}),
        "key at an address": with_header(jku="http://127.0.0.1/keys"),
        "header no object": sign([header], claims, secret),
        "header deep": f"{segment(b'[' * 2900)}.e30.AA",
        "audience another": with_claims(aud="elsewhere"),
        "audience a list": with_claims(aud=["cryomamba", "elsewhere"]),
        "audience missing": sign(header, without(claims, "aud"), secret),
        "issuer another": with_claims(iss="elsewhere"),
        "issuer a list": with_claims(iss=["cryomamba"]),
        "issuer missing": sign(header, without(claims, "iss"), secret),
        "expired": with_claims(exp=now - 60),
        "expiry missing": sign(header, without(claims, "exp"), secret),
        "expiry a text": with_claims(exp=str(now + 600)),
        "expiry null": with_claims(exp=None),
        "expiry true": with_claims(exp=True),
        "expiry endless": with_text(str(claims["exp"]), "1e999"),
        "expiry no number": with_text(str(claims["exp"]), "NaN"),
        "expiry beyond all calendars": with_claims(exp=10**18),
        "issued in the future": with_claims(iat=now + 600),
        "issued at a text": with_claims(iat=str(now)),
        "issued never": sign(header, without(claims, "iat"), secret),
        "not before tomorrow": with_claims(nbf=now + 86400),
        "subject another": with_claims(sub="bob"),
        "subject missing": sign(header, without(claims, "sub"), secret),
        "subject a number": with_claims(sub=7),
        "subject empty": with_claims(sub=""),
        "id unknown": with_claims(jti="01a21104-ad68-7467-99c5-53d40c5e4961"),
        "id missing": sign(header, without(claims, "jti"), secret),
        "id a list": with_claims(jti=[claims["jti"]]),
        "scope missing": sign(header, without(claims, "scope"), secret),
        "scope a list": with_claims(scope=claims["scope"].split()),
        "scope unknown": with_claims(scope="jobs:read admin"),
        "scopes more than were given": with_claims(scope=f"{claims['scope']} metrics:read"),
        "payload no object": sign(header, [claims], secret),
        "payload no JSON": sign(header, b"{", secret),
        "oversize": with_claims(padding="x" * 4096),
        "something behind": f"{good}.AA",
        "something within": f"{head} {body} {signature}",
        "no base64": "a.b.c",
        "one word": "letmein",
        "other letters": "tökén",
    }
