"""What schemathesis cannot know of the server: whose tokens to use, and which things exist."""

import itertools
import json
import os

import schemathesis
from schemathesis import GenerationMode

# Each person and each appliance has so much room; whoever asks next is somebody else.
TOKENS = itertools.cycle(os.environ["MALACHOR_TOKENS"].split())
CERTIFICATES = itertools.cycle(os.environ["MALACHOR_CERTIFICATES"].split())
SITE, APPLIANCE = os.environ["MALACHOR_SPARE"].split("/")
REQUESTS = iter(os.environ["MALACHOR_REQUESTS"].split())
TURNS = itertools.count()


@schemathesis.auth(refresh_interval=None)
class Tokens:
    def get(self, case, ctx):
        return next(TOKENS)

    def set(self, case, data, ctx):
        case.headers = case.headers or {}
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.serializer("application/vnd.malachor.evidence")
def evidence(ctx, value):
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Nobody waits long for an order; and every other valid call is about something that is there."""
    certificate = next(CERTIFICATES)
    kwargs["cert"] = (f"{certificate}.pem", f"{certificate}.key")
    query, path = case.query or {}, case.path_parameters or {}
    if str(query.get("wait", "")).isdigit() and int(query["wait"]) <= 50:
        query["wait"] = 1
    valid = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    if not valid or next(TURNS) % 2:
        return
    if "appliance" in path:
        path["site"], path["appliance"] = SITE, APPLIANCE
    if case.operation.path.endswith("/decision"):
        path["id"] = next(REQUESTS, path["id"])
    if case.operation.path == "/api/orders" and isinstance(case.body, dict):
        case.body["target"] = [f"{SITE}/{APPLIANCE}"]
