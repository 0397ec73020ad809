//! The value of an option on the command line.

use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// An option's value, still to be understood.
pub(crate) struct Value {
    pub(crate) option: String,
    pub(crate) text: OsString,
}

impl Value {
    pub(crate) fn next(option: &str, rest: &mut impl Iterator<Item = OsString>) -> Result<Self, String> {
        let text = rest.next().ok_or_else(|| format!("{option} needs a value"))?;
        Ok(Self { option: option.to_owned(), text })
    }

    pub(crate) fn number<N: FromStr + PartialOrd + Display>(&self, range: RangeInclusive<N>) -> Result<N, String> {
        let text = self.text.to_string_lossy();
        text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
            format!("{} takes a number from {} to {}, not `{text}`", self.option, range.start(), range.end())
        })
    }
}
