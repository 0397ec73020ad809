/// How closely the watchdog scans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Active,
    /// The notifier is armed. One more scan follows before the watchdog goes idle.
    Arming,
    Idle,
}

impl Mode {
    /// Returns the next mode. A quiet watchdog goes idle in two steps, because a poll that begins
    /// while the notifier is being armed may not see it.
    pub(super) fn next(self, is_quiet: bool) -> Self {
        match (is_quiet, self) {
            (false, _) => Self::Active,
            (true, Self::Active) => Self::Arming,
            (true, Self::Arming | Self::Idle) => Self::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_watchdog_goes_idle_in_two_steps_and_any_activity_ends_it() {
        use Mode::{Active, Arming, Idle};
        for (from, quiet, busy) in
            [(Active, Arming, Active), (Arming, Idle, Active), (Idle, Idle, Active)]
        {
            assert_eq!((from.next(true), from.next(false)), (quiet, busy));
        }
    }
}
