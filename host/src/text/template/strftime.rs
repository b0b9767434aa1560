//! `datetime.strftime` of Python, in the C locale.

/// A moment in local time, from seconds since the epoch.
#[derive(Clone, Copy, Debug)]
struct Moment {
    year: i64,
    /// From 1.
    month: usize,
    /// From 1.
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    /// From 0, Sunday.
    weekday: usize,
    /// From 1.
    day_of_year: i64,
}

const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// First and last second that `datetime` holds: the years 1 to 9999.
const RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// `seconds` since the epoch, in local time, by `format`; `None` outside the years 1 to 9999.
///
/// `%-d` leaves the padding out, as glibc does. Unknown codes stay as they are, as there.
pub(super) fn strftime(seconds: i64, format: &str) -> Option<String> {
    let moment = RANGE.contains(&seconds).then(|| Moment::from_epoch(seconds))?;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (flag, code) = match chars.next() {
            Some(flag @ ('-' | '_' | '0' | '^')) => (Some(flag), chars.next()),
            code => (None, code),
        };
        match code.and_then(|code| moment.field(code, seconds)) {
            Some(Field::Text(text)) if flag == Some('^') => out.push_str(&text.to_uppercase()),
            Some(Field::Text(text)) => out.push_str(&text),
            Some(Field::Number { value, width, pad }) => {
                let pad = match flag {
                    Some('_') => ' ',
                    Some('0') => '0',
                    _ => pad,
                };
                let digits = value.to_string();
                let missing = width.saturating_sub(digits.len());
                if flag != Some('-') {
                    out.extend(std::iter::repeat_n(pad, missing));
                }
                out.push_str(&digits);
            }
            None => {
                out.push('%');
                out.extend(flag);
                out.extend(code);
            }
        }
    }
    Some(out)
}

/// What a code stands for.
enum Field {
    Text(String),
    Number { value: i64, width: usize, pad: char },
}

fn padded(value: i64, width: usize) -> Option<Field> {
    Some(Field::Number { value, width, pad: '0' })
}

fn spaced(value: i64) -> Option<Field> {
    Some(Field::Number { value, width: 2, pad: ' ' })
}

impl Moment {
    /// Civil date of a day count: Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    fn from_epoch(seconds: i64) -> Self {
        let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Days since 0000-03-01, in eras of 400 years: the leap day ends such a year.
        let (era, day_of_era) =
            ((days + 719_468).div_euclid(146_097), (days + 719_468).rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * from_march + 2) / 153;
        let day = from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        // March 1 is day 60, or 61 of a leap year; January 1 comes 306 days after it.
        let day_of_year = match month {
            1 | 2 => from_march - 306 + 1,
            _ => from_march + 60 + i64::from(leap),
        };
        Self {
            year,
            month: month as usize,
            day,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
            weekday: (days + 4).rem_euclid(7) as usize, // the epoch was a Thursday
            day_of_year,
        }
    }

    fn field(&self, code: char, seconds: i64) -> Option<Field> {
        let weekday = WEEKDAYS[self.weekday];
        let month = MONTHS[self.month - 1];
        let hour12 = if self.hour % 12 == 0 { 12 } else { self.hour % 12 };
        let half = if self.hour < 12 { "AM" } else { "PM" };
        let composed = |format| strftime(seconds, format).map(Field::Text);
        let text = |text: &str| Some(Field::Text(text.to_owned()));
        match code {
            'Y' => padded(self.year, 1),
            'C' => padded(self.year / 100, 2),
            'y' => padded(self.year % 100, 2),
            'm' => padded(self.month as i64, 2),
            'd' => padded(self.day, 2),
            'e' => spaced(self.day),
            'H' => padded(self.hour, 2),
            'k' => spaced(self.hour),
            'I' => padded(hour12, 2),
            'l' => spaced(hour12),
            'M' => padded(self.minute, 2),
            'S' => padded(self.second, 2),
            'f' => padded(0, 6),
            'j' => padded(self.day_of_year, 3),
            'w' => padded(self.weekday as i64, 1),
            'u' => padded(if self.weekday == 0 { 7 } else { self.weekday as i64 }, 1),
            'U' => padded((self.day_of_year + 6 - self.weekday as i64) / 7, 2),
            'W' => padded((self.day_of_year + 6 - (self.weekday as i64 + 6) % 7) / 7, 2),
            'G' => padded(self.iso_week().0, 1),
            'g' => padded(self.iso_week().0 % 100, 2),
            'V' => padded(self.iso_week().1, 2),
            'A' => text(weekday),
            'a' => text(&weekday[..3]),
            'B' => text(month),
            'b' | 'h' => text(&month[..3]),
            'p' => text(half),
            'P' => text(&half.to_lowercase()),
            // A local time without its zone, as `datetime.now()` is, prints none.
            'Z' | 'z' => text(""),
            'n' => text("\n"),
            't' => text("\t"),
            '%' => text("%"),
            'c' => composed("%a %b %e %H:%M:%S %Y"),
            'x' | 'D' => composed("%m/%d/%y"),
            'X' | 'T' => composed("%H:%M:%S"),
            'R' => composed("%H:%M"),
            'r' => composed("%I:%M:%S %p"),
            'F' => composed("%Y-%m-%d"),
            _ => None,
        }
    }

    /// Year and week by ISO 8601: the week belongs to the year of its Thursday.
    fn iso_week(&self) -> (i64, i64) {
        let from_monday = (self.weekday as i64 + 6) % 7;
        let thursday = self.day_of_year + 3 - from_monday;
        let days =
            |year: i64| 365 + i64::from(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
        let (year, thursday) = if thursday < 1 {
            (self.year - 1, thursday + days(self.year - 1))
        } else if thursday > days(self.year) {
            (self.year + 1, thursday - days(self.year))
        } else {
            (self.year, thursday)
        };
        (year, (thursday + 6) / 7)
    }
}
