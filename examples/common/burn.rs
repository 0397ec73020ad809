//! CPU-bound work, calibrated to take about as long on any machine and in any build profile.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Blurs pixels in place. Any bytes will do.
pub(crate) fn smooth(pixels: &mut [u8], passes: usize) {
    for _ in 0..passes {
        for at in 1..pixels.len() {
            pixels[at] = pixels[at - 1] / 2 + pixels[at] / 2;
        }
        black_box(&mut *pixels);
    }
}

/// Returns some pixels to blur.
pub(crate) fn sample() -> Vec<u8> {
    (0..4096_u32).map(|at| at.to_le_bytes()[0]).collect()
}

pub(crate) fn smooth_sample(passes: usize) {
    smooth(&mut sample(), passes);
}

/// Returns how many units of work take the target duration, extrapolated from short trials.
pub(crate) fn calibrate(target: Duration, work: impl Fn(usize)) -> usize {
    const TRIAL: Duration = Duration::from_millis(1);
    let trial = |units| (units, fastest(|| work(units)));
    let mut trials = (0..30).map(|doublings| trial(1 << doublings));
    let (units, took) = trials.find(|(_, took)| *took >= TRIAL).unwrap_or((1, target));
    (units as f64 * target.as_secs_f64() / took.as_secs_f64()).ceil() as usize
}

/// Returns the shortest of several runs. A busy machine delays most of them, but a run of a
/// millisecond or two is often undisturbed.
fn fastest(work: impl Fn()) -> Duration {
    let timed = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..12).map(timed).min().unwrap_or_default()
}
