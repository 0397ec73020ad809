/// A pseudo-random sequence (xorshift), the same in each run.
pub(crate) struct Random(u64);

impl Random {
    /// Creates a sequence that differs from those with other numbers.
    pub(crate) fn new(number: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number))
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
