//! The stacks that were captured of each poll, until the poll has been reported.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::os::Syscall;
use crate::shard::PollId;
use crate::stacks::{CaptureFailure, ThreadRole};
use crate::stall::{Frame, Location};

/// One symbolized stack of a poll.
#[derive(Clone, Debug)]
pub(crate) struct StackSample {
    /// The age of the poll when the stack was captured, in ticks.
    pub(crate) age: u64,
    /// The system call that the thread was blocked in; `None` if it was running.
    pub(crate) blocked_in: Option<Syscall>,
    pub(crate) role: ThreadRole,
    /// Why it shows no line of the application.
    pub(crate) missing: Option<CaptureFailure>,
    /// What the file descriptor of the system call refers to.
    pub(crate) fd_target: Option<Arc<str>>,
    /// The function inside which the thread was running in the kernel.
    pub(crate) kernel_call: Option<Arc<str>>,
    pub(crate) frames: Arc<[Frame]>,
}

impl StackSample {
    /// Returns the line of the innermost application frame.
    pub(crate) fn location(&self) -> Option<&Location> {
        self.frames.iter().find(|frame| frame.is_application())?.location()
    }
}

/// The samples of each poll, in the order in which the polls received their latest one.
#[derive(Debug, Default)]
pub(crate) struct StackSamples(VecDeque<(PollId, Vec<StackSample>)>);

impl StackSamples {
    /// The number of polls whose samples are kept.
    const MAX_POLLS: usize = 256;
    /// The number of samples of a poll that are kept: the first ones and the latest ones.
    const MAX_PER_POLL: usize = 32;

    pub(crate) fn push(&mut self, id: PollId, sample: StackSample) {
        let mut samples = self.take(id);
        if samples.len() == Self::MAX_PER_POLL {
            samples.remove(Self::MAX_PER_POLL / 2);
        }
        samples.push(sample);
        if self.0.len() == Self::MAX_POLLS {
            self.0.pop_front();
        }
        self.0.push_back((id, samples));
    }

    pub(crate) fn get(&self, id: PollId) -> &[StackSample] {
        self.0.iter().find(|(other, _)| *other == id).map_or(&[], |(_, samples)| samples)
    }

    pub(crate) fn take(&mut self, id: PollId) -> Vec<StackSample> {
        let index = self.0.iter().position(|(other, _)| *other == id);
        let entry = index.and_then(|index| self.0.remove(index));
        entry.map(|(_, samples)| samples).unwrap_or_default()
    }
}

/// Returns each sample with the time that it represents: from the sample before, or from the start,
/// to its own age; the last one up to the end.
pub(crate) fn weighted(
    samples: &[StackSample],
    end: u64,
) -> impl Iterator<Item = (&StackSample, u64)> {
    let starts = std::iter::once(0).chain(samples.iter().map(|sample| sample.age));
    let last = samples.len().wrapping_sub(1);
    samples.iter().zip(starts).enumerate().map(move |(index, (sample, start))| {
        let until = if index == last { end.max(sample.age) } else { sample.age };
        (sample, until.saturating_sub(start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(age: u64) -> StackSample {
        StackSample {
            age,
            blocked_in: None,
            role: ThreadRole::Unknown,
            missing: None,
            fd_target: None,
            kernel_call: None,
            frames: [].into(),
        }
    }

    #[test]
    fn each_sample_represents_the_time_up_to_it() {
        let samples = [20, 40, 80].map(sample);
        let weights: Vec<_> = weighted(&samples, 100).map(|(_, weight)| weight).collect();
        assert_eq!(weights, [20, 20, 60]);
        assert_eq!(weighted(&[], 100).count(), 0);
    }

    #[test]
    fn the_number_of_polls_is_bounded() {
        let mut samples = StackSamples::default();
        let id = |start| PollId { shard: 1, start };
        for start in 0..1_000 {
            samples.push(id(start), sample(1));
        }
        assert!(samples.get(id(0)).is_empty());
        assert_eq!(samples.get(id(999)).len(), 1);
    }

    #[test]
    fn the_first_and_the_latest_samples_of_a_poll_are_kept() {
        let mut samples = StackSamples::default();
        let id = PollId { shard: 1, start: 5_000 };
        for age in 0..1_000 {
            samples.push(id, sample(age));
        }
        let kept = samples.take(id);
        assert_eq!((kept.len(), kept[0].age, kept[31].age), (32, 0, 999));
        assert!(samples.get(id).is_empty());
    }
}
