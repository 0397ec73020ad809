//! Servers on sockets, over HTTP/1.1 and HTTP/2.

pub mod http1;
pub mod http2;

use crate::Result;
use crate::report;

pub fn part() -> Result<()> {
    let one_worker = http1::table(1)?;
    let two_workers = http1::table(2)?;
    let http2 = http2::table()?;
    report::write(
        "servers",
        &format!("1 worker:\n\n{one_worker}\n2 workers:\n\n{two_workers}\n{http2}"),
    )
}
