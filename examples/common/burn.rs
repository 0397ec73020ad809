//! CPU work that takes about as long on any machine, in debug and in release.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Blurs pixels, or whatever numbers they are, in place.
pub(crate) fn smooth(pixels: &mut [u8], passes: usize) {
    for _ in 0..passes {
        for at in 1..pixels.len() {
            pixels[at] = pixels[at - 1] / 2 + pixels[at] / 2;
        }
        black_box(&mut *pixels);
    }
}

/// Something to work on.
pub(crate) fn sample() -> Vec<u8> {
    (0..4096_u32).map(|at| at.to_le_bytes()[0]).collect()
}

pub(crate) fn smooth_sample(passes: usize) {
    smooth(&mut sample(), passes);
}

/// How many units of work take the time wished for, judged by short trials.
pub(crate) fn units(wish: Duration, work: impl Fn(usize)) -> usize {
    const TRIAL: Duration = Duration::from_millis(1);
    let trial = |units| (units, fastest(|| work(units)));
    let mut trials = (0..30).map(|doublings| trial(1 << doublings));
    let (units, took) = trials.find(|(_, took)| *took >= TRIAL).unwrap_or((1, wish));
    (units as f64 * wish.as_secs_f64() / took.as_secs_f64()).ceil() as usize
}

/// Of several tries: on a busy machine most look longer than they are, but one of a millisecond or two often goes undisturbed.
fn fastest(work: impl Fn()) -> Duration {
    let timed = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..12).map(timed).min().unwrap_or_default()
}
