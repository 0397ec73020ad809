//! The stacks that were taken of each poll, until it has been told of.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cells::Subject;
use crate::os::Call;
use crate::stall::{Frame, Location};

/// One stack of a poll.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// How old the poll was when it was taken, in ticks.
    pub(crate) age: u64,
    /// The system call the thread was asleep in; `None` if it ran.
    pub(crate) asleep_in: Option<Call>,
    pub(crate) handed_off: bool,
    pub(crate) lacks_lines: bool,
    /// What the system call waited for.
    pub(crate) descriptor: Option<Arc<str>>,
    pub(crate) frames: Arc<[Frame]>,
}

impl Sample {
    /// Where the application's code is in it.
    pub(crate) fn place(&self) -> Option<&Location> {
        self.frames.iter().find(|frame| frame.is_application())?.location()
    }
}

/// The polls that have stacks, the one that got its last stack longest ago first.
#[derive(Debug, Default)]
pub(crate) struct Samples(VecDeque<(Subject, Vec<Sample>)>);

impl Samples {
    /// Of more polls than that, stacks are not kept.
    const POLLS: usize = 256;
    /// A poll has its first stacks and its last ones.
    const PER_POLL: usize = 32;

    pub(crate) fn add(&mut self, of: Subject, sample: Sample) {
        let mut samples = self.take(of);
        if samples.len() == Self::PER_POLL {
            samples.remove(Self::PER_POLL / 2);
        }
        samples.push(sample);
        if self.0.len() == Self::POLLS {
            self.0.pop_front();
        }
        self.0.push_back((of, samples));
    }

    pub(crate) fn of(&self, of: Subject) -> &[Sample] {
        self.0.iter().find(|(subject, _)| *subject == of).map_or(&[], |(_, samples)| samples)
    }

    pub(crate) fn take(&mut self, of: Subject) -> Vec<Sample> {
        let at = self.0.iter().position(|(subject, _)| *subject == of);
        at.and_then(|at| self.0.remove(at)).map(|(_, samples)| samples).unwrap_or_default()
    }
}

/// Each sample with the time that it stands for: from the one before it, or the start, to itself; the last one up to the end.
pub(crate) fn weighed(samples: &[Sample], end: u64) -> impl Iterator<Item = (&Sample, u64)> {
    let starts = std::iter::once(0).chain(samples.iter().map(|sample| sample.age));
    let count = samples.len();
    samples.iter().zip(starts).enumerate().map(move |(index, (sample, start))| {
        let until = if index + 1 == count { end.max(sample.age) } else { sample.age };
        (sample, until.saturating_sub(start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(age: u64) -> Sample {
        Sample { age, asleep_in: None, handed_off: false, lacks_lines: false, descriptor: None, frames: [].into() }
    }

    #[test]
    fn each_sample_stands_for_the_time_up_to_it() {
        let samples = [20, 40, 80].map(sample);
        let weights: Vec<_> = weighed(&samples, 100).map(|(_, weight)| weight).collect();
        assert_eq!(weights, [20, 20, 60]);
        assert_eq!(weighed(&[], 100).count(), 0);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut samples = Samples::default();
        let of = |start| Subject { lane: 1, start };
        for start in 0..1_000 {
            samples.add(of(start), sample(1));
        }
        assert!(samples.of(of(0)).is_empty());
        assert_eq!(samples.of(of(999)).len(), 1);
        for age in 0..1_000 {
            samples.add(of(5_000), sample(age));
        }
        let kept = samples.take(of(5_000));
        assert_eq!((kept.len(), kept[0].age, kept[31].age), (32, 0, 999));
        assert!(samples.of(of(5_000)).is_empty());
    }
}
