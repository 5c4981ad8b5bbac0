"""When something recurs: cron lines, or every so often, as moments in a time zone. Standard library alone.

What happens when clocks change, as in Vixie cron:

| the line names      | a time that the clock skips             | a time that comes twice |
| ------------------- | --------------------------------------- | ----------------------- |
| hours (``30 2``)    | the moment after the gap, once          | the first one           |
| any hour (``30 *``) | is left out: there is no such half hour | both                    |

Seconds, minutes and hours of ``every`` are elapsed time and know no clocks; days and weeks are like a line that names hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from typing import Protocol
from zoneinfo import ZoneInfo

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS_OF_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_SECONDS = {"second": 1, "minute": 60, "hour": 3_600}
_UNITS = (*_SECONDS, "day", "week")
_DAYS = {"day": 1, "week": 7}
_MOST_DAYS = 3_660
_DAY = timedelta(days=1)
# 29 February comes at least once in so many days, also where a century has none.
_LONGEST_WAIT = 8 * 366
# A Monday: what weeks are counted from, where nothing else is said.
MONDAY = date(1970, 1, 5)


class Rule(Protocol):
    """One way to recur."""

    def times(self, day: date) -> Sequence[time]:
        """The times of a local day, in order."""

    @property
    def names_hours(self) -> bool:
        """Whether it means times of the clock, not every hour."""


@dataclass(frozen=True)
class Cron:
    """A cron line of five fields; where both are restricted, the day of the month or the weekday is enough, as in cron."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    names_hours: bool
    either_day: bool

    def times(self, day: date) -> Sequence[time]:
        if day.month not in self.months:
            return ()
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        if not (in_month or in_week if self.either_day else in_month and in_week):
            return ()
        return [time(hour, minute) for hour in self.hours for minute in self.minutes]


@dataclass(frozen=True)
class Days:
    """Every so many days or weeks, at times of the clock."""

    days: int
    weekdays: frozenset[int]
    at: tuple[time, ...]
    start: date
    names_hours: bool = True

    def times(self, day: date) -> Sequence[time]:
        if day < self.start:
            return ()
        if not self.weekdays:
            return self.at if (day - self.start).days % self.days == 0 else ()
        monday = self.start - timedelta(days=self.start.weekday())
        return self.at if day.weekday() in self.weekdays and (day - monday).days // 7 % (self.days // 7) == 0 else ()


@dataclass(frozen=True)
class Elapsed:
    """Every so many seconds."""

    seconds: int
    start: date | None = None


