# A time as `date -d` takes it -> seconds since 1970, or null if it is none.
#
# Parsed during evaluation, so that mistakes are found before anything is built, and a time means
# the same on every machine: without a zone, it is in UTC. Accepts seconds, and dates and times in
# digits (ISO 8601, flakes' lastModifiedDate, the output of `date` with -I or --rfc-3339), but no
# names of months, and nothing relative, such as "yesterday".
#
#   "@1700000000"  "20240506"  "2024-05-06 07:08:09 +0200"  "2024-05-06T07:08:09.5Z"
text:
let
  inherit (builtins) elemAt head match;

  # A number from digits; JSON allows no leading zeros.
  toNumber = digits: if digits == null then 0 else builtins.fromJSON (head (match "0*([0-9]+)" digits));

  date = "([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})";
  time = "([0-9]{1,2}):([0-9]{1,2})(:([0-9]{1,2})([.,][0-9]+)?)?";
  offset = "([+-])([0-9]{2}):?([0-9]{2})?";
  # 20240506 and 20240506070809 are written like the other dates.
  compact = match "([0-9]{4})([0-9]{2})([0-9]{2})(([0-9]{2})([0-9]{2})([0-9]{2}))?(( |Z).*)?" text;
  part = elemAt compact;
  dashed =
    if compact == null then
      text
    else
      "${part 0}-${part 1}-${part 2}"
      + (if part 3 == null then "" else " ${part 4}:${part 5}:${part 6}")
      + (if part 7 == null then "" else part 7);

  seconds = match "@([0-9]{1,12})" text;
  fields = match "${date}([ T]+${time})?( *(Z|UTC|${offset}))?" dashed;
  field = n: toNumber (elemAt fields n);
  year = field 0;
  month = field 1;
  day = field 2;
  hour = field 4;
  minute = field 5;
  second = field 7;
  isAhead = elemAt fields 11 == "+";
  offsetHours = field 12;
  offsetMinutes = field 13;

  # Days since 1970-01-01. A year begins in March here, so that the leap day is its last; the months
  # from there are 153 days in five.
  daysTo =
    year: month: day:
    let
      years = if month > 2 then year else year - 1;
      months = if month > 2 then month - 3 else month + 9;
    in
    365 * years + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + day - 719469;

  isInCalendar =
    month >= 1
    && month <= 12
    && day >= 1
    && day <= daysTo year (month + 1) 1 - daysTo year month 1
    && hour <= 23
    && minute <= 59
    && second <= 59
    && offsetHours * 60 + offsetMinutes <= 24 * 60
    && offsetMinutes <= 59
    # `date` reads digits after a day as a time, not as a zone.
    && (elemAt fields 3 != null || elemAt fields 11 == null);
  local = ((daysTo year month day * 24 + hour) * 60 + minute) * 60 + second;
  ahead = (offsetHours * 60 + offsetMinutes) * 60;
  result =
    if seconds != null then
      toNumber (head seconds)
    else if fields != null && isInCalendar then
      (if isAhead then local - ahead else local + ahead)
    else
      null;
in
# From 1970 to 9999: archives have no time before, RFC 3339 none after.
if result != null && result >= 0 && result <= 253402300799 then result else null
