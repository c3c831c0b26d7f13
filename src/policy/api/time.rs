//! Points in time as the API writes them.

use crate::policy::Millis;

/// `2022-06-28T11:15:44.467Z`. `wall` is milliseconds since 1970, UTC.
pub fn iso(wall: Millis) -> String {
    let (days, rest) = (wall / 86_400_000, wall % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1000)
}

/// Year, month and day of a count of days since 1970: Howard Hinnant's `civil_from_days`, whose years begin in March, so that
/// the day that comes and goes is the last of them.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097; // days in 400 years
    let day = days + 719_468; // since March of the year 0
    let of_era = day % ERA;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let calendar = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + day / ERA * 400 + u64::from(calendar <= 2);
    (year, calendar, of_year - (153 * month + 2) / 5 + 1)
}
