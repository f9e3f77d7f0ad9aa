"""Copies of a day, each after the one before, from processes of their own: how a small day becomes millions of spans."""

from typing import NamedTuple

from synthetic.spans import Span, Value
from vtprof_schemas import names

_MASK = 2**64 - 1


class Copy(NamedTuple):
    """What is added to the times of a copy, and what its ids are mixed with; number 0 is the day itself."""

    number: int
    shift_ns: int

    @property
    def key(self) -> int:
        """Return what each half of an id is XORed with."""
        return (self.number * 0x9E3779B97F4A7C15) & _MASK

    def attributes(self, span: Span) -> dict[str, Value]:
        """Return a span's attributes in this copy."""
        if not self.number or names.REQUEST_ID not in span.attributes:
            return span.attributes
        return {**span.attributes, names.REQUEST_ID: f"{self.number}-{span.attributes[names.REQUEST_ID]}"}


def copied_resource(resource: dict[str, Value], copy: Copy) -> dict[str, Value]:
    """Return the resource of a copy: another process on the same host."""
    if not copy.number or names.SERVICE_INSTANCE_ID not in resource:
        return resource
    return {**resource, names.SERVICE_INSTANCE_ID: f"{resource[names.SERVICE_INSTANCE_ID]}-{copy.number}"}


def copies_of(spans: list[Span], count: int) -> list[Copy]:
    """Return so many copies, a second between the end of one and the begin of the next."""
    if not spans:
        return [Copy(0, 0)]
    period_ns = max(span.end_ns for span in spans) - min(span.start_ns for span in spans) + 10**9
    return [Copy(number, number * period_ns) for number in range(count)]