def parse_cron(line: str) -> Cron:
    """Read a line of five fields (minute, hour, day of the month, month, weekday), or ``@daily`` and the like.

    Raises:
        ValueError: it is none, or no date has what it names.
    """
    fields = _ALIASES.get(line.strip().lower(), line).split()
    if len(fields) != 5:
        raise ValueError(f"{line!r} must have five fields: minute, hour, day of the month, month, weekday, as in 0 6 * * 1")
    minutes = _field(fields[0], "minute", 0, 59)
    hours = _field(fields[1], "hour", 0, 23)
    days = _field(fields[2], "day of the month", 1, 31)
    months = _field(fields[3], "month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)})
    names = {name[:3]: number % 7 for number, name in enumerate(WEEKDAYS, 1)}
    weekdays = {number % 7 for number in _field(fields[4], "weekday", 0, 7, names)}
    either = not fields[2].startswith("*") and not fields[4].startswith("*")
    if not either and not any(day <= _DAYS_OF_MONTH[month - 1] for month in months for day in days):
        raise ValueError(f"{line!r} never comes: none of its months has that day")
    return Cron(
        tuple(sorted(minutes)),
        tuple(sorted(hours)),
        frozenset(days),
        frozenset(months),
        frozenset(weekdays),
        not fields[1].startswith("*"),
        either,
    )


def _field(text: str, what: str, low: int, high: int, names: dict[str, int] | None = None) -> set[int]:
    """The numbers of a field: ``*``, ``5``, ``1-5``, ``*/15``, ``8-18/2`` and lists of them."""

    def number(part: str) -> int:
        value = (names or {}).get(part.lower(), int(part) if part.isdigit() else None)
        if value is None or not low <= value <= high:
            raise ValueError(f"the {what} {part!r} must be {low} to {high}" + (f" or one of {', '.join(names)}" if names else ""))
        return value

    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        if slash and (not step.isdigit() or int(step) < 1):
            raise ValueError(f"the {what} {part!r} must have a number from 1 on after its /")
        if span == "*":
            first, last = low, high
        else:
            begin, dash, end = span.partition("-")
            first = number(begin)
            last = number(end) if dash else high if slash else first
        if last < first:
            raise ValueError(f"the {what} {part!r} must not end before it begins")
        found.update(range(first, last + 1, int(step) if slash else 1))
    return found


def parse_every(text: str, on: Sequence[str] = (), at: Sequence[str] = (), start: date | None = None) -> Days | Elapsed:
    """Read ``week``, ``2 weeks``, ``day``, ``30 minutes`` and the like.

    Args:
        text: how often.
        on: weekdays, for weeks; default: the weekday of ``start``.
        at: times of the day such as 06:00, for days and weeks; default: midnight.
        start: the first day, and what is counted from; default: a Monday long ago.

    Raises:
        ValueError: one of them is wrong.
    """
    found = re.fullmatch(rf"\s*(?:(\d{{1,12}})\s+)?({'|'.join(_UNITS)})s?\s*", text)
    if found is None or (found[1] is not None and int(found[1]) < 1):
        raise ValueError(f"every: got {text!r}; expected a number of {', '.join(unit + 's' for unit in _UNITS)}, as in 2 weeks")
    count, unit = int(found[1] or 1), found[2]
    if count * (_SECONDS[unit] / 86_400 if unit in _SECONDS else _DAYS[unit]) > _MOST_DAYS:
        raise ValueError(f"every: got {text!r}; expected at most {_MOST_DAYS} days")
    if on and unit != "week":
        raise ValueError("on: belongs to weeks, as in every: week, on: [monday]")
    if unit in _SECONDS:
        if at:
            raise ValueError("at: belongs to days and weeks, as in every: day, at: 06:00")
        return Elapsed(count * _SECONDS[unit], start)
    first = start or MONDAY
    weekdays = frozenset(_weekday(name) for name in on) or frozenset({first.weekday()})
    times = tuple(sorted({_time(one) for one in at})) or (time(0),)
    return Days(count * 7, weekdays, times, first) if unit == "week" else Days(count, frozenset(), times, first)


def _weekday(name: str) -> int:
    for number, weekday in enumerate(WEEKDAYS):
        if name.lower() in (weekday, weekday[:3]):
            return number
    raise ValueError(f"on: got {name!r}; expected weekdays such as monday or mon")


def _time(text: str) -> time:
    if not re.fullmatch(r"\d{1,2}:\d{2}", text) or int(text.split(":")[0]) > 23 or int(text.split(":")[1]) > 59:
        raise ValueError(f"at: got {text!r}; expected a time such as 06:00")
    hour, minute = map(int, text.split(":"))
    return time(hour, minute)


@dataclass(frozen=True)
class Recurrence:
    """Rules in a time zone."""

    rules: tuple[Cron | Days | Elapsed, ...]
    zone: ZoneInfo

    def next(self, after: datetime) -> datetime | None:
        """The first moment later than ``after``, in UTC; None where there is none in years."""
        found = [moment for rule in self.rules if (moment := _next(rule, after, self.zone)) is not None]
        return min(found, default=None)

    def newest(self, after: datetime, until: datetime, count: int) -> list[datetime]:
        """The newest moments later than ``after`` and not later than ``until``, at most ``count``, the oldest first; in UTC."""
        found = {moment for rule in self.rules for moment in _newest(rule, after, until, self.zone, count)}
        return sorted(found)[-count:]


def _next(rule: Cron | Days | Elapsed, after: datetime, zone: ZoneInfo) -> datetime | None:
    if isinstance(rule, Elapsed):
        anchor, step = _anchor(rule, zone), timedelta(seconds=rule.seconds)
        return anchor + max((after - anchor) // step + 1, 0) * step
    day = after.astimezone(zone).date() - _DAY
    if isinstance(rule, Days):
        day = max(day, rule.start)
    for _ in range(_LONGEST_WAIT if isinstance(rule, Cron) else rule.days + 8):
        for moment in _moments(rule, day, zone):
            if moment > after:
                return moment
        day += _DAY
    return None


def _newest(rule: Cron | Days | Elapsed, after: datetime, until: datetime, zone: ZoneInfo, count: int) -> Iterator[datetime]:
    if until <= after:
        return
    if isinstance(rule, Elapsed):
        anchor, step = _anchor(rule, zone), timedelta(seconds=rule.seconds)
        last = (until - anchor) // step
        first = max((after - anchor) // step + 1, 0, last - count + 1)
        yield from (anchor + number * step for number in range(last, first - 1, -1))
        return
    found, day = 0, until.astimezone(zone).date() + _DAY
    while day >= after.astimezone(zone).date() - _DAY and found < count:
        for moment in reversed(_moments(rule, day, zone)):
            if after < moment <= until:
                found += 1
                yield moment
        day -= _DAY


def _anchor(rule: Elapsed, zone: ZoneInfo) -> datetime:
    return datetime.combine(rule.start or date(1970, 1, 1), time(0), zone if rule.start else timezone.utc).astimezone(timezone.utc)


def _moments(rule: Rule, day: date, zone: ZoneInfo) -> list[datetime]:
    """The moments of a local day, in UTC and in order, clocks that change considered."""
    found: set[datetime] = set()
    for one in rule.times(day):
        naive = datetime.combine(day, one)
        first, second = (naive.replace(tzinfo=zone, fold=fold).astimezone(timezone.utc) for fold in (0, 1))
        exists = first.astimezone(zone).replace(tzinfo=None) == naive
        if exists:
            found.add(first)
            if second != first and not rule.names_hours:
                found.add(second)
        elif rule.names_hours:
            found.add(_end_of_gap(second, first, zone))
    return sorted(found)


def _end_of_gap(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The moment between two at which the clock jumps, to the second."""
    offset = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after
