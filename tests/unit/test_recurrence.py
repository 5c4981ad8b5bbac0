"""When something recurs: cron lines as cron reads them, weeks and days, and what happens when clocks change."""

from __future__ import annotations

from datetime import date, datetime, timezone
from zoneinfo import ZoneInfo

import pytest

from lakescore.recurrence import Recurrence, parse_cron, parse_every

UTC = ZoneInfo("UTC")
VIENNA = ZoneInfo("Europe/Vienna")


def at(text: str, zone: ZoneInfo = UTC) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(timezone.utc)


def upcoming(rule: object, after: str, count: int = 3, zone: ZoneInfo = UTC) -> list[str]:
    """The next moments in local time with the zone's offset."""
    recurrence, moment, found = Recurrence((rule,), zone), at(after, zone), []  # type: ignore[arg-type]
    for _ in range(count):
        following = recurrence.next(moment)
        assert following is not None
        moment = following
        found.append(moment.astimezone(zone).strftime("%Y-%m-%d %H:%M%z").removesuffix("+0000"))
    return found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("*/30 * * * *", ["2026-01-31 06:30", "2026-01-31 07:00", "2026-01-31 07:30"]),
        ("0 6 * * 1", ["2026-02-02 06:00", "2026-02-09 06:00", "2026-02-16 06:00"]),  # 1 is Monday, as in cron
        ("0 6 * * sun", ["2026-02-01 06:00", "2026-02-08 06:00", "2026-02-15 06:00"]),
        ("0 6 * * 7", ["2026-02-01 06:00", "2026-02-08 06:00", "2026-02-15 06:00"]),
        ("15 8-10/2,20 * * *", ["2026-01-31 08:15", "2026-01-31 10:15", "2026-01-31 20:15"]),
        ("0 0 31 * *", ["2026-03-31 00:00", "2026-05-31 00:00", "2026-07-31 00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00", "2036-02-29 00:00"]),
        ("0 0 13 * fri", ["2026-02-06 00:00", "2026-02-13 00:00", "2026-02-20 00:00"]),  # either day, as in cron
        ("0 0 1 jan,jul *", ["2026-07-01 00:00", "2027-01-01 00:00", "2027-07-01 00:00"]),
        ("5/20 12 * * *", ["2026-01-31 12:05", "2026-01-31 12:25", "2026-01-31 12:45"]),
        ("@monthly", ["2026-02-01 00:00", "2026-03-01 00:00", "2026-04-01 00:00"]),
    ],
)
def test_a_cron_line_means_what_cron_means(line: str, found: list[str]) -> None:
    assert upcoming(parse_cron(line), "2026-01-31 06:00") == found


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("* * * *", "'* * * *' must have five fields: minute, hour, day of the month, month, weekday, as in 0 6 * * 1"),
        ("60 * * * *", "the minute '60' must be 0 to 59"),
        ("0 0 * * funday", "the weekday 'funday' must be 0 to 7 or one of mon, tue, wed, thu, fri, sat, sun"),
        ("*/0 * * * *", "the minute '*/0' must have a number from 1 on after its /"),
        ("0 20-8 * * *", "the hour '20-8' must not end before it begins"),
        ("0 0 30 2 *", "'0 0 30 2 *' never comes: none of its months has that day"),
        ("0 0 L * *", "the day of the month 'L' must be 1 to 31"),
    ],
)
def test_a_wrong_cron_line_says_which_field(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"must|never|expected|belongs") as caught:
        parse_cron(line)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("line", "after", "found"),
    [
        # 29 March 2026: 02:00 to 03:00 does not come in Vienna.
        ("30 2 * * *", "2026-03-28 12:00", ["2026-03-29 03:00+0200", "2026-03-30 02:30+0200"]),
        ("0,30 2 * * *", "2026-03-28 12:00", ["2026-03-29 03:00+0200", "2026-03-30 02:00+0200"]),
        ("*/30 * * * *", "2026-03-29 01:20", ["2026-03-29 01:30+0100", "2026-03-29 03:00+0200"]),
        # 25 October 2026: 02:00 to 03:00 comes twice.
        ("30 2 * * *", "2026-10-24 12:00", ["2026-10-25 02:30+0200", "2026-10-26 02:30+0100"]),
        ("30 * * * *", "2026-10-25 01:40", ["2026-10-25 02:30+0200", "2026-10-25 02:30+0100", "2026-10-25 03:30+0100"]),
    ],
)
def test_when_clocks_change_no_tick_is_lost_and_none_comes_twice(line: str, after: str, found: list[str]) -> None:
    assert upcoming(parse_cron(line), after, len(found), VIENNA) == found


