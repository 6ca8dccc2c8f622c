"""What the catalog takes and gives over HTTP and in files."""

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from service.product_catalog.models import (
    CODE_LENGTH,
    DESCRIPTION_LENGTH,
    NAME_LENGTH,
    PRICE_DECIMALS,
    PRICE_DIGITS,
)

_CENT: Final = Decimal(1).scaleb(-PRICE_DECIMALS)


def _plain_number(value: object) -> object:
    # Python's Decimal also takes 1_000 and the digits of every script.
    if isinstance(value, str) and not re.fullmatch(r"\s*[+-]?[0-9.]+([eE][+-]?[0-9]+)?\s*", value):
        raise ValueError("Input should be a valid decimal")
    return value


def _to_cents(price: Decimal) -> Decimal:
    # Adding zero turns a negative zero into zero.
    return price.quantize(_CENT) + 0


def _code(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise ValueError(
            "must be letters, digits, '.', '_' or '-', the first one a letter or digit"
        )
    return text


def _line(text: str) -> str:
    # PostgreSQL's text cannot hold NUL, and nobody can read or type the other control characters.
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("must not hold line breaks or other control characters")
    return text


def _lines(text: str) -> str:
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text):
        raise ValueError("must not hold control characters, except line breaks and tabs")
    return text


Code = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=CODE_LENGTH),
    AfterValidator(_code),
]
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=NAME_LENGTH),
    AfterValidator(_line),
]
Description = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=DESCRIPTION_LENGTH),
    AfterValidator(_lines),
]
Price = Annotated[
    Decimal,
    BeforeValidator(_plain_number),
    Field(ge=0, max_digits=PRICE_DIGITS, decimal_places=PRICE_DECIMALS, examples=["19.90"]),
    AfterValidator(_to_cents),
]


class ProductInput(BaseModel):
    """A product as it is created or imported."""

    model_config = ConfigDict(extra="forbid")

    code: Code
    name: Name
    description: Description | None = None
    price: Price


class ProductPatch(BaseModel):
    """The changes to a product: what is left out stays, `null` clears the description."""

    model_config = ConfigDict(extra="forbid")

    # The default is never read: `exclude_unset` drops it. `None` itself is not valid here.
    code: Code = Field(default_factory=str)
    name: Name = Field(default_factory=str)
    description: Description | None = None
    price: Price = Field(default_factory=Decimal)


# The rows of the database become this as they are: see service/database/views.py.
@dataclass(slots=True)
class ProductOutput:
    """A product as it is shown. The price is text, so that no reader rounds it."""

    id: int
    code: str
    name: str
    description: str | None
    price: Decimal
    created_at: datetime
    updated_at: datetime
    # Shown as the ETag.
    version: Annotated[int, Field(exclude=True)]


class ProductPage(BaseModel):
    """Some products, and where the next ones are."""

    model_config = ConfigDict(from_attributes=True)

    items: list[ProductOutput]
    next_cursor: str | None


class ProductSort(StrEnum):
    """The orders that the list offers; a leading minus turns one around."""

    ID = "id"
    ID_DESC = "-id"
    NAME = "name"
    NAME_DESC = "-name"
    PRICE = "price"
    PRICE_DESC = "-price"
    CREATED_AT = "created_at"
    CREATED_AT_DESC = "-created_at"


class ProductQuery(BaseModel):
    """Which products to list, and in which order."""

    model_config = ConfigDict(extra="forbid")

    name_prefix: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=NAME_LENGTH),
            AfterValidator(_line),
        ]
        | None
    ) = Field(None, description="How the name begins, in upper or lower case.")
    min_price: Price | None = Field(None, description="The lowest price, inclusive.")
    max_price: Price | None = Field(None, description="The highest price, inclusive.")
    sort: ProductSort = ProductSort.ID
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, Field(max_length=2000)] | None = Field(
        None, description="`next_cursor` of the page before; keep the other parameters."
    )

    @model_validator(mode="after")
    def _range_is_a_range(self) -> Self:
        if None not in (self.min_price, self.max_price) and self.min_price > self.max_price:  # type: ignore[operator]
            raise ValueError("min_price is above max_price")
        return self
