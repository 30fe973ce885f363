"""Requests that a machine makes up from the server's own description of itself."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from test_limits import TOKEN

PATHS = {
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/reports"),
    ("GET", "/reports/{name}"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/search"),
    ("POST", "/v1/chat/completions"),
}
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]
SERVED = {"/v1/embeddings": "eye", "/v1/chat/completions": "talker"}

POSSIBLE = {
    "messages": [{"role": "user", "content": "Go on."}],
    "input": "a dog",
    "where": "split = 'test'",
    "fields": ["image"],
}
"""What is right in form may still be no conversation, picture, condition or field."""


@pytest.fixture(scope="module")
def described(strict):
    return schemathesis.openapi.from_url(f"{strict}/openapi.json", headers=TOKEN)


def test_all_paths_are_described_with_what_can_go_wrong(strict):
    description = httpx.get(f"{strict}/openapi.json", headers=TOKEN).json()
    found = {(m.upper(), path) for path, ways in description["paths"].items() for m in ways}
    assert found == PATHS
    for ways in description["paths"].values():
        for way in ways.values():
            assert "422" not in way["responses"] and "4XX" in way["responses"]


# schemathesis draws at random where hypothesis does not know of it
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), sorted(PATHS))
def test_made_up_requests_are_answered_as_described(described, method, path, mode):
    operation = described[path][method]
    statuses = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=20, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    def ask(case):
        body = case.body
        if isinstance(body, dict):
            # of names that are made up, none is served
            for field, name in (("model", SERVED.get(path)), ("index", "scenes.index")):
                if isinstance(body.get(field), str):
                    body[field] = name
            for field in ("max_tokens", "max_completion_tokens"):
                if isinstance(body.get(field), int):
                    body[field] = min(body[field], 3)
            if mode is GenerationMode.POSITIVE:
                body |= {name: value for name, value in POSSIBLE.items() if name in body}
        if mode is GenerationMode.POSITIVE and case.path_parameters:
            case.path_parameters["name"] = "eye"
        response = case.call(headers=TOKEN)
        statuses.add(response.status_code)
        if response.status_code == 413:  # larger than this server takes, wrong as well or not
            assert response.json()["error"]["code"] == "too_large"
            return
        case.validate_response(response, checks=CHECKS)

    try:
        ask()
    except Unsatisfiable:
        assert method == "GET" and mode is GenerationMode.NEGATIVE  # nothing to be wrong about
        return
    assert statuses & ({200} if mode is GenerationMode.POSITIVE else {400, 401, 405})
