//! Parsing of numeric options.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use lexopt::Parser;

/// Parses the value of the option `name`, which must be a number in `range`.
pub(crate) fn number<N>(
    parser: &mut Parser,
    name: &str,
    range: RangeInclusive<N>,
) -> Result<N, lexopt::Error>
where
    N: FromStr + PartialOrd + Display,
{
    let value = parser.value()?;
    let parsed = value.to_str().and_then(|text| text.parse().ok());
    parsed.filter(|number| range.contains(number)).ok_or_else(|| {
        let (start, end, value) = (range.start(), range.end(), value.to_string_lossy());
        format!("invalid value '{value}' for option '{name}': expected {start} to {end}").into()
    })
}