def test_a_gap_at_midnight_does_not_lose_the_day() -> None:
    # 24 April 2026: in Cairo 00:00 to 01:00 does not come.
    found = upcoming(parse_cron("0 0 * * *"), "2026-04-23 12:00", 2, ZoneInfo("Africa/Cairo"))

    assert found == ["2026-04-24 01:00+0300", "2026-04-25 00:00+0300"]


@pytest.mark.parametrize(
    ("every", "on", "times", "start", "found"),
    [
        ("week", (), (), None, ["2026-02-02 00:00", "2026-02-09 00:00", "2026-02-16 00:00"]),
        ("week", ("monday", "fri"), ("06:00",), None, ["2026-02-02 06:00", "2026-02-06 06:00", "2026-02-09 06:00"]),
        ("2 weeks", ("saturday",), ("5:30",), date(2026, 1, 21), ["2026-02-07 05:30", "2026-02-21 05:30", "2026-03-07 05:30"]),
        ("week", (), (), date(2026, 2, 4), ["2026-02-04 00:00", "2026-02-11 00:00", "2026-02-18 00:00"]),
        ("day", (), ("18:00", "06:00"), None, ["2026-01-31 18:00", "2026-02-01 06:00", "2026-02-01 18:00"]),
        ("10 days", (), (), date(2026, 1, 1), ["2026-02-10 00:00", "2026-02-20 00:00", "2026-03-02 00:00"]),
        ("90 minutes", (), (), date(2026, 1, 31), ["2026-01-31 07:30", "2026-01-31 09:00", "2026-01-31 10:30"]),
        ("hour", (), (), date(2026, 3, 1), ["2026-03-01 00:00", "2026-03-01 01:00", "2026-03-01 02:00"]),
    ],
)
def test_every_so_often(every: str, on: tuple[str, ...], times: tuple[str, ...], start: date | None, found: list[str]) -> None:
    assert upcoming(parse_every(every, on, times, start), "2026-01-31 06:00") == found


def test_elapsed_time_knows_no_clocks_and_days_do() -> None:
    assert upcoming(parse_every("12 hours"), "2026-03-28 20:00", 2, VIENNA) == ["2026-03-29 01:00+0100", "2026-03-29 14:00+0200"]
    assert upcoming(parse_every("day", at=("13:00",)), "2026-03-28 20:00", 2, VIENNA) == ["2026-03-29 13:00+0200", "2026-03-30 13:00+0200"]


@pytest.mark.parametrize(
    ("every", "on", "times", "message"),
    [
        ("fortnight", (), (), "every: got 'fortnight'; expected a number of seconds, minutes, hours, days, weeks, as in 2 weeks"),
        ("0 days", (), (), "every: got '0 days'; expected a number of seconds, minutes, hours, days, weeks, as in 2 weeks"),
        ("99999999999 days", (), (), "every: got '99999999999 days'; expected at most 3660 days"),
        ("day", ("monday",), (), "on: belongs to weeks, as in every: week, on: [monday]"),
        ("hour", (), ("06:00",), "at: belongs to days and weeks, as in every: day, at: 06:00"),
        ("week", ("mo",), (), "on: got 'mo'; expected weekdays such as monday or mon"),
        ("week", (), ("24:00",), "at: got '24:00'; expected a time such as 06:00"),
    ],
)
def test_a_wrong_recurrence_says_what_is_wrong(every: str, on: tuple[str, ...], times: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=r"must|never|expected|belongs") as caught:
        parse_every(every, on, times)

    assert str(caught.value) == message


@pytest.mark.parametrize("rule", [parse_cron("*/10 * * * *"), parse_every("10 minutes")])
def test_the_newest_of_many_missed_ticks(rule: object) -> None:
    recurrence = Recurrence((rule,), UTC)  # type: ignore[arg-type]

    found = recurrence.newest(at("2020-01-01 00:00"), at("2026-01-31 06:00"), 3)

    assert found == [at("2026-01-31 05:40"), at("2026-01-31 05:50"), at("2026-01-31 06:00")]
    assert recurrence.newest(at("2026-01-31 06:00"), at("2026-01-31 06:09"), 3) == []


def test_several_lines_are_one_schedule_and_a_common_moment_is_one_tick() -> None:
    recurrence = Recurrence((parse_cron("0 6 * * *"), parse_cron("0 6,18 * * mon")), UTC)

    found = recurrence.newest(at("2026-02-02 00:00"), at("2026-02-03 06:00"), 10)

    assert found == [at("2026-02-02 06:00"), at("2026-02-02 18:00"), at("2026-02-03 06:00")]
