"""What may be asked, field by field, in OpenAI's form; what is not named here is refused, not ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_CHARACTERS = 100_000
MOST_INPUTS = 2048
MOST_HITS = 1000

Words = Annotated[str, Field(max_length=MOST_CHARACTERS)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(_Asked):
    """A text."""

    type: Literal["text"]
    text: Words


class Address(_Asked):
    """Where a picture is: in the address itself (`data:image/png;base64,...`). Nothing is fetched."""

    url: str
    detail: Literal["auto", "low", "high"] = Field(
        default="auto", description="Makes no difference."
    )


class ImagePart(_Asked):
    """A picture."""

    type: Literal["image_url"]
    image_url: Address


class Recording(_Asked):
    """A recording."""

    data: str = Field(description="The file, in base64.")
    format: Literal["wav", "mp3", "flac", "ogg"] = Field(description="Found out by content.")


class AudioPart(_Asked):
    """A recording."""

    type: Literal["input_audio"]
    input_audio: Recording


Part = Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]
Parts = Annotated[list[Part], Field(min_length=1, max_length=8)]
Question = Words | Part | Parts
"""A text, a picture or a recording; of several parts, what is like all of them."""


class EmbeddingsRequest(_Asked):
    """What is to be embedded."""

    model: str
    input: Annotated[
        Words | Part | Annotated[list[Question], Field(min_length=1, max_length=MOST_INPUTS)],
        Field(
            description="A text, or a list; what is a list in it gets one vector for all its parts."
        ),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = Field(default=None, description="Makes no difference.")


class Message(_Asked):
    """What one says."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Words | Annotated[list[Part], Field(min_length=1, max_length=64)]
    name: str | None = Field(default=None, description="Makes no difference.")


class StreamOptions(_Asked):
    """What is sent beside words."""

    include_usage: bool = False


class ChatRequest(_Asked):
    """A conversation, and how it is answered."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    stop: (
        Annotated[str, Field(min_length=1, max_length=100)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=4)]
        | None
    ) = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    user: str | None = Field(default=None, description="Makes no difference.")


class SearchRequest(_Asked):
    """What is looked for in an index."""

    index: str | None = Field(
        default=None, description="Its name; not needed if there is only one."
    )
    input: Annotated[Question, Field(description="Of several parts, what is like all of them.")]
    mode: Literal["vector", "text", "hybrid"] = "vector"
    where: Annotated[str, Field(max_length=10_000)] | None = Field(
        default=None, description="Which rows come into question: price < 10 and kind = 'cat'."
    )
    fields: Annotated[list[str], Field(max_length=100)] = Field(
        default=[], description="Whose vectors are compared; all, if none is named."
    )
    limit: Annotated[int, Field(ge=1, le=MOST_HITS)] = 10
    pictures: bool = Field(default=False, description="With small pictures, as data addresses.")


class _Answered(BaseModel):
    pass


class Usage(_Answered):
    """How many tokens were read, and written."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class Embedded(_Answered):
    """The vector of an input, or its float32 numbers, little-endian, in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(_Answered):
    """Unit vectors, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedded]
    model: str
    usage: Usage


class Answer(_Answered):
    """What the assistant says."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(_Answered):
    """The one answer."""

    index: Literal[0] = 0
    message: Answer
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatAnswer(_Answered):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Found(_Answered):
    """A row that was found."""

    place: int
    key: str
    score: float
    field: str | None
    ranks: dict[str, int]
    values: dict[str, Any]
    text: str
    picture: str | None = None


class SearchAnswer(_Answered):
    """Rows, the best first."""

    object: Literal["list"] = "list"
    index: str
    data: list[Found]
    warnings: list[str]


class ServedModel(_Answered):
    """A model or an index."""

    id: str
    object: Literal["model", "index"]
    created: int
    owned_by: Literal["sensorium"] = "sensorium"
    system: str
    can: list[str] = Field(description="embeddings, chat, or search.")
    reads: list[str] = Field(description="Modalities.")


class ModelsAnswer(_Answered):
    """All that is served."""

    object: Literal["list"] = "list"
    data: list[ServedModel]


class ReportsAnswer(_Answered):
    """Names of runs and comparisons."""

    object: Literal["list"] = "list"
    data: list[str]


class Health(_Answered):
    """That it answers."""

    status: Literal["ok"] = "ok"


class Problem(_Answered):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ProblemAnswer(_Answered):
    """An error, in OpenAI's form."""

    error: Problem
