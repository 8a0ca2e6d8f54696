//! The date that `strftime_now` gives a chat template: a fixed one, in Python's `strftime` formats.
//!
//! Boundary: a date and its text. Whether a template has a date at all is the user's choice (`--template-date`): today's
//! would change token ids at midnight.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A day, `YYYY-MM-DD`; its time is midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateDate(Date);

impl TemplateDate {
    /// What Python's `datetime(year, month, day).strftime(format)` gives in the C locale.
    ///
    /// # Errors
    /// The library's words, where a format is beyond it.
    pub fn strftime(self, format: &str) -> Result<String, String> {
        // A day alone has no time zone, and jiff counts the digits of a fraction differently.
        let format = replaced(format, |directive| match directive {
            'z' | 'Z' => Some(""),
            'f' => Some("000000"),
            _ => None,
        });
        // As in glibc, what is no directive stays as it is.
        let config = Config::new().custom(PosixCustom::new()).lenient(true);
        let time = BrokenDownTime::from(self.0.at(0, 0, 0, 0));
        time.to_string_with_config(&config, &format).map_err(|error| error.to_string())
    }
}

/// A format with some of its directives (the letter after `%`) replaced by text.
fn replaced(format: &str, by: impl Fn(char) -> Option<&'static str>) -> String {
    let mut output = String::with_capacity(format.len());
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            output.push(character);
            continue;
        }
        match rest.next() {
            Some(directive) => match by(directive) {
                Some(text) => output.push_str(text),
                None => output.extend(['%', directive]),
            },
            None => output.push('%'),
        }
    }
    output
}

impl FromStr for TemplateDate {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        // Stricter than jiff, which takes a time with the date and leaves it out.
        let shape = typed.len() == 10 && typed.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let date = typed.parse().ok().filter(|_| shape);
        date.map(Self).ok_or_else(|| format!("{typed:?} is no date; write it as YYYY-MM-DD, like 2024-07-26"))
    }
}

impl fmt::Display for TemplateDate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Serialize for TemplateDate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TemplateDate {
    /// A string, or TOML's own kind of date, which it is natural to write into a configuration file.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let typed = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(typed) => typed,
            toml::Value::Datetime(date) => date.to_string(),
            other => other.to_string(),
        };
        typed.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts are CPython 3.11's in the C locale: `datetime(2024, 7, 6).strftime(format)`.
    #[test]
    fn formats_are_pythons() {
        let date: TemplateDate = "2024-07-06".parse().unwrap();
        for (format, expected) in [
            ("%d %b %Y", "06 Jul 2024"),
            ("%Y-%m-%d", "2024-07-06"),
            ("%A, %B %d, %Y", "Saturday, July 06, 2024"),
            ("%a %-d.%-m.%y", "Sat 6.7.24"),
            ("%e|%j|%U|%W|%V|%G|%u|%w|%C", " 6|188|26|27|27|2024|6|6|20"),
            ("%H:%M:%S %I %p", "00:00:00 12 AM"),
            ("%c", "Sat Jul  6 00:00:00 2024"),
            ("%x %X %D %F %T %R", "07/06/24 00:00:00 07/06/24 2024-07-06 00:00:00 00:00"),
            ("%f[%z][%Z]", "000000[][]"),
            ("100%% é %h%n%t", "100% é Jul\n\t"),
        ] {
            assert_eq!(date.strftime(format).as_deref(), Ok(expected), "{format}");
        }
    }

    #[test]
    fn only_a_day_is_a_date() {
        for typed in ["2024-02-29", "0001-01-01", "9999-12-31"] {
            assert_eq!(typed.parse::<TemplateDate>().map(|date| date.to_string()).as_deref(), Ok(typed));
        }
        for typed in ["", "2023-02-29", "2024-7-6", "06.07.2024", "2024-07-06T10:00", "20240706", "today"] {
            assert!(typed.parse::<TemplateDate>().is_err(), "{typed}");
        }
    }
}
