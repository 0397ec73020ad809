//! Instructions per request, per further poll and per body frame.

use crate::Result;
use crate::callgrind;
use crate::report::{self, Table};
use crate::single_step;
use crate::variants::Variant;
use crate::workload::{FRAMES, WAITS, Workload};

/// The instructions of one request of each kind.
struct Counts {
    ready: f64,
    waits: f64,
    stream: f64,
    ready_with_vdso: f64,
    waits_with_vdso: f64,
}

pub fn part() -> Result<()> {
    let mut table = Table::new(&[
        "layer",
        "ready request",
        "over `identity`",
        "per further poll, over `identity`",
        "per streamed frame, over `identity`",
        "with vDSO: ready request, over `identity`",
        "with vDSO: per further poll, over `identity`",
    ]);
    let identity = Counts::measure(Variant::Identity)?;
    for variant in Variant::ALL {
        let counts = Counts::measure(variant)?;
        let over = counts.minus(&identity);
        let each = |all: f64, one: f64, times: usize| format!("{:+.0}", (all - one) / times as f64);
        table.row(&[
            variant.name().to_owned(),
            format!("{:.0}", counts.ready),
            format!("{:+.0}", over.ready),
            each(over.waits, over.ready, WAITS),
            each(over.stream, over.ready, FRAMES - 1),
            format!("{:+.0}", over.ready_with_vdso),
            each(over.waits_with_vdso, over.ready_with_vdso, WAITS),
        ]);
    }
    report::write("instructions", &table.to_string())
}

impl Counts {
    fn measure(variant: Variant) -> Result<Self> {
        Ok(Self {
            ready: callgrind::count(variant, Workload::Ready)?,
            waits: callgrind::count(variant, Workload::Waits)?,
            stream: callgrind::count(variant, Workload::Stream)?,
            ready_with_vdso: single_step::count(variant, Workload::Ready) as f64,
            waits_with_vdso: single_step::count(variant, Workload::Waits) as f64,
        })
    }

    fn minus(&self, base: &Self) -> Self {
        Self {
            ready: self.ready - base.ready,
            waits: self.waits - base.waits,
            stream: self.stream - base.stream,
            ready_with_vdso: self.ready_with_vdso - base.ready_with_vdso,
            waits_with_vdso: self.waits_with_vdso - base.waits_with_vdso,
        }
    }
}
